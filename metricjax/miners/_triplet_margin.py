"""Triplet margin miner."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice
from metricjax._core.types import Labels, Match, Refs, Scalar, TripletRule
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner


@miner()
def triplet_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    margin: Scalar = 0.2,
    type_of_triplets: str = "all",
    distance: Distance = LpDistance(),
) -> TripletRule:
    r"""Keeps the triplets whose gap :math:`t = d_{an} - d_{ap}` is of the chosen kind.

    .. math::
        \text{all: } t \le m \qquad \text{hard: } t \le \min(m, 0) \qquad
        \text{semihard: } 0 < t \le m \qquad \text{easy: } t > m

    With a similarity the gap changes sign. Triplets are never listed: the result is a rule that
    triplet losses apply while they stream the triplets. It takes ``N * M`` memory.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0], [1.0], [2.0], [3.0], [5.0]]), jnp.array([0, 0, 1, 1, 0])
        >>> line = mj.distances.LpDistance(normalize_embeddings=False)
        >>> mined = mj.miners.triplet_margin(x, y, type_of_triplets="easy", distance=line)
        >>> print(mj.tuples.as_pairs(mined).positive.sum())
        8.0

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        margin: m, in the unit of `distance`.
        type_of_triplets: ``"all"``, ``"hard"``, ``"semihard"`` or ``"easy"``; static.
        distance: pairwise distance or similarity.

    Returns:
        A `TripletRule`; `metricjax.tuples.as_pairs` converts it to pairs.

    References:
        Schroff et al., `FaceNet: A Unified Embedding for Face Recognition and Clustering
        <https://arxiv.org/abs/1503.03832>`_, 2015.
    """
    name = "miners.triplet_margin"
    check_choice(name, "type_of_triplets", type_of_triplets, ("all", "hard", "semihard", "easy"))
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    margin = jax.lax.stop_gradient(jnp.asarray(margin, cost.dtype))
    above, up_to = {
        "all": (-jnp.inf, margin),
        "hard": (-jnp.inf, jnp.minimum(margin, 0)),
        "semihard": (0.0, margin),
        "easy": (margin, jnp.inf),
    }[type_of_triplets]
    keep = jax.tree_util.Partial(_gap_within, *(jnp.asarray(x, cost.dtype) for x in (above, up_to)))
    return TripletRule(pairs.positive, pairs.negative, cost, keep)


def _gap_within(above, up_to, cost, j):
    """Says if ``above < cost_an - cost_ap <= up_to``; a NaN counts, so that the loss shows it."""
    gap = cost - jnp.take_along_axis(cost, j[:, None], 1)
    return ~((gap <= above) | (gap > up_to))
