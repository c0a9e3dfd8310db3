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

    pairs are kept: the farthest positives and the nearest negatives; of equals the first ones. A
    pair of weight 2 counts as two, of which one may be kept. To mine in a cascade give what one
    miner returned to the next.

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
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: what to compare with; the batch itself by default.
        where: ``[N]``; samples of weight 0 are not there.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        mined: the pairs to choose from, as a miner or `metricjax.tuples` returns them; all by
            default.
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
    """The first of all entries by `ease` that make up a fraction of all weight; NaN before all.

    Equals go by their place. No sort: two bisections, over the bits of the floats and the places.
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
    """Integers in the order of the floats, -0 and 0 the same."""
    bits = jnp.finfo(x.dtype).bits
    rank = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), f"int{bits}")
    return jnp.where(rank < 0, rank ^ jnp.iinfo(rank.dtype).max, rank)


def _edge(order, weights, wanted):
    """The least place in an order up to which there is enough weight, and what is left for it."""
    limits = jnp.iinfo(order.dtype)

    def halve(_, bounds):
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)
        enough = jnp.sum(jnp.where(order <= middle, weights, 0)) >= wanted
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    bounds = jnp.array(limits.min, order.dtype), jnp.array(limits.max, order.dtype)
    _, edge = jax.lax.fori_loop(0, limits.bits, halve, bounds)
    return edge, wanted - jnp.sum(jnp.where(order < edge, weights, 0))
