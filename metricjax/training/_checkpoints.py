"""States in a folder, by Orbax: each is written whole or not at all.

Written whole is not kept whole: disks lose blocks, copies break off. So the last two states are
kept, and each has what is needed to resume from it alone: its progress, and the best state so far.
A state that cannot be read is passed over, and `fit` renames it: the next state of that step would
be refused otherwise, and a person may still want to look at it.
"""

import itertools
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metricjax._optional import needed
from metricjax.training._step import State, is_key, settled

LOG = logging.getLogger("metricjax")  # warnings, as Python shows nothing else by default

NO_DAMAGE = MemoryError, PermissionError, TimeoutError, ConnectionError, jax.errors.JaxRuntimeError
"""Errors after which a state may still be good: no memory, no rights, no connection. For files that
are cut, changed or missing Orbax raises anything else, a bare `Exception` among others."""


class Progress(NamedTuple):
    """What the evaluations of a training have come to."""

    best_step: int | None = None
    best_score: float | None = None
    since_best: int = 0

    def impatient(self, patience: int | None) -> bool:
        """Whether too many evaluations in a row were not the best."""
        return patience is not None and self.since_best > patience


class Found(NamedTuple):
    """What is resumed from: a state, the progress up to then, its recipe, and what was damaged."""

    state: State
    progress: Progress
    recipe: dict[str, Any]
    damaged: list[Path]


class Checkpoints:
    """The last two states and their best ones, each with the progress up to then and the recipe.

    Args:
        function: the public one, for errors.
        folder: of the states.
        recipe: what is written beside them.
        read_only: nothing is written, renamed or deleted: `fit` may be at work in the folder.
    """

    def __init__(self, function: str, folder: str | os.PathLike, *, recipe=None, read_only=False):
        advice = f"{function}: checkpoints need Orbax: pip install 'metricjax[train]'"
        ocp = needed("orbax.checkpoint", advice)
        self.function, self.folder, self._ocp = function, Path(folder).absolute(), ocp
        options = ocp.CheckpointManagerOptions(
            read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._recipe, self._read_only, self._saved = recipe, read_only, False
        self._bests: dict[int, int | None] = {}  # of each of the last states, the best up to then

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
        about |= {"recipe": self._recipe, "bits": int(_sum_of_bits(state))}
        about |= {"checksum": _checksum(about)}
        items = {"state": args.StandardSave(state), "about": args.JsonSave(about)}
        self._manager.save(int(state.step), args=args.Composite(**items))
        self._bests[int(state.step)] = progress.best_step
        self._saved = True

    def restore(self, like: State, *, best: bool = False) -> Found | None:
        """The last state that can be read, or the best one; ``None`` if there is none.

        Raises:
            ValueError: the states are those of another model, or none of them can be read.
        """
        like = jax.tree.map(settled, like)
        failed: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            about = self._unless_damaged(failed, step, self._about, step)
            if about is None:
                continue
            progress = Progress(**about["progress"])
            self._bests[step] = progress.best_step
            self._check(about["leaves"], like)
            wanted = progress.best_step if best else step
            if wanted is None:
                return None
            state = self._unless_damaged(failed, wanted, self._state, wanted, like)
            if state is not None:
                return Found(state, progress, about["recipe"], self._set_aside(failed))
        if failed:
            raise ValueError(
                f"{self.function}: `folder` must hold a state that can be read, got {self.folder}, "
                f"where those of steps {sorted(failed)} are damaged. Put a copy of them back, or "
                f"give another folder."
            ) from next(iter(failed.values()))
        return None

    def close(self) -> None:
        if self._saved:  # who was refused deletes nothing
            self._tidy()
        self._manager.close()

    def _read(self, step, **items):
        return self._manager.restore(step, args=self._ocp.args.Composite(**items))

    def _about(self, step):
        about = self._read(step, about=self._ocp.args.JsonRestore()).about
        if about.pop("checksum") != _checksum(about):
            raise ValueError("the checksum is another")
        return about

    @staticmethod
    def _unless_damaged(failed, step, read, *args):
        """What is read; ``None``, and the error in `failed`, if it cannot be."""
        try:
            return read(*args)
        except NO_DAMAGE:
            raise
        except Exception as error:
            failed[step] = error
            return None

    def _state(self, step, like):
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        state = self._read(step, state=self._ocp.args.StandardRestore(target)).state
        state = jax.tree.map(_free, state, like)
        if self._about(step)["bits"] != int(_sum_of_bits(state)):
            raise ValueError("bits have changed")
        return state

    def _check(self, stored, like):
        stored, wanted = stored.items(), _described(like).items()
        if stored != wanted:
            raise ValueError(
                f"{self.function}: `folder` must hold states like the one given, with "
                f"{_short(wanted - stored)}, got {self.folder} with {_short(stored - wanted)}. "
                f"Give another folder, or the model and the optimizer of that one."
            )

    def _set_aside(self, failed) -> list[Path]:
        """Renames states that could not be read, unless the folder is another's."""
        paths = [self.folder / str(step) for step in failed]
        if not paths or self._read_only:
            return paths
        if jax.process_count() > 1:  # the others may have read it, or not looked yet
            raise ValueError(
                f"{self.function}: `folder` must hold states that can be read, got {paths[0]}, "
                f"which is damaged. Move it out of the folder and start all processes again."
            ) from failed[int(paths[0].name)]
        renamed = [_unused(path) for path in paths]
        for path, new in zip(paths, renamed, strict=True):
            if path.exists():
                path.rename(new)
            self._bests.pop(int(path.name), None)
        self._manager.reload()
        return renamed

    def _tidy(self):
        """Deletes what is older, now that a later state is there."""
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps())
        last = steps[-2:]
        kept = {*last, *(self._best_of(step) for step in last)}
        for step in steps:
            if step not in kept:
                self._manager.delete(step)

    def _best_of(self, step):
        """The best step up to a state: if it cannot be read now, a later look will say so."""
        if step not in self._bests:
            about = self._unless_damaged({}, step, self._about, step)
            self._bests[step] = about and about["progress"]["best_step"]
        return self._bests[step]


