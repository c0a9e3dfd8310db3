"""States in a folder, saved by Orbax: each state is written completely or not at all.

A state that was written completely can still be damaged later: disks lose blocks, and copies are
interrupted. So the last two states are kept, and each has what is needed to resume from it alone:
its progress, and the best state so far. A state that cannot be read is skipped, and `fit` renames
it. Otherwise the next state of the same step would be refused. The state is not deleted, because a
person may still want to look at it.
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

LOG = logging.getLogger("metricjax")  # warnings: by default Python shows no lower level

NO_DAMAGE = MemoryError, PermissionError, TimeoutError, ConnectionError, jax.errors.JaxRuntimeError
"""Errors after which a state may still be good: no memory, no permission, no connection. For files
that are truncated, changed or missing, Orbax raises other errors, even a bare `Exception`."""


class Progress(NamedTuple):
    """The result of the evaluations of a training so far."""

    best_step: int | None = None
    best_score: float | None = None
    since_best: int = 0

    def impatient(self, patience: int | None) -> bool:
        """Whether more than `patience` evaluations in a row brought no improvement."""
        return patience is not None and self.since_best > patience


class Found(NamedTuple):
    """What training resumes from: a state, its progress and recipe, and the damaged states."""

    state: State
    progress: Progress
    recipe: dict[str, Any]
    damaged: list[Path]


class Checkpoints:
    """The last two states and their best ones, each with the progress up to it and the recipe.

    Args:
        function: the name of the public function, for errors.
        folder: the folder of the states.
        recipe: what is saved with each state.
        read_only: write, rename and delete nothing, because `fit` may be using the folder.
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
        self._bests: dict[int, int | None] = {}  # for each of the last states, the best so far

    @property
    def last(self) -> int | None:
        """The step of the last state that was written."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, state: State, progress: Progress) -> None:
        """Saves a state; once it is copied, writing continues in the background."""
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
        """Returns the last state that can be read, or the best one; ``None`` if there is none.

        Raises:
            ValueError: if the states are those of another model, or if none of them can be read.
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
        if self._saved:  # a run that was refused deletes nothing
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
        """Returns what `read` returns, or ``None`` if that is damaged; `failed` gets the error."""
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
        """Renames the states that could not be read, unless the folder is read-only."""
        paths = [self.folder / str(step) for step in failed]
        if not paths or self._read_only:
            return paths
        if jax.process_count() > 1:  # others may have read it, or not have looked yet
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
        """Deletes the older states: only the last two and the best up to each of them are kept."""
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps())
        last = steps[-2:]
        kept = {*last, *(self._best_of(step) for step in last)}
        for step in steps:
            if step not in kept:
                self._manager.delete(step)

    def _best_of(self, step):
        """Returns the best step up to a state.

        If the state cannot be read, the result is ``None``, and a later restore reports the damage.
        """
        if step not in self._bests:
            about = self._unless_damaged({}, step, self._about, step)
            self._bests[step] = about and about["progress"]["best_step"]
        return self._bests[step]


def restore(folder: str | os.PathLike, like: State, *, best: bool = False) -> State:
    """Reads a state that `fit` saved in a folder.

    A damaged state is reported and skipped, as in `fit`, but it is not renamed, because `fit` may
    be using the folder.

    Args:
        folder: as in `fit`, which may still be running.
        like: a state with the structure, shapes, dtypes and shardings to restore, such as the state
            that was given to `fit`.
        best: return the state with the best score instead of the last one.

    Raises:
        FileNotFoundError: if there is no state.
        ValueError: if the state does not fit `like`, or if no state can be read.
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
    """Describes the dtype and shape of every leaf by its path, and the kinds of optimizer states.

    Different optimizers may have the same leaves, such as `optax.adam` and `optax.adamw`.
    """
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    leaves = {name(p): f"{x.dtype}{list(x.shape)}" for p, x in jax.tree.leaves_with_path(state)}
    return leaves | {"opt_state": "+".join(_kinds(state.opt_state))}


def _kinds(opt_state) -> list[str]:
    """Returns the class names of the states that make up an optimizer's state, in order."""
    inner = opt_state.values() if isinstance(opt_state, dict) else opt_state
    if not isinstance(opt_state, dict | tuple | list):
        inner = ()
    own = [type(opt_state).__name__] if hasattr(opt_state, "_fields") else []
    return own + [kind for part in inner for kind in _kinds(part)]


def _checksum(about):
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


@jax.jit
def _sum_of_bits(state):
    """Computes a checksum, because Orbax has none for large arrays.

    Without it, a bit that flips on the disk is not noticed. A sum of integers is the same on any
    number of devices, and needs no copy to the host.
    """
    return sum(jnp.sum(_bits(x), dtype=jnp.uint32) for x in jax.tree.leaves(state))


def _bits(x):
    x = jax.random.key_data(x) if is_key(x) else x
    x = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, f"uint{min(32, jnp.finfo(x.dtype).bits)}")


def _short(items):
    """Shows only the first two leaves, so that an error message stays readable."""
    first = dict(sorted(items)[:2])
    more = len(items) - len(first)
    return f"{first}" + (f" and {more} more" if more else "")


def _unused(path):
    """Returns an unused name for a damaged state; its step may have had damaged states before."""
    names = (path.with_name(f"{path.name}.damaged{n}") for n in itertools.chain([""], range(2, 99)))
    return next(name for name in names if not name.exists())


def _free(x, like):
    """Uncommits `x` if `like` is uncommitted, so that it can follow other arrays to devices."""
    if like.committed:
        return x
    if is_key(x):
        return jax.random.wrap_key_data(_free(jax.random.key_data(x), like), impl=x.dtype)
    return jnp.asarray(np.asarray(x))
