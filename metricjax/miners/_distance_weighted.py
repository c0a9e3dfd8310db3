"""Distance weighted miner."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from metricjax._core.check import check_at_least, check_euclidean
from metricjax._core.refs import replicated
from metricjax._core.types import Labels, Match, Refs, Scalar, Triplets
from metricjax.distances import LpDistance
from metricjax.miners._all import candidates, miner
from metricjax.tuples._lists import places


@miner()
def distance_weighted(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    key: PRNGKeyArray,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    cutoff: Scalar = 0.5,
    nonzero_loss_cutoff: Scalar = 1.4,
    triplets_per_anchor: int | None = None,
    distance: LpDistance = LpDistance(),
) -> Triplets:
    r"""Draws triplets with negatives at all distances, not only at the most common one.

    .. math::
        P(n \mid a) \propto \frac{[\delta_{an} < d_{max}]}{q(\delta_{an})} \qquad
        q(\delta) = \delta^{D-2} \big(1 - \tfrac14 \delta^2\big)^{(D-3)/2} \qquad
        \delta_{an} = \max(d_{an}, d_{min})

    Here q is the density of distances on the unit sphere. Positives are drawn uniformly. Positives
    and negatives are drawn independently and with replacement. Anchors that lack a positive, or a
    negative nearer than :math:`d_{max}`, have no triplets. The probabilities of each anchor are
    scaled by their own maximum, so that none vanishes because another anchor has a near pair.

    By default an anchor has as many triplets as there are samples of its class among the
    references, itself included. That number depends on the data, so the list has M places for each
    anchor, and unused places have weight 0. With `triplets_per_anchor` the list has that many
    places for each anchor, and every anchor counts equally, whatever the size of its class.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), jnp.array([0, 0, 1])
        >>> mined = mj.miners.distance_weighted(x, y, key=jax.random.key(0))
        >>> print(mined.weights.reshape(3, 3))
        [[1. 1. 0.]
         [1. 1. 0.]
         [0. 0. 0.]]

    Args:
        embeddings: ``[N, D]``; only their directions matter.
        labels: ``[N]`` integers.
        key: a `jax.random.key`.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
            Positives and negatives are drawn in proportion to their weights.
        cutoff: :math:`d_{min}`; nearer negatives count as being at this distance. With 0, exact
            duplicates of the anchor are not drawn.
        nonzero_loss_cutoff: :math:`d_{max}`; negatives at this distance or farther are not drawn.
        triplets_per_anchor: how many triplets to draw for each anchor; static. By default as many
            as its class has members.
        distance: `LpDistance`, possibly with another `precision`.

    Returns:
        ``N * M`` `Triplets`, or ``N * triplets_per_anchor``; those of an anchor are adjacent.

    References:
        Wu et al., `Sampling Matters in Deep Embedding Learning
        <https://arxiv.org/abs/1706.07567>`_, 2017.
    """
    name = "miners.distance_weighted"
    check_euclidean(name, distance)
    if triplets_per_anchor is not None:
        check_at_least(name, "triplets_per_anchor", triplets_per_anchor, 1)
    pairs, mat = replicated(candidates(name, embeddings, labels, refs, where, match, distance))
    features, (n, m) = jnp.shape(embeddings)[1], mat.shape
    mat = jnp.maximum(mat, jax.lax.stop_gradient(cutoff))
    log_w = (2 - features) * jnp.log(mat) - (features - 3) / 2 * jnp.log(1 - mat**2 / 4)
    drawn = pairs.negative > 0
    drawn &= ~((mat >= nonzero_loss_cutoff) | (mat >= 2) | (mat == 0) | jnp.isinf(log_w))
    log_w = jnp.where(jnp.isnan(log_w), jnp.finfo(mat.dtype).max, log_w)  # a NaN is always drawn
    top = jnp.max(log_w, 1, where=drawn, initial=-jnp.inf, keepdims=True)
    negative = jnp.where(drawn, pairs.negative * jnp.exp(log_w - top), 0)
    size = m if triplets_per_anchor is None else triplets_per_anchor
    exists = jnp.any(pairs.positive > 0, 1) & jnp.any(drawn, 1)
    used = places(exists, pairs.positive, triplets_per_anchor, refs)
    return Triplets(
        anchor=jnp.repeat(jnp.arange(n), size),
        positive=_draw(jax.random.fold_in(key, 0), pairs.positive, size).ravel(),
        negative=_draw(jax.random.fold_in(key, 1), negative, size).ravel(),
        weights=used.ravel().astype(mat.dtype),
    )


def _draw(key, weights, size):
    """Draws `size` columns of each row with replacement, in proportion to the row's weights."""
    n, m = weights.shape
    if not weights.size:
        return jnp.zeros((n, size), int)
    total = jnp.where(weights > 0, jnp.cumsum(weights, 1), 0)
    total = jax.lax.cummax(total, 1)  # constant where the weight is 0, despite rounding
    at = jax.random.uniform(key, (n, size), weights.dtype) * total[:, -1:]
    column = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(total, at)
    return jnp.minimum(column, m - 1).astype(int)
