"""What the losses of two aligned sides share: row i of both belongs together."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_embeddings, check_weights
from metricjax._core.masked import safe_divide, upcast
from metricjax._core.refs import replicated, weighed
from metricjax.distances import Distance, farther, row_distances


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
