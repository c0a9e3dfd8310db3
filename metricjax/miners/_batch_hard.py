"""Batch hard miner."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.refs import replicated
from metricjax._core.types import Labels, Match, Refs, Scalar, Triplets
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner
from metricjax.miners._batch_easy_hard import easy_hard


@miner()
def batch_hard(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    allowed_pos_range: tuple[Scalar, Scalar] | None = None,
    allowed_neg_range: tuple[Scalar, Scalar] | None = None,
    distance: Distance = LpDistance(),
) -> Triplets:
    r"""Lists one triplet for each anchor: its farthest positive with its nearest negative.

    .. math::
        \big(a, \; \arg\max_p d_{ap}, \; \arg\min_n d_{an}\big)

    At a tie the first pair is taken.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0], [1.0], [2.0], [3.0], [5.0]]), jnp.array([0, 0, 1, 1, 0])
        >>> line = mj.distances.LpDistance(normalize_embeddings=False)
        >>> mined = mj.miners.batch_hard(x, y, distance=line)
        >>> print(mined.positive, mined.negative, mined.weights)
        [4 4 3 2 0] [2 2 1 1 3] [1. 1. 1. 1. 1.]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        allowed_pos_range: ``(low, high)``, both inclusive: only positives with a `distance` in this
            range can be chosen. No bounds by default.
        allowed_neg_range: the same for the negatives.
        distance: pairwise distance or similarity.

    Returns:
        N `Triplets`; triplet i has anchor i, and weight 0 if the anchor lacks a positive or
        a negative.

    References:
        Hermans et al., `In Defense of the Triplet Loss for Person Re-Identification
        <https://arxiv.org/abs/1703.07737>`_, 2017.
    """
    name = "miners.batch_hard"
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    positive, negative = ("hard", allowed_pos_range), ("hard", allowed_neg_range)
    pairs = replicated(easy_hard(pairs, cost, distance, positive, negative))
    columns = jnp.arange(cost.shape[1])[None, :]
    index = lambda weights: jnp.sum(jnp.where(weights > 0, columns, 0), 1)
    weights = jnp.sum(pairs.positive, 1) * jnp.sum(pairs.negative, 1)
    return Triplets(jnp.arange(len(cost)), index(pairs.positive), index(pairs.negative), weights)
