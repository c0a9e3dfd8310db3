"""Averages of per-query values on the host, in float64, and their confidence intervals."""

import numpy as np

from metricjax._core.check import check_rows
from metricjax.evaluation._labels import host_labels


def mean_over_queries(values, relevant=None, labels=None, *, per_class=False):
    r"""Averages a metric over the queries that at least one reference matches.

    .. math:: \frac{\sum_i [R_i > 0] \, v_i}{\sum_i [R_i > 0]}

    A query that no reference matches is called lone. Lone queries are left out, whatever their
    value, as in `AccuracyCalculator` and in re-identification. Some benchmarks count them. Then
    leave out `relevant`: each query counts with its value. The metrics of this package are 0 for
    lone queries.

    Example:
        >>> import numpy as np
        >>> from metricjax.evaluation import mean_over_queries
        >>> values, relevant = np.array([1.0, 0.5, 0.0, 0.0]), np.array([2, 1, 0, 1])
        >>> print(mean_over_queries(values, relevant))  # the third query is lone
        0.5
        >>> print(mean_over_queries(values))  # the third query counts as 0
        0.375
        >>> print(mean_over_queries(values, relevant, ["a", "a", "b", "b"]))
        0.375
        >>> print(mean_over_queries(values, relevant, ["a", "a", "b", "b"], per_class=True))
        [0.75 0.  ]

    Args:
        values: ``[Q]``, the value of the metric for each query.
        relevant: ``[Q]``, how many references match each query. By default all queries count.
        labels: ``[Q]`` integers or strings, the labels of the queries. With labels, the mean is
            taken within each class first, then over the classes.
        per_class: return the average of each class, ``[C]`` in ascending order of the labels. A
            class that has only lone queries is NaN.

    Returns:
        A float, or an array ``[C]`` with `per_class`. Both are computed in float64, and are NaN if
        all queries are left out.

    Raises:
        ValueError: for mismatched shapes, or for `per_class` without `labels`.
        TypeError: if labels are neither integers nor strings.
    """
    name = "evaluation.mean_over_queries"
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name}: `values` must have shape [Q], got {values.shape}.")
    relevant = None if relevant is None else np.asarray(relevant)
    check_rows(name, "relevant", relevant, "values", len(values))
    codes = None
    if labels is not None:
        labels = host_labels(name, "labels", labels, "values", len(values))
        codes = np.unique(labels, return_inverse=True)[1]
    elif per_class:
        raise ValueError(f"{name}: `labels` must be given for `per_class`, got None.")
    kept = np.ones(len(values), bool) if relevant is None else relevant > 0
    return average(values, kept * 1.0, codes, per_class=per_class)


def average(values, weights, classes=None, *, per_class=False):
    """Averages ``values [Q]`` by weight; with `classes`, within each class first.

    Args:
        values, weights: ``[Q]``.
        classes: ``[Q]`` integers from 0 on.
        per_class: return the average of each class, NaN where its weight is 0, instead of their
            mean.
    """
    values = np.where(weights > 0, values, 0)  # NaN and inf times 0 are NaN
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
    """Computes a percentile bootstrap interval for the average of each metric.

    `values` is ``{name: [Q]}``. Only the queries in `kept` are resampled. All metrics share the
    same resamples.
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
    """Computes quantiles over the first axis, which is that of the resamples.

    A resample that misses a class is ignored for this class.
    """
    missing = np.isnan(samples).all(0)
    low, high = np.nanquantile(np.where(missing, 0, samples), tails, axis=0)
    pair = np.where(missing, np.nan, low), np.where(missing, np.nan, high)
    return tuple(float(x) if x.ndim == 0 else x for x in pair)
