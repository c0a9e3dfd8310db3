"""Batch easy-hard miner."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice
from metricjax._core.types import Labels, Match, Pairs, Refs, Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner


@miner()
def batch_easy_hard(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    pos_strategy: str = "easy",
    neg_strategy: str = "semihard",
    allowed_pos_range: tuple[Scalar, Scalar] | None = None,
    allowed_neg_range: tuple[Scalar, Scalar] | None = None,
    distance: Distance = LpDistance(),
) -> Pairs:
    r"""Keeps one positive and one negative of each anchor: easy, semihard or hard.

    .. math::
        \text{hard: } \max_p d_{ap}, \; \min_n d_{an} \qquad
        \text{easy: } \min_p d_{ap}, \; \max_n d_{an}

    ``"semihard"`` depends on the pair that was chosen of the other kind. It is the farthest
    positive that is nearer than the negative, or the nearest negative that is farther than the
    positive (strictly). At a tie the first pair is kept. An anchor keeps its pairs only if it has
    one of each kind. ``"all"`` keeps every pair of a kind. Then the two kinds are chosen
    independently.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0], [1.0], [2.0], [3.0], [5.0]]), jnp.array([0, 0, 1, 1, 0])
        >>> line = mj.distances.LpDistance(normalize_embeddings=False)
        >>> print(mj.miners.batch_easy_hard(x, y, distance=line).negative)
        [[0. 0. 1. 0. 0.]
         [0. 0. 0. 1. 0.]
         [1. 0. 0. 0. 0.]
         [0. 1. 0. 0. 0.]
         [0. 0. 0. 0. 0.]]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        pos_strategy: ``"hard"``, ``"semihard"``, ``"easy"`` or ``"all"``; static.
        neg_strategy: the same for the negatives. If one of the two is ``"semihard"``, the other
            must be ``"hard"`` or ``"easy"``.
        allowed_pos_range: ``(low, high)``, both inclusive: only pairs with a `distance` in this
            range can be chosen. No bounds by default; ``"all"`` ignores the range.
        allowed_neg_range: the same for the negatives.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``.

    Raises:
        ValueError: if a strategy is unknown, or the two cannot be combined.

    References:
        Xuan et al., `Improved Embeddings with Easy Positive Triplet Mining
        <https://arxiv.org/abs/1904.04370>`_, 2020.
    """
    name = "miners.batch_easy_hard"
    strategies = {"pos_strategy": pos_strategy, "neg_strategy": neg_strategy}
    for side, strategy in strategies.items():
        check_choice(name, side, strategy, ("hard", "semihard", "easy", "all"))
    for side, other in (tuple(strategies), tuple(strategies)[::-1]):
        if strategies[side] == "semihard":
            where_semihard = f"{name}: with {side}='semihard'"
            check_choice(where_semihard, other, strategies[other], ("hard", "easy"))
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    positive, negative = allowed_pos_range, allowed_neg_range
    return easy_hard(pairs, cost, distance, (pos_strategy, positive), (neg_strategy, negative))


def easy_hard(pairs: Pairs, cost, distance, positives, negatives) -> Pairs:
    """Keeps the pairs of each kind and anchor that its ``(strategy, range)`` chooses."""
    (pos_strategy, pos_range), (neg_strategy, neg_range) = positives, negatives
    mat = -cost if distance.is_similarity else cost

    def allowed(weights, strategy, bounds):
        if bounds is None or strategy == "all":
            return weights > 0
        return (weights > 0) & ~((mat < bounds[0]) | (mat > bounds[1]))  # a NaN is allowed

    positive = allowed(pairs.positive, pos_strategy, pos_range)
    negative = allowed(pairs.negative, neg_strategy, neg_range)
    if pos_strategy == "semihard":
        negative = _one(cost, negative, farthest=neg_strategy == "easy")
        positive &= ~(cost >= _cost_of(cost, negative))
    if pos_strategy != "all":
        positive = _one(cost, positive, farthest=pos_strategy != "easy")
    if neg_strategy == "semihard":
        negative &= ~(cost <= _cost_of(cost, positive))
    if neg_strategy != "all":
        negative = _one(cost, negative, farthest=neg_strategy == "easy")
    if "all" not in (pos_strategy, neg_strategy):
        both = jnp.any(positive, 1, keepdims=True) & jnp.any(negative, 1, keepdims=True)
        positive, negative = positive & both, negative & both
    return Pairs(jnp.where(positive, pairs.positive, 0), jnp.where(negative, pairs.negative, 0))


def _one(cost, allowed, farthest):
    """Keeps each anchor's farthest or nearest allowed pair: the first NaN, or first at a tie."""
    if not cost.size:
        return allowed
    if farthest:
        j = jnp.argmax(jnp.where(allowed, cost, -jnp.inf), 1)
    else:
        j = jnp.argmin(jnp.where(allowed, cost, jnp.inf), 1)
    return allowed & (jnp.arange(cost.shape[1])[None, :] == j[:, None])


def _cost_of(cost, chosen):
    return jnp.sum(jnp.where(chosen, cost, 0), 1, keepdims=True)
