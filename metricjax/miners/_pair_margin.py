"""Pair margin miner."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.types import Labels, Match, Pairs, Refs, Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner


@miner()
def pair_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    pos_margin: Scalar = 0.2,
    neg_margin: Scalar = 0.8,
    distance: Distance = LpDistance(),
) -> Pairs:
    r"""Keeps the positives that are too far apart and the negatives that are too close.

    .. math::
        d_{ap} > m_p \qquad d_{an} < m_n

    Both inequalities are strict. With a similarity they are reversed: :math:`s_{ap} < m_p` and
    :math:`s_{an} > m_n`. The default margins are for distances of unit vectors.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> print(mj.miners.pair_margin(x, jnp.array([0, 0, 1, 1])).negative)
        [[0. 0. 0. 0.]
         [0. 0. 1. 0.]
         [0. 1. 0. 0.]
         [0. 0. 0. 0.]]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        pos_margin: :math:`m_p`, in the unit of `distance`.
        neg_margin: :math:`m_n`, in the unit of `distance`.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``.
    """
    name = "miners.pair_margin"
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    if distance.is_similarity:
        pos_margin, neg_margin = -pos_margin, -neg_margin
    return Pairs(  # a NaN keeps its pairs, so that the loss shows it
        jnp.where(cost <= pos_margin, 0, pairs.positive),
        jnp.where(cost >= neg_margin, 0, pairs.negative),
    )
