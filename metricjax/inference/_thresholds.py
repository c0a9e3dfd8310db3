"""Choosing a threshold from pairs that are known to match or not.

All functions take ``(distances, is_match, weights, of)``, the result of `pair_distances`. A pair is
accepted as a match if its distance is at most the threshold, or if its similarity is at least the
threshold. The false match rate (FMR) is the share of non-matches that are accepted. The true match
rate (TMR) is the share of matches that are accepted. Pairs with equal distances are accepted or
rejected together. Sums are in float64.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from metricjax.distances import Distance
from metricjax.inference._pairs import check_number, the_distance


class RocCurve(NamedTuple):
    """The rates at every distinct distance, from accepting nothing to accepting everything."""

    fmr: Float[np.ndarray, " t"]
    tmr: Float[np.ndarray, " t"]
    thresholds: Float[np.ndarray, " t"]


class DetCurve(NamedTuple):
    """The two error rates at every distinct distance, from accepting nothing to everything."""

    fmr: Float[np.ndarray, " t"]
    fnmr: Float[np.ndarray, " t"]
    thresholds: Float[np.ndarray, " t"]


class OperatingPoint(NamedTuple):
    """A threshold and the rates at this threshold, as Python floats.

    Attributes:
        threshold: the largest distance, or smallest similarity, of a match.
        fmr: the share of non-matches that are accepted.
        tmr: the share of matches that are accepted: the recall.
        precision: the share of accepted pairs that match; 1 if no pair is accepted.
        f1: the harmonic mean of `precision` and `tmr`.
        accuracy: the share of pairs that are accepted if they match, and rejected if they do not.
        balanced_accuracy: the mean of `tmr` and 1 - `fmr`.
    """

    threshold: float
    fmr: float
    tmr: float
    precision: float
    f1: float
    accuracy: float
    balanced_accuracy: float


class EqualErrorRate(NamedTuple):
    """The error rate at which false and missed matches are equally frequent, and its threshold."""

    rate: float
    threshold: float


def roc_curve(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
) -> RocCurve:
    r"""Computes the receiver operating characteristic: true against false matches by threshold.

    .. math::
        \mathrm{FMR}(t) = P(d \le t \mid \text{no match}), \qquad
        \mathrm{TMR}(t) = P(d \le t \mid \text{match})

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> curve = inference.roc_curve(
        ...     [0.1, 0.4, 0.4, 0.9], [True, True, False, False], distance=LpDistance()
        ... )
        >>> print(curve.fmr, curve.tmr, curve.thresholds)
        [0.  0.  0.5 1. ] [0.  0.5 1.  1. ] [-inf  0.1  0.4  0.9]

    Args:
        distances: ``[P]`` distances or similarities.
        is_match: ``[P]`` booleans.
        weights: ``[P]``, how much each pair counts; 1 by default.
        of: the distance that the pairs were computed with; included in the pairs of
            `pair_distances`.
        distance: the same distance by keyword, for pairs that you computed yourself. It determines
            whether smaller or larger values are closer.

    Returns:
        Three arrays with one entry more than there are distinct distances. The first threshold
        accepts nothing: it is ``-inf``, or ``inf`` for similarities.

    Raises:
        ValueError: for mismatched shapes, for NaN, for weights that are negative or infinite, if
            all pairs match or none does, or if `distance` is not the distance the pairs are `of`.
        TypeError: for other dtypes, or if no distance is given.
    """
    steps = Steps("inference.roc_curve", distances, is_match, weights, of, distance)
    return RocCurve(steps.fmr, steps.tmr, steps.distances)


def det_curve(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
) -> DetCurve:
    r"""Computes the detection error tradeoff: missed matches against false matches by threshold.

    .. math:: \mathrm{FNMR}(t) = 1 - \mathrm{TMR}(t)

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> curve = inference.det_curve(
        ...     [0.1, 0.4, 0.4, 0.9], [True, True, False, False], distance=LpDistance()
        ... )
        >>> print(curve.fmr, curve.fnmr, curve.thresholds)
        [0.  0.  0.5 1. ] [1.  0.5 0.  0. ] [-inf  0.1  0.4  0.9]

    Args, Returns, Raises: as in `roc_curve`, with the false non-match rate (FNMR) in place of TMR.
    """
    steps = Steps("inference.det_curve", distances, is_match, weights, of, distance)
    return DetCurve(steps.fmr, 1 - steps.tmr, steps.distances)


def roc_auc(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
) -> float:
    """Computes the area under the ROC curve.

    It is the probability that a match is closer than a non-match. Ties count half.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> is_match = [True, True, False, False]
        >>> inference.roc_auc([0.1, 0.4, 0.4, 0.9], is_match, distance=LpDistance())
        0.875

    Args, Raises: as in `roc_curve`.
    """
    steps = Steps("inference.roc_auc", distances, is_match, weights, of, distance)
    return float(np.trapezoid(steps.tmr, steps.fmr))


def equal_error_rate(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
) -> EqualErrorRate:
    r"""Computes the error rate at which false matches are as frequent as missed matches.

    .. math:: \mathrm{FMR} = 1 - \mathrm{TMR}

    The rate is interpolated linearly between the points of the ROC curve. The threshold is the one
    whose two error rates are closest to each other.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> rate, threshold = inference.equal_error_rate(
        ...     [0.1, 0.6, 0.4, 0.8], [True, True, False, False], distance=LpDistance()
        ... )
        >>> print(f"{rate} {threshold}")
        0.5 0.5

    Args, Raises: as in `roc_curve`.
    """
    steps = Steps("inference.equal_error_rate", distances, is_match, weights, of, distance)
    excess = steps.fmr - (1 - steps.tmr)
    after = int(np.argmax(excess >= 0))
    before = after - 1
    share = excess[before] / (excess[before] - excess[after])
    rate = steps.fmr[before] + share * (steps.fmr[after] - steps.fmr[before])
    nearest = after if excess[after] <= -excess[before] else before
    return EqualErrorRate(float(rate), steps.between(nearest))


def threshold(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    by: str | tuple[str, float] = "f1",
    distance: Distance | None = None,
) -> OperatingPoint:
    r"""Finds the best threshold by a criterion; among equally good ones, the strictest.

    | `by` | the threshold with |
    |---|---|
    | ``"accuracy"`` | the largest share of pairs that are right, ``(TP + TN) / P`` |
    | ``"balanced_accuracy"`` | the largest mean of TMR and 1 - FMR |
    | ``"f1"`` | the largest F1 score, ``2 TP / (2 TP + FP + FN)`` |
    | ``("precision", p)`` | the most matches accepted with a precision of at least p |
    | ``("fmr", rate)`` | the most matches accepted with an FMR of at most the rate |

    Accuracy, F1 and precision depend on the share of matches among the pairs. So use pairs that
    have the same share of matches as in practice. If nothing is accepted, the precision is 1.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> pairs = [0.1, 0.25, 0.75, 0.9], [True, True, False, True]
        >>> for by in ("accuracy", "f1", ("precision", 0.9)):
        ...     point = inference.threshold(*pairs, by=by, distance=LpDistance())
        ...     print(f"{point.threshold} {point.accuracy} {point.tmr:.2f}")
        0.5 0.75 0.67
        0.9 0.75 1.00
        0.5 0.75 0.67

    Args:
        by: the criterion.
        distances, is_match, weights, of, distance: as in `roc_curve`.

    Returns:
        An `OperatingPoint`. Its threshold is halfway between the last distance that is accepted and
        the next one, which is safest for new pairs. If it is best to accept nothing, the threshold
        is ``-inf``, or ``inf`` for similarities.

    Raises:
        ValueError: for an unknown criterion, or a level outside of [0, 1]; and as in `roc_curve`.
        TypeError: as in `roc_curve`.
    """
    name = "inference.threshold"
    kind, level = criterion(name, by)
    steps = Steps(name, distances, is_match, weights, of, distance)
    return steps.point(steps.best(kind, level))


def best_threshold(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
) -> OperatingPoint:
    r"""Finds the threshold with the best F1 score; among equal scores, the strictest.

    `threshold` has other criteria.

    .. math:: F_1 = \frac{2\, TP}{2\, TP + FP + FN}

    F1 depends on the share of matches among the pairs. So use pairs that have the same share of
    matches as in practice.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> best = inference.best_threshold(
        ...     [0.1, 0.25, 0.75, 0.9], [True, True, False, True], distance=LpDistance()
        ... )
        >>> print(f"{best.threshold} {best.f1:.3f}")
        0.9 0.857

    Args, Raises: as in `roc_curve`.

    Returns:
        An `OperatingPoint`. Its threshold is halfway between the last distance that is accepted and
        the next one, which is safest for new pairs.
    """
    steps = Steps("inference.best_threshold", distances, is_match, weights, of, distance)
    return steps.point(steps.best("f1"))


def threshold_at_fmr(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    fmr: float,
    distance: Distance | None = None,
) -> OperatingPoint:
    """Finds the threshold that accepts the most matches with a false match rate of at most `fmr`.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import CosineSimilarity
        >>> pairs = [0.9, 0.75, 0.25, 0.1], [True, True, False, True]
        >>> point = inference.threshold_at_fmr(*pairs, fmr=0, distance=CosineSimilarity())
        >>> print(f"{point.threshold} {point.tmr:.2f}")
        0.5 0.67

    Args:
        fmr: the largest false match rate, from 0 to 1.
        distances, is_match, weights, of, distance: as in `roc_curve`.

    Returns:
        An `OperatingPoint`. If no match can be accepted at a false match rate of at most `fmr`, the
        threshold accepts nothing: it is ``-inf``, or ``inf`` for similarities.
    """
    name = "inference.threshold_at_fmr"
    check_number(name, "fmr", fmr)
    if not 0 <= fmr <= 1:
        raise ValueError(f"{name}: `fmr` must be from 0 to 1, got {fmr}. 0.001 is 0.1 %.")
    steps = Steps(name, distances, is_match, weights, of, distance)
    return steps.point(steps.best("fmr", fmr))


def operating_point(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    threshold: float,
    distance: Distance | None = None,
) -> OperatingPoint:
    """Returns the rates of a given threshold for these pairs.

    The pairs can be others than those from which the threshold was chosen.

    Example:
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> pairs = [0.1, 0.4, 0.4, 0.9], [True, True, False, False]
        >>> point = inference.operating_point(*pairs, threshold=0.4, distance=LpDistance())
        >>> print(point.fmr, point.tmr)
        0.5 1.0

    Args:
        threshold: the largest distance, or smallest similarity, of a match.
        distances, is_match, weights, of, distance: as in `roc_curve`.
    """
    name = "inference.operating_point"
    check_number(name, "threshold", threshold)
    steps = Steps(name, distances, is_match, weights, of, distance)
    accepted = steps.sign * steps.distances <= steps.sign * threshold
    point = steps.point(int(np.sum(accepted)) - 1 if accepted.any() else 0)
    return point._replace(threshold=float(threshold))


class Steps:
    """The distinct distances, closest first, and the rates if all pairs up to each are accepted."""

    def __init__(self, function, distances, is_match, weights, of, distance):
        self.sign = -1 if the_distance(function, of, distance).is_similarity else 1
        distances, is_match, weights = arrays_of_pairs(function, distances, is_match, weights)
        kept = np.flatnonzero(weights)
        kept = kept[np.argsort(self.sign * distances[kept])]
        distances, is_match, weights = distances[kept], is_match[kept], weights[kept]
        if is_match.all() or not is_match.any():
            raise ValueError(
                f"{function}: `is_match` must be true for some pairs and false for others, got "
                f"{int(is_match.sum())} matches of {len(is_match)}. Add pairs of the other kind."
            )
        last = np.flatnonzero(np.append(distances[1:] != distances[:-1], True))  # of equals
        up_to = lambda w: np.append(0, np.cumsum(w)[last])
        matches, others = up_to(weights * is_match), up_to(weights * ~is_match)
        self.distances = np.append(-self.sign * np.inf, distances[last]).astype(distances.dtype)
        self.fmr, self.tmr = others / others[-1], matches / matches[-1]
        accepted = matches + others
        self.precision = np.where(accepted == 0, 1, matches / np.where(accepted == 0, 1, accepted))
        self.f1 = 2 * matches / (accepted + matches[-1])
        # One division each: rates that are equal are then equal floats, and the strictest is found.
        rejected = others[-1] - others
        self.accuracy = (matches + rejected) / accepted[-1]
        both = matches[-1] * others[-1]
        self.balanced_accuracy = (matches * others[-1] + rejected * matches[-1]) / (2 * both)

    def best(self, by, level=None) -> int:
        """Returns the best step by a criterion of `threshold`; the first of equally good ones."""
        if by == "precision":
            score = np.where(self.precision >= level, self.tmr, -1)
        elif by == "fmr":
            score = np.where(self.fmr <= level, self.tmr, -1)
        else:
            score = getattr(self, by)
        return int(np.argmax(score))

    def point(self, i) -> OperatingPoint:
        rates = (self.fmr, self.tmr, self.precision, self.f1, self.accuracy, self.balanced_accuracy)
        return OperatingPoint(self.between(i), *(float(rate[i]) for rate in rates))

    def between(self, i) -> float:
        """Returns a threshold that accepts step `i` but not the next, halfway if there is room."""
        here = self.distances[i]
        if i + 1 < len(self.distances) and np.isfinite(here):
            there = self.distances[i + 1]
            middle = here + (there - here) / 2
            if self.sign * here <= self.sign * middle < self.sign * there:
                return float(middle)
        return float(here)


def criterion(function, by):
    """Returns the name of a criterion and its level, which is ``None`` if it has none."""
    if isinstance(by, str) and by in ("accuracy", "balanced_accuracy", "f1"):
        return by, None
    if not isinstance(by, list | tuple) or len(by) != 2 or by[0] not in ("precision", "fmr"):
        raise ValueError(
            f"{function}: `by` must be 'accuracy', 'balanced_accuracy', 'f1', ('precision', p) or "
            f"('fmr', rate), got {str(by)[:80]!r}."
        )
    check_number(function, "by", by[1])
    if not 0 <= by[1] <= 1:
        raise ValueError(
            f"{function}: `by` must have a {by[0]} from 0 to 1, got {by[1]}. 0.001 is 0.1 %."
        )
    return tuple(by)


def arrays_of_pairs(function, distances, is_match, weights):
    """Checks the arrays; returns distances in float32 or float64, booleans and weights ``[P]``."""
    distances, is_match = np.asarray(distances), np.asarray(is_match)
    weights = np.ones(distances.shape) if weights is None else np.asarray(weights, float)
    if distances.ndim != 1:
        raise ValueError(
            f"{function}: `distances` must have shape [P], got {distances.shape}. Give one for "
            f"each pair."
        )
    for name, value in ("is_match", is_match), ("weights", weights):
        if value.shape != distances.shape:  # [P, 1] would broadcast to [P, P]
            raise ValueError(
                f"{function}: `{name}` must have shape [{len(distances)}] to match "
                f"`distances`, got {value.shape}. Give one for each pair."
            )
    if not jnp.issubdtype(distances.dtype, jnp.floating) and distances.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: `distances` must be numbers, got {distances.dtype.name}. Compute them by "
            f"`inference.pair_distances`."
        )
    if distances.dtype not in (np.float32, np.float64):
        distances = distances.astype(np.float32)
    if is_match.size and not (is_match.dtype.kind in "biu" and np.isin(is_match, (0, 1)).all()):
        raise TypeError(
            f"{function}: `is_match` must be [P] booleans, got {is_match.dtype.name} as in "
            f"{str(is_match[:3])[:80]}. Compare labels, or use `inference.pair_distances`."
        )
    counted = np.all((weights >= 0) & (weights < np.inf))
    if not counted or np.any(np.isnan(distances[weights > 0])):
        raise ValueError(
            f"{function}: `distances` must not be NaN, and `weights` not NaN, infinite or "
            f"negative. Leave such pairs out."
        )
    return distances, is_match != 0, weights
