"""Shared by losses of several views of the same samples: row i of all views belongs together."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_embeddings, check_weights
from metricjax._core.masked import logsumexp, safe_divide, upcast
from metricjax._core.refs import replicated, weighed
from metricjax.distances import Distance, farther, row_distances
from metricjax.losses._classes import similarities


def prepare_views(function, embeddings, ref_embeddings, where):
    """Both views checked and in at least float32, and a weight for each row."""
    embeddings, others = jnp.asarray(embeddings), jnp.asarray(ref_embeddings)
    check_embeddings(function, "embeddings", embeddings)
    check_embeddings(function, "ref_embeddings", others)
    if embeddings.shape != others.shape:
        raise ValueError(
            f"{function}: `ref_embeddings` must have shape {embeddings.shape} to match "
            f"`embeddings`, got {others.shape}."
        )
    check_weights(function, "where", where, "embeddings", len(embeddings))
    where = jnp.ones(len(embeddings)) if where is None else where
    weights, embeddings = weighed(where, embeddings)
    others = jnp.where(weights[:, None] > 0, others, 0)
    return replicated((upcast(embeddings), upcast(others), weights))


def prepare_many_views(function, name, views, where):
    """Views ``[V, N, D]``, checked and in at least float32, and a weight for each sample."""
    views = jnp.asarray(views)
    if views.ndim != 3:
        raise ValueError(
            f"{function}: `{name}` must have shape [views, N, D], got {views.shape}. Put the views "
            f"together by `jnp.stack`."
        )
    check_embeddings(function, name, views[0] if len(views) else views.reshape(0, 0))
    n = views.shape[1]
    check_weights(function, "where", where, name, n)
    weights = jnp.ones(n) if where is None else jnp.asarray(where)
    views, weights = upcast(views), weights.astype(upcast(views[:0]).dtype)
    return replicated((jnp.where(weights[None, :, None] > 0, views, 0), weights))


def row_similarities(distance: Distance, x, r) -> Float[Array, " n"]:
    """How close row i of both is: larger is closer, so a distance is negated."""
    return farther(distance, 0, row_distances(x, r, distance=distance))


def centred(
    x: Float[Array, "n d"], weights: Num[Array, " n"]
) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """Every feature less its weighted mean, rows of weight 0 being 0; and the sum of weights."""
    count = jnp.sum(weights)
    gap = x - safe_divide(jnp.sum(weights[:, None] * x, 0), count)[None, :]
    return jnp.where(weights[:, None] > 0, gap, 0), count


class Rivals(NamedTuple):
    """Some rows of two views, compared with all rows of both views.

    Attributes:
        own: how close a row is to its own other view.
        sides: how close each of its two views is to all rows of both views.
        weights: of these rows; the row itself and its other view have weight 0.
    """

    own: Float[Array, " n"]
    sides: tuple[Float[Array, "n m"], Float[Array, "n m"]]
    weights: Float[Array, "n m"]


def rivals_of(distance: Distance, some, numbers, everything) -> Rivals:
    """Compares ``some`` rows, which have these numbers among ``everything``; see `by_rows`."""
    (x, r, _), (xs, rs, weights) = some, everything
    others = jnp.where(numbers[:, None] == jnp.arange(len(xs))[None, :], 0, weights[None, :])
    to_all = lambda u: jnp.concatenate([similarities(distance, u, v) for v in (xs, rs)], 1)
    weights = jnp.concatenate([others, others], 1)
    return Rivals(row_similarities(distance, x, r), (to_all(x), to_all(r)), weights)


def between_views(
    targets: Sequence[Float[Array, "n k"]], scores: Float[Array, "v n k"], temperature
) -> Float[Array, " n"]:
    r"""The cross-entropy of a target of one view with the scores of another, mean over the pairs.

    Target t belongs to view t. Never larger than ``[N, K]``: the softmax of a view is not kept, but
    computed again for the gradient.
    """

    @jax.checkpoint
    def of_view(scores, temperature, targets):
        logits = scores / temperature
        log_sum = logsumexp(logits, jnp.ones(logits.shape, bool))
        return len(targets) * log_sum - jnp.sum(sum(targets) * logits, 1)

    total, pairs = jnp.zeros(scores.shape[1], scores.dtype), 0
    for v in range(len(scores)):
        others = [target for t, target in enumerate(targets) if t != v]
        if others:
            total, pairs = total + of_view(scores[v], temperature, others), pairs + len(others)
    return total / max(pairs, 1)
