"""Trace-time checks. Shapes, dtypes and names only: values are unknown under `jit`."""

import jax
import jax.numpy as jnp
import numpy as np


def check_embeddings(function, name, x):
    if jnp.ndim(x) != 2:
        raise ValueError(
            f"{function}: `{name}` must have shape [N, D], got {jnp.shape(x)}. "
            f"For extra batch axes use `jax.vmap`."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{function}: `{name}` must be floating, got {x.dtype}.")


def check_rows(function, name, x, of, n):
    """`x`, an array or a pytree of arrays, must have the leading axis of `of`."""
    for leaf in jax.tree.leaves(x):
        if jnp.shape(leaf)[:1] != (n,):
            raise ValueError(
                f"{function}: `{name}` must have shape [{n}] to match `{of}`, "
                f"got {jnp.shape(leaf)}."
            )


def check_labels(function, name, labels, of, n):
    """`labels` must be ``[n]`` integers."""
    if labels is None:
        raise ValueError(f"{function}: `{name}` are needed.")
    if jnp.shape(labels) != (n,):
        raise ValueError(
            f"{function}: `{name}` must have shape ({n},) to match `{of}`, got {jnp.shape(labels)}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{function}: `{name}` must be integer class ids, got {labels.dtype}.")


def check_distance(function, distance, allowed):
    if not isinstance(distance, allowed):
        raise TypeError(
            f"{function}: `distance` must be {allowed.__name__}, got {type(distance).__name__}."
        )


def check_choice(function, name, value, allowed):
    if value not in allowed:
        raise ValueError(
            f"{function}: `{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}."
        )


def check_similarity(function, distance):
    if not distance.is_similarity:
        raise TypeError(
            f"{function}: `distance` must be a similarity, got {type(distance).__name__}."
        )


def check_at_least(function, name, value, low):
    """`value` is static: an integer, of Python or NumPy, of at least `low`."""
    if not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{function}: `{name}` must be an integer >= {low}, got {value!r}.")


def check_euclidean(function, distance, *, any_power=False):
    """The loss is defined for the Euclidean distance of unit vectors (to any power)."""
    plain = type(distance).__name__ == "LpDistance" and distance.p == 2
    if not (plain and distance.normalize_embeddings and (any_power or distance.power == 1)):
        power = "" if any_power else "power=1, "
        raise TypeError(
            f"{function}: `distance` must be LpDistance(p=2, {power}normalize_embeddings=True), "
            f"got {distance}."
        )
