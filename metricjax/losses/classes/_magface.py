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
    r"""ArcFace whose margin grows with the norm of the embedding, which comes to tell its quality.

    .. math::
        m(a) = l_m + \frac{u_m - l_m}{u_a - l_a} (a - l_a) \qquad
        \ell_i = -\log \frac{e^{s \cos(\theta_{iy} + m(a_i))}}
        {e^{s \cos(\theta_{iy} + m(a_i))} + \sum_{c \neq y} e^{s \cos\theta_{ic}}} \qquad
        g_i = \lambda_g \Big(\frac{1}{a_i} + \frac{a_i}{u_a^2}\Big)

    :math:`a_i` is the norm, clipped to :math:`[l_a, u_a]`. Beyond these it has no gradient, so
    embeddings must be scaled to lie between. The optimum of a norm is unique if
    :math:`\lambda_g \ge s k u_a^2 l_a^2 / (u_a^2 - l_a^2)`, with the slope k of m in radians.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = 20 * jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, parts = mj.reduce(mj.losses.magface(x, y, w))
        >>> print({name: f"{x:.4f}" for name, x in parts.items()})
        {'loss': '11.0094', 'magnitude_loss': '1.8079'}

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers. Samples with a label outside ``[0, C)`` get weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.MagFace` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        l_a, u_a: norms are clipped to these.
        l_margin, u_margin: the margins of these norms, in degrees (0.45 and 0.8 radians).
        lambda_g: factor of the second term.
        easy: no margin for samples at more than 90 degrees from their class, as in the authors'
            code; otherwise the margin of `arcface`. Static.
        scale: factor of all cosines.
        distance: the cosine, at another matrix precision if need be.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any;
            the embeddings must be the same on all its devices.

    Returns:
        ``{"loss": [N], "magnitude_loss": [N]}``, divided by the number of samples.

    Notes:
        - when: faces; the norm is a measure of quality afterwards
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
