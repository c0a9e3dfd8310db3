"""Ids and labels: integers or strings."""

import numpy as np


def names(function, name, values) -> np.ndarray:
    """`values` as an array of int64 or of strings."""
    array = np.asarray(values)
    if array.dtype.kind in "OT":  # numpy's own names for objects and for strings of any length
        values = array.tolist()
        array = np.asarray(values)
    if not array.size and array.dtype.kind == "f":  # an empty list
        array = array.astype(np.int64)
    mixed = isinstance(values, list | tuple) and array.ndim == 1 and array.dtype.kind == "U"
    if array.dtype.kind not in "iuU" or mixed and not all(isinstance(v, str) for v in values):
        raise TypeError(f"{function}: `{name}` must be integers or strings, got {array.dtype}.")
    if array.dtype.kind == "U":
        return array
    if array.dtype == np.uint64 and np.any(array > np.iinfo(np.int64).max):
        raise ValueError(f"{function}: `{name}` must be below 2**63, got {array.max()}.")
    return array.astype(np.int64)
