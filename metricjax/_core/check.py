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


def check_row_by_row(function, x, y):
    check_embeddings(function, "x", x)
    check_embeddings(function, "y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"{function}: `y` must have shape {x.shape} to match `x` row by row, got {y.shape}. To "
            f"compare all with all, call `distance(x, y)`."
        )


def check_rows(function, name, x, of, n, *, class_ids=False):
    """`x`, an array or a pytree of arrays, must have the leading axis of `of`, or be class ids."""
    if class_ids and x is None:
        raise ValueError(f"{function}: `{name}` are needed.")
    for leaf in jax.tree.leaves(x):
        shape = jnp.shape(leaf)
        if shape[:1] != (n,) or (class_ids and len(shape) > 1):
            match = "" if of == name else f" to match `{of}`"
            raise ValueError(f"{function}: `{name}` must have shape [{n}]{match}, got {shape}.")
        if class_ids and not jnp.issubdtype(leaf.dtype, jnp.integer):
            raise TypeError(f"{function}: `{name}` must be integer class ids, got {leaf.dtype}.")


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
