"""Pairs that are hard by a margin: a fixed one, or one to the hardest pair of the other kind."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.types import Labels, Match, Pairs, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance, LpDistance
from metricjax.miners._all import candidates


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

    Both strict. With a similarity the signs turn: :math:`s_{ap} < m_p` and :math:`s_{an} > m_n`;
    the default margins are for distances of unit vectors.

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
        refs: what to compare with; the batch itself by default.
        where: ``[N]``; samples of weight 0 are not there.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        pos_margin: :math:`m_p`, in the unit of `distance`.
        neg_margin: :math:`m_n`, in the unit of `distance`.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``.
    """
    pairs, cost = candidates("miners.pair_margin", embeddings, labels, refs, where, match, distance)
    if distance.is_similarity:
        pos_margin, neg_margin = -pos_margin, -neg_margin
    return Pairs(  # a NaN keeps its pairs, so that the loss shows it
        jnp.where(cost <= pos_margin, 0, pairs.positive),
        jnp.where(cost >= neg_margin, 0, pairs.negative),
    )


def multi_similarity(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    epsilon: Scalar = 0.1,
    distance: Distance = CosineSimilarity(),
) -> Pairs:
    r"""Keeps the pairs that are hard for their anchor: near its hardest pair of the other kind.

    .. math::
        s_{ap} - \epsilon < \max_n s_{an} \qquad s_{an} + \epsilon > \min_p s_{ap}

    Both strict. An anchor without negatives keeps no positives, and the other way round.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> print(mj.miners.multi_similarity(x, jnp.array([0, 0, 1, 1])).positive)
        [[0. 1. 0. 0.]
         [1. 0. 0. 0.]
         [0. 0. 0. 1.]
         [0. 0. 1. 0.]]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: what to compare with; the batch itself by default.
        where: ``[N]``; samples of weight 0 are not there.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        epsilon: slack; larger keeps more.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``.

    References:
        Wang et al., `Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning
        <https://arxiv.org/abs/1904.06627>`_, 2019.
    """
    name = "miners.multi_similarity"
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    nearest = jnp.min(cost, 1, where=pairs.negative > 0, initial=jnp.inf, keepdims=True)
    farthest = jnp.max(cost, 1, where=pairs.positive > 0, initial=-jnp.inf, keepdims=True)
    return Pairs(  # a NaN keeps its pairs, so that the loss shows it
        jnp.where(cost + epsilon <= nearest, 0, pairs.positive),
        jnp.where(cost - epsilon >= farthest, 0, pairs.negative),
    )
