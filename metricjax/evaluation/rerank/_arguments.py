"""Checks of the arguments that the functions of this package share."""

import math
from numbers import Real

import jax.numpy as jnp
from jax.core import Tracer

from metricjax._core.check import check_embeddings
from metricjax._core.masked import upcast


def both_sides(function, query, gallery):
    """Both sides as checked arrays of equal width and dtype."""
    query, gallery = jnp.asarray(query), jnp.asarray(gallery)
    check_embeddings(function, "query", query)
    check_embeddings(function, "gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"{function}: `gallery` must have {query.shape[1]} features to match `query`, "
            f"got {gallery.shape}."
        )
    if query.dtype != gallery.dtype:
        query, gallery = upcast(query), upcast(gallery)
        dtype = max(query.dtype, gallery.dtype, key=lambda dtype: dtype.itemsize)
        query, gallery = query.astype(dtype), gallery.astype(dtype)
    return query, gallery


def check_known(function, name, x):
    if isinstance(x, Tracer):
        raise TypeError(
            f"{function}: `{name}` must have known values, got {x.aval.str_short()} under `jit` or "
            f"another transformation. Call the function outside of it."
        )


def check_number(function, name, value, most=math.inf):
    if not isinstance(value, Real) or not 0 <= value <= most or not math.isfinite(value):
        limits = "at least 0 and finite" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"{function}: `{name}` must be a number {limits}, got {value!r}.")
