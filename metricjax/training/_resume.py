"""What a training resumes from, and whether it is the same training.

Functions such as losses and schedules have no permanent name, so the user's ``about`` describes
them. The states themselves show whether the model and the optimizer are the same.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp

from metricjax.training._checkpoints import Checkpoints, Progress
from metricjax.training._step import State


def recipe_of(score: str | None, mode: str, about: dict[str, Any] | None) -> dict:
    """Returns what is saved with each state: plain JSON, as it is read back from a file."""
    recipe = {"score": score, "mode": mode, "about": about or {}}
    if about is not None and not isinstance(about, dict):
        raise TypeError(f"training.fit: `about` must be a dict, got {type(about).__name__}.")
    try:
        return json.loads(json.dumps(recipe))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"training.fit: `about` must be a dict of numbers, strings, lists and dicts, got one "
            f"that JSON cannot write: {error}. Give functions by their names."
        ) from error


def begin(
    checkpoints: Checkpoints | None,
    state: State,
    recipe: dict,
    steps: int,
    patience: int | None,
    allow_changes: bool,
) -> tuple[State, Progress, str]:
    """Returns a state to begin with that may be donated, its progress, and what was found."""
    found = None if checkpoints is None else checkpoints.restore(state)
    if checkpoints is None or found is None:
        return jax.tree.map(jnp.copy, state), Progress(), ""
    folder, reached, done = checkpoints.folder, found.progress, int(found.state.step)
    if done > steps:
        raise ValueError(
            f"training.fit: `steps` must be at least {done}, the number that was done in {folder}, "
            f"got {steps}: steps of earlier runs count. Give another `folder`, or read that state "
            f"by `training.restore`."
        )
    changed = _changes(found.recipe, recipe)
    if changed and not allow_changes:
        more = f", and {len(changed) - 2} more" if len(changed) > 2 else ""
        raise ValueError(
            f"training.fit: `folder` must hold the same training, got {folder}, where "
            f"{'; '.join(changed[:2])}{more}. Give another folder, or `allow_changes=True`."
        )
    if any(found.recipe[name] != recipe[name] for name in ("score", "mode")):
        reached = Progress()  # the scores cannot be compared
    over = done == steps or reached.impatient(patience)
    text = f"training.fit: {'has nothing left to do' if over else 'resumes'} after step {done} of "
    text += f"{steps}, the last state in {folder}."
    if reached.best_step is not None:
        text += f" The best score so far is {reached.best_score:.5g}, of step {reached.best_step}."
    if changed:
        text += f" Changed: {'; '.join(changed)}."
    if found.damaged:
        text += f" Damaged states were set aside: {', '.join(map(str, found.damaged))}."
    return found.state, reached, text


def _changes(stored: dict, given: dict) -> list[str]:
    """Returns the differences between two recipes, one entry for each name."""
    before, now = _flat(stored), _flat(given)
    missing = object()  # None is a value
    names = [n for n in before | now if before.get(n, missing) != now.get(n, missing)]
    return [f"{name} was {_shown(before, name)}, now {_shown(now, name)}" for name in names]


def _flat(recipe):
    return {n: x for n, x in recipe.items() if n != "about"} | {
        f"about[{name!r}]": x for name, x in recipe["about"].items()
    }


def _shown(recipe, name):
    text = repr(recipe[name]) if name in recipe else "missing"
    return text if len(text) < 60 else f"{text[:56]}..."
