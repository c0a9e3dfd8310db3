"""Samples by class, and random members of a class."""

import functools
from typing import NamedTuple

import numpy as np

from metricjax.samplers._random import words


class Classes(NamedTuple):
    """The classes in the order of their labels: which samples each has."""

    members: np.ndarray  # [N] samples, those of a class next to each other
    starts: np.ndarray  # [C] where a class begins in them
    sizes: np.ndarray  # [C]


def once(function):
    """`function` of an array, not computed again while the array stays the same."""
    last = None, None

    @functools.wraps(function)
    def remembering(array):
        nonlocal last
        known, result = last
        if known is None or not np.array_equal(known, array):
            result = function(array)
            last = array.copy(), result
        return result

    return remembering


@once
def group(labels):
    _, sizes = np.unique(labels, return_counts=True)
    return Classes(np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes, sizes)


def pick(classes: Classes, which, first, count, *parts):
    """``[..., count]`` samples of the classes `which`, in a random order of each class.

    `parts` say which order; `first`, at which of its places to begin. After the last sample comes
    the first again.
    """
    which, first, *order_of = np.broadcast_arrays(which, first, *parts)
    key, where, back = np.unique(words(*order_of, which), return_index=True, return_inverse=True)
    chosen = which.ravel()[where]  # each class and order once
    sizes = classes.sizes[chosen]
    offset = np.cumsum(sizes) - sizes
    row = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(row)) - offset[row]
    order = np.lexsort((words(key[row], within), row))
    samples = classes.members[classes.starts[chosen[row]] + order - offset[row]]
    back = back.reshape(which.shape)[..., None]
    return samples[offset[back] + (first[..., None] + np.arange(count)) % sizes[back]]
