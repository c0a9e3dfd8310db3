"""Ids and labels on the host: integers or strings."""

import numpy as np


def names(function, name, values) -> np.ndarray:
    """Returns `values` as an array of int64 or of strings."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "OT":  # NumPy's kinds of objects and of strings of any length
            values = array.tolist()
            array = np.asarray(values)
    except ValueError as error:
        raise _wrong(function, name, "rows of unequal lengths") from error
    if not array.size and array.dtype.kind == "f":  # an empty list
        array = array.astype(np.int64)
    if array.dtype.kind in "OUf" and not isinstance(values, np.ndarray):
        entries = np.asarray(values, object).ravel().tolist()
        if all(isinstance(x, int) for x in entries):  # NumPy turns large ones to float or object
            raise _too_large(function, name, max(entries, key=abs))
        if array.dtype.kind != "f":
            array = _strings(function, name, entries).reshape(array.shape)
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind not in "iu":
        unknown = " with NaN" if np.any(array != array) else ""
        raise _wrong(function, name, f"{array.dtype.name}{unknown}")
    if array.dtype == np.uint64 and np.any(array > np.iinfo(np.int64).max):
        raise _too_large(function, name, array.max())
    return array.astype(np.int64)


def column(function, name, values, of, n) -> np.ndarray:
    """Returns the names of `n` rows, one for each row."""
    array = names(function, name, values)
    if array.shape != (n,):
        raise ValueError(
            f"{function}: `{name}` must have shape [{n}] to match `{of}`, got {array.shape}. Give "
            f"one integer or string for each row."
        )
    return array


def _strings(function, name, values):
    """Returns an array of strings. Any other object raises; NumPy would turn it into a string."""
    if not all(isinstance(x, str) for x in values):
        kinds = sorted({type(x).__name__ for x in values})
        raise _wrong(function, name, " and ".join(kinds[:4]))
    if cut := [x for x in values if x.endswith("\0")]:  # NumPy drops these: two names become one
        raise ValueError(
            f"{function}: `{name}` must not end in a zero character, got {cut[0][-20:]!r}. Strip "
            f"these characters or replace them."
        )
    return np.asarray(values, str)


def _too_large(function, name, value):
    return ValueError(
        f"{function}: `{name}` must be from -2**63 to 2**63 - 1, got {value:.4g}. Code them by "
        f"`np.unique(np.asarray(values, object), return_inverse=True)[1]`."
    )


def _wrong(function, name, got):
    return TypeError(
        f"{function}: `{name}` must be integers or strings, got {got}. Leave out rows that have "
        f"none, and code other values by `np.unique(values, return_inverse=True)[1]`."
    )
