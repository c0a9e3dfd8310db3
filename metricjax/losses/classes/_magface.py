"""MagFace loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import (
    add_angle,
    cross_entropy,
    in_single,
    norms,
    prepare_classes,
    turned,
)
from metricjax.losses._terms import row_term


@declare(degrees=("l_margin", "u_margin"))
def magface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    l_a: Scalar = 10.0,
    u_a: Scalar = 110.0,
    l_margin: Scalar = 25.7831008,
    u_margin: Scalar = 45.8366236,
    lambda_g: Scalar = 35.0,
    easy: bool = True,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class center, with a margin that grows with the norm of the sample.

    .. math::
        m(a) = l_m + \frac{u_m - l_m}{u_a - l_a} (a - l_a) \qquad
        \ell_i = -\log \frac{e^{s \cos(\theta_{iy} + m(a_i))}}
        {e^{s \cos(\theta_{iy} + m(a_i))} + \sum_{c \neq y} e^{s \cos\theta_{ic}}} \qquad
        g_i = \lambda_g \Big(\frac{1}{a_i} + \frac{a_i}{u_a^2}\Big)

    This is ArcFace with a margin for each sample. :math:`a_i` is the norm of the embedding, clipped
    to :math:`[l_a, u_a]`. Outside of this interval the norm has no gradient, so embeddings must be
    scaled to lie inside. During training, the norm becomes a measure of the quality of a sample.
    The optimal norm is unique if
    :math:`\lambda_g \ge s k u_a^2 l_a^2 / (u_a^2 - l_a^2)`, where k is the slope of m in radians.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = 20 * jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, parts = mj.reduce(mj.losses.magface(x, y, w))
        >>> print({name: f"{x:.4f}" for name, x in parts.items()})
        {'loss': '11.0094', 'magnitude_loss': '1.8079'}

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.MagFace` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        l_a, u_a: the smallest and the largest norm; norms are clipped to this interval.
        l_margin, u_margin: the margins at these two norms, in degrees. The defaults are 0.45 and
            0.8 radians.
        lambda_g: factor of the second term, ``magnitude_loss``.
        easy: if true, samples at 90 degrees or more from their class center have no margin, as in
            the authors' code. If false, the margin is added as in `arcface`. Static.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N], "magnitude_loss": [N]}``, divided by the number of samples.

    Notes:
        - when: faces; after training, the norm measures the quality
        - miner: weighs samples
        - cost: NC
        - setting: default; norms between 10 and 110

    References:
        Meng et al., `MagFace: A Universal Representation for Face Recognition and Quality
        Assessment <https://arxiv.org/abs/2103.06627>`_, 2021.
    """
    check_distance("losses.magface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.magface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    batch = in_single(batch)
    a = jnp.clip(norms(batch.embeddings), l_a, u_a)
    margin = l_margin + (u_margin - l_margin) / (u_a - l_a) * (a - l_a)
    own, rivals = own_and_rivals(batch, distance, scale)
    if easy:
        target = jnp.where(own > 0, turned(own, jnp.deg2rad(margin)), own)
    else:
        target = add_angle(own, margin)
    return {
        "loss": cross_entropy(batch, scale * target, rivals),
        "magnitude_loss": row_term(lambda_g * (1 / a + a / jnp.square(u_a)), batch.weights),
    }