def restore(folder: str | os.PathLike, like: State, *, best: bool = False) -> State:
    """A state that `fit` left in a folder.

    A damaged state is reported and passed over, as in `fit`, but stays where it is: `fit` may be at
    work in the folder.

    Args:
        folder: as in `fit`, which may still be running.
        like: a state with the structure, shapes, dtypes and shardings to restore, such as the one
            that `fit` was given.
        best: the state with the best score, instead of the last one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another shape, or none can be read.
    """
    checkpoints = Checkpoints("training.restore", folder, read_only=True)
    found = checkpoints.restore(like, best=best)
    checkpoints.close()
    if found is None:
        raise FileNotFoundError(
            f"training.restore: `folder` must hold a {'best ' * best}state of `fit`, got {folder}."
        )
    for path in found.damaged:
        LOG.warning(
            "training.restore: %s is damaged; this is the state after step %d.",
            path, int(found.state.step),
        )  # fmt: skip
    return found.state


def _described(state):
    """The dtype and the shape of every leaf, by its path, and the kinds of the optimizer's states.

    Optimizers may have the same leaves and be others, as `optax.adam` and `optax.adamw`.
    """
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    leaves = {name(p): f"{x.dtype}{list(x.shape)}" for p, x in jax.tree.leaves_with_path(state)}
    return leaves | {"opt_state": "+".join(_kinds(state.opt_state))}


def _kinds(opt_state) -> list[str]:
    """The names of the states that an optimizer is made of, in their order."""
    inner = opt_state.values() if isinstance(opt_state, dict) else opt_state
    if not isinstance(opt_state, dict | tuple | list):
        inner = ()
    own = [type(opt_state).__name__] if hasattr(opt_state, "_fields") else []
    return own + [kind for part in inner for kind in _kinds(part)]


def _checksum(about):
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


@jax.jit
def _sum_of_bits(state):
    """A checksum, as Orbax has none for large arrays: a bit that flips on the disk is not noticed.

    A sum of integers is the same on any number of devices, and takes no copy to the host.
    """
    return sum(jnp.sum(_bits(x), dtype=jnp.uint32) for x in jax.tree.leaves(state))


def _bits(x):
    x = jax.random.key_data(x) if is_key(x) else x
    x = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, f"uint{min(32, jnp.finfo(x.dtype).bits)}")


def _short(items):
    """The first of some leaves: an error is to be read."""
    first = dict(sorted(items)[:2])
    more = len(items) - len(first)
    return f"{first}" + (f" and {more} more" if more else "")


def _unused(path):
    """A name for a damaged state, which may not be the first one of its step."""
    names = (path.with_name(f"{path.name}.damaged{n}") for n in itertools.chain([""], range(2, 99)))
    return next(name for name in names if not name.exists())


def _free(x, like):
    """Lets `x` move to other devices with what it is computed with, if `like` may."""
    if like.committed:
        return x
    if is_key(x):
        return jax.random.wrap_key_data(_free(jax.random.key_data(x), like), impl=x.dtype)
    return jnp.asarray(np.asarray(x))
