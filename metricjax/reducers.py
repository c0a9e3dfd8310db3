"""Reducers: ``LossTerm -> (total, count)``, both sums over elements. Any such function is one.

The total is not divided by the count yet, so that the parts of chunks, devices or micro-batches
can be added up. `reduce` divides at the end. Every reducer here weighs each value by its weight,
and no reducer hides a NaN.

`reduce(terms)` without a reducer uses `divisor`, which gives each loss its own default. To use
unreduced values, take the loss dict as it is. `then` combines reducers:

    >>> from metricjax import reducers
    >>> reducer = reducers.threshold(low=0.1, then=reducers.per_anchor())
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._core import suggest as _suggest
from metricjax._core.check import check_not_negative
from metricjax._core.masked import safe_divide
from metricjax._core.types import LossTerm, Ratio, Reducer, Scalar


def divisor(term: LossTerm) -> Ratio:
    """Divides the weighted sum by what the loss itself divides by: its default, as in its paper."""
    count = jnp.sum(term.weights) if term.divisor is None else term.divisor
    return jnp.sum(term.values * term.weights), count


def mean(term: LossTerm) -> Ratio:
    """Takes the weighted mean of all values that exist."""
    return jnp.sum(term.values * term.weights), jnp.sum(term.weights)


def sum(term: LossTerm) -> Ratio:
    """Takes the weighted sum, without a division."""
    return jnp.sum(term.values * term.weights), None


def avg_non_zero(term: LossTerm) -> Ratio:
    """Takes the weighted mean of the values above 0."""
    return threshold(low=0)(term)


def threshold(
    *,
    low: Scalar | None = None,
    high: Scalar | None = None,
    then: Reducer = mean,
) -> Reducer:
    """Keeps the values with ``low < value < high``, then reduces them with `then`.

    Args:
        low, high: strict bounds, at least one of them; may be traced.
        then: the reducer for the values that are kept.
    """
    if low is None and high is None:
        raise ValueError("reducers.threshold: give `low`, `high` or both.")

    def reduce(term: LossTerm) -> Ratio:
        out = jnp.zeros(term.values.shape, bool)  # a NaN is not out: it stays visible
        out = out if low is None else out | (term.values <= low)
        out = out if high is None else out | (term.values >= high)
        values, weights = (jnp.where(out, 0, x) for x in (term.values, term.weights))
        return then(term._replace(values=values, weights=weights, divisor=None))

    return reduce


def per_anchor(*, then: Reducer = mean) -> Reducer:
    """Averages each anchor's values first, then reduces the N averages with `then`.

    Anchors without a value count as 0. Terms that already have one value for each anchor go
    straight to `then`. Triplets are computed by positives, not by anchors, and cannot be averaged
    this way.
    """

    def reduce(term: LossTerm) -> Ratio:
        whole = term.anchor_weights is not None or term.anchor is None
        if term.values.ndim == 1 and whole:
            return then(term)
        if term.anchor_weights is None:
            raise ValueError(
                f"reducers.per_anchor: a term of shape {term.values.shape} without "
                f"`anchor_weights` does not hold whole rows (triplets never do); use another "
                f"reducer."
            )
        axes = tuple(range(1, term.values.ndim))
        rows = safe_divide(jnp.sum(term.values * term.weights, axes), jnp.sum(term.weights, axes))
        return then(LossTerm(rows, term.anchor_weights, anchor=term.anchor))

    return reduce


def class_weighted(anchor_weights: Float[Array, " n"], *, then: Reducer = mean) -> Reducer:
    """Multiplies each value by a weight of its anchor's class, then reduces with `then`.

    As in PyTorch Metric Learning, the mean divides by the number of values, not by the sum of the
    class weights.

    Args:
        anchor_weights: ``[N]``, usually ``class_weights[labels]``.
        then: the reducer for the products.
    """
    anchor_weights = jnp.asarray(anchor_weights)
    check_not_negative("reducers.class_weighted", "anchor_weights", anchor_weights)

    def reduce(term: LossTerm) -> Ratio:
        if term.anchor is None and term.values.shape[:1] != anchor_weights.shape:
            raise ValueError(
                f"reducers.class_weighted: `anchor_weights` must have shape "
                f"({len(term.values)},) to match the term, got {anchor_weights.shape}; pass "
                f"`class_weights[labels]`."
            )
        w = anchor_weights if term.anchor is None else anchor_weights[term.anchor]
        w = w.reshape(w.shape + (1,) * (term.values.ndim - 1)).astype(term.values.dtype)
        return then(term._replace(values=term.values * w))

    return reduce


_suggest.for_missing_names(__name__)
