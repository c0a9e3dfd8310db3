"""Correlations between the scores of graded pairs and their targets, on the host, in float64."""

from typing import Any

import numpy as np


def pearson(scores: Any, targets: Any, weights: Any = None) -> float:
    r"""Computes Pearson's correlation: how close scores are to a linear function of the targets.

    .. math:: r = \frac{\sum_i w_i (s_i - \bar s)(t_i - \bar t)}
              {\sqrt{\sum_i w_i (s_i - \bar s)^2 \sum_i w_i (t_i - \bar t)^2}}

    Here the means are weighted. If all scores are equal, or all targets, the result is 0. SciPy
    returns NaN for them.

    Example:
        >>> from metricjax.evaluation import pearson
        >>> print(f"{pearson([1, 2, 2, 4], [0.1, 0.3, 0.2, 0.2]):.4f}")
        0.3244

    Args:
        scores: ``[P]``, for example the similarities of pairs of sentences. For distances, the
            correlation has the opposite sign.
        targets: ``[P]``, for example ratings by people.
        weights: ``[P]``, how much each pair counts; 1 by default. A weight of 2 is the same as two
            equal pairs, and a pair of weight 0 is left out.

    Returns:
        A float from -1 to 1.

    Raises:
        ValueError: for mismatched shapes, for fewer than two pairs, for scores or targets that are
            NaN or infinite, or for weights that are negative, NaN or infinite.
    """
    return _correlation(*_checked("evaluation.pearson", scores, targets, weights))


def spearman(scores: Any, targets: Any, weights: Any = None) -> float:
    r"""Computes Spearman's correlation: how close the order of the scores is to that of targets.

    It is Pearson's correlation of the ranks. Equal values have the mean of their ranks. It is the
    usual measure of semantic textual similarity (STS).

    Example:
        >>> from metricjax.evaluation import spearman
        >>> print(f"{spearman([1, 2, 2, 4], [0.1, 0.3, 0.2, 0.2]):.4f}")
        0.5000

    Args, Returns, Raises: as in `pearson`.
    """
    scores, targets, weights = _checked("evaluation.spearman", scores, targets, weights)
    return _correlation(_ranks(scores, weights), _ranks(targets, weights), weights)


def _correlation(x, y, weights):
    if np.all(x == x[0]) or np.all(y == y[0]):  # the mean of equal numbers may be rounded
        return 0.0
    x, y = (_centered(v, weights) for v in (x, y))
    r = weights @ (x * y) / np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
    return float(np.clip(r, -1, 1))


def _centered(x, weights):
    """Returns x less its mean, with a largest entry of 1, so that squares do not overflow."""
    x = x / np.abs(x).max()
    x = x - weights @ x / weights.sum()
    return x / np.abs(x).max()


def _ranks(x, weights):
    """Returns weighted ranks, up to a constant: the weight of lower values and half of equal ones.

    With weights of 1, these are the mean ranks less 1/2.
    """
    _, place = np.unique(x, return_inverse=True)
    count = np.bincount(place, weights)
    return (np.cumsum(count) - count / 2)[place]


def _checked(function, scores, targets, weights):
    """Returns the scores, targets and weights of the pairs that count, in float64."""
    weights = np.ones(np.shape(scores)) if weights is None else weights
    arrays = {"scores": scores, "targets": targets, "weights": weights}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" and str(array.dtype) != "bfloat16":
            raise TypeError(
                f"{function}: `{name}` must be numbers, got {array.dtype.name}. Give one number "
                f"for each pair."
            )
        array = arrays[name] = array.astype(np.float64)
        if array.ndim != 1 or array.shape != arrays["scores"].shape:
            of = "" if name == "scores" else " to match `scores`"
            want = "[P]" if name == "scores" else f"[{len(arrays['scores'])}]"
            raise ValueError(
                f"{function}: `{name}` must have shape {want}{of}, got {array.shape}. Give one "
                f"number for each pair."
            )
    scores, targets, weights = arrays.values()
    if not np.all((weights >= 0) & (weights < np.inf)):
        raise ValueError(
            f"{function}: `weights` must be finite and at least 0, got "
            f"{weights[~((weights >= 0) & (weights < np.inf))][0]}. 0 leaves a pair out."
        )
    kept = weights > 0
    if kept.sum() < 2:
        raise ValueError(
            f"{function}: `scores` must have at least 2 pairs, got {kept.sum()}. Add pairs."
        )
    for name in ("scores", "targets"):
        if not np.isfinite(arrays[name][kept]).all():
            raise ValueError(
                f"{function}: `{name}` must be finite, got NaN or inf. Give such pairs weight 0."
            )
    return scores[kept], targets[kept], weights[kept]
