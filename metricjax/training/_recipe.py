"""What a training is made of, as far as it can be written down, to notice when it is another.

Functions such as losses and schedules have no name that lasts, so the user's ``about`` says what
they are. Whether the model and the optimizer are the same is seen from the states themselves.
"""

import json
from typing import Any


def recipe_of(score: str | None, mode: str, about: dict[str, Any] | None) -> dict:
    """What is kept beside each state: plain JSON, as it comes back from a file."""
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


def changes(stored: dict, given: dict) -> list[str]:
    """What is different in two recipes, one entry for each name."""
    before, now = _flat(stored), _flat(given)
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return [f"{name} was {_shown(before, name)}, now {_shown(now, name)}" for name in names]


def _flat(recipe):
    return {n: x for n, x in recipe.items() if n != "about"} | {
        f"about[{name!r}]": x for name, x in recipe["about"].items()
    }


def _shown(recipe, name):
    text = repr(recipe[name]) if name in recipe else "missing"
    return text if len(text) < 60 else f"{text[:56]}..."
