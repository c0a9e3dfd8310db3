"""Hard-aware miner."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.refs import replicated, spread_as
from metricjax._core.types import Labels, Match, Mined, Pairs, Refs, Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner


@miner(filter_percentage="[0, 1]")
def hdc(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    mined: Mined | None = None,
    filter_percentage: Scalar = 0.5,
    distance: Distance = LpDistance(),
) -> Pairs:
    r"""Keeps the hardest pairs of the whole batch, a fraction of each kind.

    .. math::
        k = \lceil f \cdot \text{count} \rceil

    Here k is the number of pairs of a kind that are kept: the farthest positives and the nearest
    negatives. At a tie the first pairs are kept. A pair of weight 2 counts as two pairs, and one of
    them may be kept alone. To mine in a cascade, pass the result of one miner to the next as
    `mined`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0], [1.0], [2.0], [3.0], [5.0]]), jnp.array([0, 0, 1, 1, 0])
        >>> line = mj.distances.LpDistance(normalize_embeddings=False)
        >>> print(mj.miners.hdc(x, y, distance=line).positive)
        [[0. 0. 0. 0. 1.]
         [0. 0. 0. 0. 1.]
         [0. 0. 0. 0. 0.]
         [0. 0. 0. 0. 0.]
         [1. 1. 0. 0. 0.]]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; optional if `mined` is given.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        mined: the pairs to choose from, as a miner or `metricjax.tuples` returns them; all pairs
            by default.
        filter_percentage: f, from 0 to 1.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``. Up to ``2**24`` pairs are counted exactly.

    References:
        Yuan et al., `Hard-Aware Deeply Cascaded Embedding <https://arxiv.org/abs/1611.05720>`_,
        2017.
    """
    name = "miners.hdc"
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance, mined)
    fraction = jnp.asarray(filter_percentage, cost.dtype)
    positive = _first(fraction, replicated(pairs.positive), replicated(-cost))
    negative = _first(fraction, replicated(pairs.negative), replicated(cost))
    return Pairs(spread_as(positive, cost), spread_as(negative, cost))


def _first(fraction, weights, ease):
    """Keeps the entries of least `ease` that make up a fraction of all weight; a NaN comes first.

    Ties are resolved by place. Two bisections replace a sort: one over the bits of the floats, and
    one over the places.
    """
    wanted = jnp.ceil(fraction * jnp.sum(weights))
    rank = _ranks(jnp.where(jnp.isnan(ease), -jnp.inf, ease))
    edge, left = _edge(rank, weights, wanted)
    place = jnp.arange(ease.size, dtype=rank.dtype).reshape(ease.shape)
    tied = jnp.where(rank == edge, weights, 0)
    last, left = _edge(place, tied, left)
    tied = jnp.where(place < last, tied, jnp.where(place == last, jnp.minimum(left, tied), 0))
    return jnp.where(rank < edge, weights, tied)


def _ranks(x):
    """Maps floats to integers of the same order; -0 and 0 are equal."""
    bits = jnp.finfo(x.dtype).bits
    rank = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), f"int{bits}")
    return jnp.where(rank < 0, rank ^ jnp.iinfo(rank.dtype).max, rank)


def _edge(order, weights, wanted):
    """Finds the least rank with enough weight up to it, and the weight wanted at that rank."""
    limits = jnp.iinfo(order.dtype)

    def halve(_, bounds):
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)
        enough = jnp.sum(jnp.where(order <= middle, weights, 0)) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    bounds = jnp.array(limits.min, order.dtype), jnp.array(limits.max, order.dtype)
    _, edge = jax.lax.fori_loop(0, limits.bits, halve, bounds)
    return edge, wanted - jnp.sum(jnp.where(order < edge, weights, 0))
