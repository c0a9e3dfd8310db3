"""Argument checks that the samplers share."""

import math

import numpy as np

from metricjax._core.check import check_at_least


def check_samples(function, name, x, ndim, kind: type = np.integer) -> np.ndarray:
    """Returns `x` as an array of at least one row, a sample each. Class ids may be strings."""
    x = np.asarray(x)
    if x.ndim != ndim or not x.shape[0]:
        shape = "[N]" if ndim == 1 else "[N, levels]"
        raise ValueError(f"{function}: `{name}` must have shape {shape}, N >= 1, got {x.shape}.")
    if kind is np.integer and x.dtype.kind in "UOS" and all(isinstance(v, str) for v in x.flat):
        columns = x.astype(str).reshape(len(x), -1).T
        codes = [np.unique(column, return_inverse=True)[1] for column in columns]
        x = np.stack(codes, -1).reshape(x.shape)
    if not np.issubdtype(x.dtype, kind):
        what = "integer class ids" if kind is np.integer else "numbers"
        raise TypeError(f"{function}: `{name}` must be {what}, got {x.dtype}.")
    return x


def check_multiple(function, name, value, **factors):
    """Checks that `value` is a multiple of the product of `factors`, all integers >= 1."""
    for key, factor in factors.items():
        check_at_least(function, key, factor, 1)
    check_at_least(function, name, value, 1)
    unit = math.prod(factors.values())
    if value % unit:
        of = " * ".join(factors)
        raise ValueError(f"{function}: `{name}` must be a multiple of {of} ({unit}), got {value}.")


def steps_and_part(function, batch_size, seed, step, shard_index, shard_count):
    """Returns `step` as an array of any shape, and the slice of a batch that the shard gets."""
    check_at_least(function, "seed", seed, 0)
    step = np.asarray(step)
    if step.size and (not np.issubdtype(step.dtype, np.integer) or step.min() < 0):
        raise ValueError(f"{function}: `step` must be integers >= 0, got {step}.")
    check_multiple(function, "batch_size", batch_size, shard_count=shard_count)
    check_at_least(function, "shard_index", shard_index, 0)
    if shard_index >= shard_count:
        raise ValueError(
            f"{function}: `shard_index` must be less than `shard_count` ({shard_count}), "
            f"got {shard_index}."
        )
    size = batch_size // shard_count
    return step.astype(np.int64), slice(shard_index * size, (shard_index + 1) * size)
