"""Multi-similarity miner."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.types import Labels, Match, Pairs, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.miners._all import candidates, miner


@miner()
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
    r"""Keeps the pairs that are hard compared with their anchor's hardest pair of the other kind.

    .. math::
        s_{ap} - \epsilon < \max_n s_{an} \qquad s_{an} + \epsilon > \min_p s_{ap}

    Both inequalities are strict. An anchor without negatives keeps no positives, and an anchor
    without positives keeps no negatives.

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
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        epsilon: slack; a larger value keeps more pairs.
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
