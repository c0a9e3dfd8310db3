"""Terms: values with weights, and a divisor of their sum."""

import jax.numpy as jnp

from metricjax._core.refs import Batch
from metricjax._core.types import LossTerm


def term(values, weights, divisor=None, **rows) -> LossTerm:
    """A term whose values are 0, with gradient 0, where the weight is 0."""
    return LossTerm(jnp.where(weights > 0, values, 0), weights, divisor, **rows)


def active_term(values, weights, **rows) -> LossTerm:
    """A term that is divided by the number of its values above 0."""
    active = jnp.sum(jnp.where(values > 0, weights, 0))
    return term(values, weights, active, **rows)


def row_term(values, weights, divisor=None) -> LossTerm:
    """A term with one value for each anchor (or class)."""
    return LossTerm(jnp.where(weights > 0, values, 0), weights, divisor, None, weights)


def pair_term(make, batch: Batch, values, weights) -> LossTerm:
    """A term of pairs ``[N, M]``, also weighted by the anchors."""
    weights = weights * batch.weights[:, None]
    return make(values, weights, anchor_weights=batch.weights)


def reduced_term(total, count=None) -> LossTerm:
    """A term that is one number, which reducers leave alone. `count` is additive, like `total`."""
    return LossTerm(total, jnp.ones_like(total), jnp.ones_like(total) if count is None else count)
