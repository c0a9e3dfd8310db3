"""Verification accuracy by the protocol of Labeled Faces in the Wild (LFW)."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from metricjax.distances import Distance
from metricjax.inference._pairs import the_distance
from metricjax.inference._thresholds import Steps, arrays_of_pairs


class VerificationAccuracy(NamedTuple):
    """The result of `verification_accuracy`.

    Attributes:
        mean: the mean of the accuracies of the folds.
        std: their standard deviation, with the number of folds as the divisor.
        accuracies: the accuracy of each fold.
        thresholds: the threshold that was chosen for each fold from all other folds.
    """

    mean: float
    std: float
    accuracies: Float[np.ndarray, " folds"]
    thresholds: Float[np.ndarray, " folds"]


def verification_accuracy(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    folds: int = 10,
    thresholds: Any = None,
    distance: Distance | None = None,
) -> VerificationAccuracy:
    """Computes the share of pairs that are right, with thresholds that were chosen on other pairs.

    The pairs are split into folds of neighboring pairs; if they do not divide evenly, the first
    folds have one pair more. The threshold of a fold is the one with the best accuracy on all other
    folds; among equally good ones, the strictest.

    The order of the pairs decides the folds. Benchmarks such as LFW come in the right order.
    `pair_distances` returns all matches first: shuffle its pairs before.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> distances = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        >>> is_match = [True, True, False, True, True, False, False, False]
        >>> result = inference.verification_accuracy(
        ...     distances, is_match, folds=4, distance=LpDistance()
        ... )
        >>> print(result.accuracies, result.mean, result.std)
        [1.  0.5 0.5 1. ] 0.75 0.25

    Args:
        folds: how many folds, from 2 to the number of pairs.
        thresholds: ``[T]``, thresholds to choose from. Published numbers for faces use squared
            distances between vectors of length 1 and ``numpy.arange(0, 4, 0.01)``. A pair is then
            accepted if its distance is below the threshold, or if its similarity is above. By
            default all thresholds are tried. As in `threshold`, they are halfway between two
            distances, and a pair is accepted up to the threshold.
        distances, is_match, weights, of, distance: as in `roc_curve`.

    Raises:
        ValueError: for a wrong number of folds, for a fold in which all weights are 0, for
            thresholds that are NaN; and as in `roc_curve`.
        TypeError: as in `roc_curve`.
    """
    name = "inference.verification_accuracy"
    sign = -1 if the_distance(name, of, distance).is_similarity else 1
    distances, is_match, weights = arrays_of_pairs(name, distances, is_match, weights)
    n = len(distances)
    if not isinstance(folds, int | np.integer) or not 2 <= folds <= n:
        raise ValueError(
            f"{name}: `folds` must be an integer from 2 to the {n} pairs, got {folds!r}. LFW has "
            f"10 folds."
        )
    tests = np.array_split(np.arange(n), folds)
    totals = np.array([weights[test].sum() for test in tests])
    if not totals.all():
        raise ValueError(
            f"{name}: `weights` must be positive for some pair of each fold, got only 0 in fold "
            f"{int(np.argmin(totals))}. Leave these pairs out, or use fewer folds."
        )
    if thresholds is None:
        limits = _exact_limits(name, distances, is_match, weights, of, distance, tests)
    else:
        grid = np.sort(sign * _grid(name, thresholds))  # strictest first
        limits = sign * _grid_limits(sign * distances, is_match, weights, grid, tests)
    limit = np.repeat(limits, [len(test) for test in tests])  # of each pair
    closer = np.less_equal if thresholds is None else np.less
    right = weights * (closer(sign * distances, sign * limit) == is_match)
    accuracies = np.array([right[test].sum() for test in tests]) / totals
    return VerificationAccuracy(
        float(accuracies.mean()), float(accuracies.std()), accuracies, limits
    )


def _exact_limits(function, distances, is_match, weights, of, distance, tests):
    """Returns the best threshold on the other folds, for each fold."""
    limits = []
    for test in tests:
        train = (np.delete(x, test) for x in (distances, is_match, weights))
        steps = Steps(function, *train, of, distance)
        limits.append(steps.between(steps.best("accuracy")))
    return np.array(limits)


def _grid_limits(distances, is_match, weights, grid, tests):
    """Returns the first of the best thresholds of a grid on the other folds, for each fold."""
    right = lambda d, match: (d[:, None] < grid[None, :]) == match[:, None]
    each = np.array([weights[test] @ right(distances[test], is_match[test]) for test in tests])
    return grid[np.argmax(each.sum(0) - each, 1)]


def _grid(function, thresholds):
    grid = np.asarray(thresholds)
    if grid.ndim != 1 or not grid.size or grid.dtype.kind not in "iuf" or np.isnan(grid).any():
        got = f"{grid.dtype.name} of shape {grid.shape}"
        raise ValueError(
            f"{function}: `thresholds` must be [T] numbers, got {got}. The default tries all."
        )
    return grid.astype(np.float64)
