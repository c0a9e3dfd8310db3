"""Labels on the host: lists, strings and large integers become codes that JAX can hold.

JAX has 32-bit integers by default and casts larger ones silently: 2**32 becomes 0, and classes
collide. The values of NumPy arrays are known, so they are checked or coded here. The values of a
`jax.Array` have already been cast, or are not known yet under `jit`.

If an array is spread over processes, each process has only a part of its values. `on_every_host`
gathers them, and all processes have to call it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from metricjax._core.check import as_labels


def as_array(labels):
    """Converts a list of labels to an array; a pytree, such as a list of arrays, is unchanged."""
    flat = isinstance(labels, list | tuple) and not any(np.ndim(x) for x in labels)
    return np.asarray(labels) if flat else labels


def on_every_host(x) -> np.ndarray:
    """Converts an array to NumPy; every process gets the values that other processes hold."""
    spread = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    if spread and not x.is_fully_addressable:
        return process_allgather(x, tiled=True)
    return np.asarray(x)


def host_labels(function, name, labels, of, n):
    """Converts labels ``[N]`` to NumPy integers or strings; whole floats become integers."""
    if labels is None:
        raise ValueError(f"{function}: `{name}` are needed.")
    try:
        array = on_every_host(labels)
    except ValueError:
        raise ValueError(
            f"{function}: `{name}` must have shape [{n}] to match `{of}`, got a ragged list."
        ) from None
    if array.dtype.kind in "OT":  # strings of any length: NumPy infers the dtype of a list
        labels = array.tolist()
        array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(
            f"{function}: `{name}` must have shape [{n}] to match `{of}`, got {array.shape}."
        )
    if jnp.issubdtype(array.dtype, jnp.floating):
        exact = 2 / float(jnp.finfo(array.dtype).eps)  # larger whole numbers are rounded
        numbers = array.astype(np.float64)
        if np.all((numbers == np.round(numbers)) & (np.abs(numbers) < exact)):
            array = numbers.astype(np.int64)
    mixed = array.dtype.kind == "U" and not isinstance(labels, np.ndarray)  # [1, "a"] is "1", "a"
    if array.dtype.kind not in "iuU" or (mixed and not all(isinstance(x, str) for x in labels)):
        raise TypeError(
            f"{function}: `{name}` must be integer class ids or strings, got {array.dtype}. "
            f"Code other labels: `np.unique(labels, return_inverse=True)[1]`."
        )
    return array


def coded(labels, others):
    """Codes both sides as integers from 0 on, equal where the labels (or rows of labels) are."""
    both = [labels, others]
    if {x.dtype.kind for x in both} == {"i", "u"}:  # NumPy would cast int64 and uint64 to float64
        both = [x.astype(object) for x in both]
    both = np.concatenate(both)
    axis = 0 if both.ndim > 1 else None
    codes = np.unique(both, axis=axis, return_inverse=True)[1].reshape(-1).astype(np.int32)
    return codes[: len(labels)], codes[len(labels) :]


def coded_sides(function, *sides):
    """Returns the labels of two sides as integers that are equal where the labels are.

    A side is ``(name, labels, of, n)``.
    """
    return coded_alike(function, *((side[0], host_labels(function, *side)) for side in sides))


def coded_alike(function, side, other_side):
    """The same of sides ``(name, labels)`` whose labels `host_labels` has returned."""
    (name, labels), (other, others) = side, other_side
    if (labels.dtype.kind == "U") != (others.dtype.kind == "U"):
        raise TypeError(
            f"{function}: `{other}` must be of the kind of `{name}`, {labels.dtype}, got "
            f"{others.dtype}. Convert one of them."
        )
    return coded(labels, others)


def fits(array):
    """Whether JAX can hold the values: no strings, and no integers beyond its range."""
    if array.dtype.kind not in "iu":
        return array.dtype.kind not in "OSTU"
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
    return not array.size or bool(limits.min <= array.min() and array.max() <= limits.max)


def for_search(function, sides):
    """Converts labels so that JAX can compare them.

    Labels become codes, unless one side is a `jax.Array`. Then both sides keep their values.

    Args:
        sides: ``(name, labels, of, n)`` for the queries and for the references.
    """
    if not any(isinstance(labels, jax.Array) for _, labels, _, _ in sides):
        return coded_sides(function, *sides)
    return tuple(_beside_jax(function, *side) for side in sides)


def _beside_jax(function, name, labels, of, n):
    if not isinstance(labels, jax.Array):
        labels = host_labels(function, name, labels, of, n)
    return as_labels(function, name, labels, of, n, class_ids=True)


def most_matches(labels, others):
    """Returns how many of the others any of the labels has, at most."""
    classes, sizes = np.unique(on_every_host(others), return_counts=True)
    return int(sizes[np.isin(classes, on_every_host(labels))].max(initial=0))
