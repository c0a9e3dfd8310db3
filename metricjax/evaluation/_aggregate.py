"""Averages of per-query values on the host, in float64, and how sure they are."""

import numpy as np


def average(values, weights, classes=None, *, per_class=False):
    """The weighted average of ``values [Q]``; over `classes` first, if given.

    Args:
        values, weights: ``[Q]``.
        classes: ``[Q]`` integers from 0 on.
        per_class: give the average of each class, NaN where it has no weight, and not their mean.
    """
    if classes is None:
        total = weights.sum()
        return float(values @ weights / total) if total else float("nan")
    count = np.bincount(classes, weights)
    total = np.bincount(classes, weights * values)
    means = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    if per_class:
        return means
    return float(means[count > 0].mean()) if (count > 0).any() else float("nan")


def intervals(values, kept, classes, *, per_class, resamples, confidence, seed):
    """The percentile bootstrap of each average of ``{name: [Q]}``, over the queries in `kept`.

    All metrics see the same resamples.
    """
    rows, rng = np.flatnonzero(kept), np.random.default_rng(seed)
    averages = {name: [] for name in values}
    for _ in range(resamples):
        drawn = rng.choice(rows, len(rows)) if len(rows) else rows
        weights = np.bincount(drawn, minlength=len(kept)).astype(float)
        for name, value in values.items():
            averages[name].append(average(value, weights, classes, per_class=per_class))
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    return {name: _quantiles(np.array(x), tails) for name, x in averages.items()}


def _quantiles(samples, tails):
    """Of resamples along the first axis; a class that a resample missed has no say in it."""
    missing = np.isnan(samples).all(0)
    low, high = np.nanquantile(np.where(missing, 0, samples), tails, axis=0)
    pair = np.where(missing, np.nan, low), np.where(missing, np.nan, high)
    return tuple(float(x) if x.ndim == 0 else x for x in pair)
