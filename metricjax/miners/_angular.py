"""Angular miner."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_euclidean
from metricjax._core.refs import take
from metricjax._core.types import Labels, Match, Refs, Scalar, TripletRule
from metricjax.distances import LpDistance
from metricjax.miners._all import existing, miner


@miner()
def angular(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    angle: Scalar = 20.0,
    distance: LpDistance = LpDistance(),
) -> TripletRule:
    r"""Keeps the triplets whose angle at the negative is larger than `angle`.

    .. math::
        \tan^{-1} \frac{\lVert x_a - x_p \rVert}{2 \lVert x_n - c \rVert} > \alpha
        \qquad c = \frac{x_a + x_p}{2}

    The angle is that of a right triangle. Its legs are the distance from the negative to the
    midpoint c of anchor and positive, and half the distance from anchor to positive. By Apollonius'
    theorem the condition is :math:`d_{ap}^2 > 2 \sin^2 \alpha \, (d_{an}^2 + d_{pn}^2)`, so only
    squared distances are needed. They are computed from the embeddings as given, without
    normalization.

    With an `angle` of 90 degrees or more no triplet is kept, and with a negative `angle` every
    triplet is kept. Otherwise, a triplet whose anchor and positive coincide is not kept. Distances
    within rounding error of 0 count as 0. If clusters are far from the origin, shift them to the
    origin, or use unit vectors.

    Triplets are never listed: the result is a rule that triplet losses apply while they stream the
    triplets. It takes ``N * M + M * M`` memory.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]), jnp.array([0, 0, 1])
        >>> for angle in 44.9, 45.1:  # the corner is at 45 degrees
        ...     mined = mj.miners.angular(x, y, angle=angle)
        ...     print(mj.tuples.as_pairs(mined).positive.sum())
        2.0
        0.0

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        angle: :math:`\alpha`, in degrees.
        distance: `LpDistance`, possibly with another `precision`.

    Returns:
        A `TripletRule`; `metricjax.tuples.as_pairs` converts it to pairs.

    References:
        Wang et al., `Deep Metric Learning with Angular Loss <https://arxiv.org/abs/1708.01682>`_,
        2017.
    """
    name = "miners.angular"
    check_euclidean(name, distance)
    squared = dataclasses.replace(distance, power=2, normalize_embeddings=False)
    batch, pairs = existing(name, embeddings, labels, refs, where, match)
    others = batch.refs.embeddings
    mat, among = squared(batch.embeddings, others), squared(others)
    angle = jax.lax.stop_gradient(jnp.asarray(angle, mat.dtype))
    beyond = jnp.where(angle < 0, -jnp.inf, jnp.where(angle >= 90, jnp.inf, 0))
    factor = jnp.where(beyond == 0, 2 * jnp.sin(jnp.deg2rad(angle)) ** 2, 0)
    keep = jax.tree_util.Partial(_wider, factor, beyond, among)
    return TripletRule(pairs.positive, pairs.negative, mat, keep)


def _wider(factor, beyond, among, squared, j):
    """Says whether the angle is wide enough; a NaN counts, so that the loss shows it."""
    ap = jnp.take_along_axis(squared, j[:, None], 1)
    return ~(ap <= factor * (squared + take(among, j)) + beyond)
