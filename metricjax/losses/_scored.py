"""Shared by the losses of pairs with scores, which use the order of the scores or their values."""

import jax
import jax.numpy as jnp

from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import whole_batch
from metricjax._core.types import LossTerm
from metricjax.losses._terms import reduced_term
from metricjax.losses._views import prepare_views


def prepare_scored(function, embeddings, ref_embeddings, targets, where):
    """Both sides of the pairs, and a target and a weight for each pair."""
    x, r, weights = prepare_views(function, embeddings, ref_embeddings, where)
    targets = jnp.asarray(targets)
    if targets.shape != weights.shape:
        raise ValueError(
            f"{function}: `targets` must have shape {weights.shape}, one for each pair, got "
            f"{targets.shape}."
        )
    return x, r, targets.astype(x.dtype), weights


def rising(scores, targets, weights, scale, axis_name) -> LossTerm:
    r"""``log(1 + sum exp(scale (s_i - s_j)))`` over all i and j where target i is below target j.

    After sorting by target, the entries below a target come first. Their sum is one of the running
    sums, so N log N operations are enough for N * N pairs.
    """
    (scores, targets, weights), _ = whole_batch((scores, targets, weights), axis_name)
    order = jnp.argsort(targets)
    scores, targets, weights = scale * scores[order], targets[order], weights[order]
    upto = _running_logsumexp(scores, weights)
    below = jnp.searchsorted(targets, targets)  # how many targets are smaller
    below_sum = jnp.where(below > 0, upto[jnp.maximum(below - 1, 0)], -jnp.inf)
    some = below_sum != -jnp.inf
    pairs = jnp.where(some, below_sum, 0) - scores
    return reduced_term(softplus(logsumexp(pairs, jnp.where(some, weights, 0))))


def _running_logsumexp(x, weights):
    """``log(sum(weights * exp(x)))`` of the first 1, 2, ... entries; -inf if all weights are 0."""
    there = weights > 0
    lowest = float(jnp.finfo(x.dtype).min) / 4  # a sum of nothing but -inf would have no derivative
    log = jnp.where(there, x + jnp.log(jnp.where(there, weights, 1)), lowest)
    return jnp.where(jnp.cumsum(there) > 0, jax.lax.cumlogsumexp(log), -jnp.inf)
