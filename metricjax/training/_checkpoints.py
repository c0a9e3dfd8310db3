"""States in a folder, by Orbax: each is written whole or not at all."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metricjax._optional import needed
from metricjax.training._step import State, is_key, settled


class Progress(NamedTuple):
    """What the evaluations of a training have come to."""

    best_step: int | None = None
    best_score: float | None = None
    since_best: int = 0


class Checkpoints:
    """The last state and the best one, each with the progress up to then."""

    def __init__(self, function: str, folder: str | os.PathLike, *, read_only: bool = False):
        advice = f"{function}: checkpoints need Orbax: pip install 'metricjax[train]'"
        ocp = needed("orbax.checkpoint", advice)
        self.function, self.folder, self._ocp = function, Path(folder).absolute(), ocp
        options = ocp.CheckpointManagerOptions(
            read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._progress = Progress()

    @property
    def last(self) -> int | None:
        """The step of the last state that is written."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, state: State, progress: Progress) -> None:
        """Goes on in the background once the state is copied."""
        self._tidy()
        args = self._ocp.args
        about = {"progress": progress._asdict(), "leaves": _described(state)}
        items = {"state": args.StandardSave(state), "about": args.JsonSave(about)}
        self._manager.save(int(state.step), args=args.Composite(**items))
        self._progress = progress

    def restore(self, like: State, *, best: bool = False) -> tuple[State, Progress] | None:
        """The last state, or the best; ``None`` if there is none."""
        if self.last is None:
            return None
        args = self._ocp.args
        read = lambda step, **items: self._manager.restore(step, args=args.Composite(**items))
        about = read(self.last, about=args.JsonRestore()).about
        self._progress = Progress(**about["progress"])
        step = self._progress.best_step if best else self.last
        if step is None:
            return None
        like = jax.tree.map(settled, like)
        stored, wanted = about["leaves"].items(), _described(like).items()
        if stored != wanted:
            raise ValueError(
                f"{self.function}: `folder` must hold states like the one given, with "
                f"{dict(sorted(wanted - stored))}, got {self.folder} with "
                f"{dict(sorted(stored - wanted))}. Give another folder, or the model of that one."
            )
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        state = read(step, state=args.StandardRestore(target)).state
        return jax.tree.map(_free, state, like), self._progress

    def close(self) -> None:
        self._tidy()
        self._manager.close()

    def _tidy(self):
        """Deletes what is older, now that a later state is there."""
        for step in self._manager.all_steps():
            if step not in (self.last, self._progress.best_step):
                self._manager.delete(step)


def restore(folder: str | os.PathLike, like: State, *, best: bool = False) -> State:
    """A state that `fit` left in a folder.

    Args:
        folder: as in `fit`, which may still be running.
        like: a state with the structure, shapes, dtypes and shardings to restore, such as the one
            that `fit` was given.
        best: the state with the best score, instead of the last one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another shape.
    """
    checkpoints = Checkpoints("training.restore", folder, read_only=True)
    found = checkpoints.restore(like, best=best)
    checkpoints.close()
    if found is None:
        raise FileNotFoundError(
            f"training.restore: `folder` must hold a {'best ' * best}state of `fit`, got {folder}."
        )
    return found[0]


def _described(state):
    """The dtype and the shape of every leaf, by its path."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(p): f"{x.dtype}{list(x.shape)}" for p, x in jax.tree.leaves_with_path(state)}


def _free(x, like):
    """Lets `x` move to other devices with what it is computed with, if `like` may."""
    if like.committed:
        return x
    if is_key(x):
        return jax.random.wrap_key_data(_free(jax.random.key_data(x), like), impl=x.dtype)
    return jnp.asarray(np.asarray(x))
