"""Checks of the arguments that the functions of this package share."""

import math
from numbers import Real

from metricjax._core.masked import upcast
from metricjax.evaluation._knn import check_search


def both_sides(function, query, gallery):
    """Both sides as checked arrays of equal width and dtype."""
    query, gallery = check_search(function, query, gallery, other="gallery")
    if query.dtype != gallery.dtype:
        query, gallery = upcast(query), upcast(gallery)
        dtype = max(query.dtype, gallery.dtype, key=lambda dtype: dtype.itemsize)
        query, gallery = query.astype(dtype), gallery.astype(dtype)
    return query, gallery


def check_number(function, name, value, most=math.inf):
    if not isinstance(value, Real) or not 0 <= value <= most or not math.isfinite(value):
        limits = "at least 0 and finite" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"{function}: `{name}` must be a number {limits}, got {value!r}.")
