"""Reducers: ``LossTerm -> (total, count)``, both sums over elements. Any such function is one.

They are left undivided so that the parts of a chunk, a device or a micro-batch add up; `reduce`
divides at the end. Every reducer here weighs each value by its weight, and none hides a NaN.

`reduce(terms)` without a reducer uses `divisor`, which gives each loss its own default. Not
reducing at all is just using the loss dict. Reducers compose by `then`:

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
    """Sum over what the loss itself divides by: its default, and its paper's."""
    count = jnp.sum(term.weights) if term.divisor is None else term.divisor
    return jnp.sum(term.values * term.weights), count


def mean(term: LossTerm) -> Ratio:
    """Weighted mean of all values that exist."""
    return jnp.sum(term.values * term.weights), jnp.sum(term.weights)


def sum(term: LossTerm) -> Ratio:
    """Weighted sum, not divided."""
    return jnp.sum(term.values * term.weights), None


def avg_non_zero(term: LossTerm) -> Ratio:
    """Weighted mean of the values above 0."""
    return threshold(low=0)(term)


def threshold(
    *,
    low: Scalar | None = None,
    high: Scalar | None = None,
    then: Reducer = mean,
) -> Reducer:
    """Keeps the values with ``low < value < high``, then reduces them with `then`.

    Args:
        low, high: bounds, both strict, at least one of them; may be traced.
        then: what to do with the rest.
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

    Anchors without a value count as 0. Values that are one per anchor already go straight to
    `then`. Triplets are produced by positives, not by anchors, and cannot be averaged so.
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

    As in PyTorch Metric Learning the mean is over the count of values, not the sum of weights.

    Args:
        anchor_weights: ``[N]``, usually ``class_weights[labels]``.
        then: what to do with the products.
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
