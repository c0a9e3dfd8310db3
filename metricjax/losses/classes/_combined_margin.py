"""Combined-margin loss: the margins of SphereFace, ArcFace and CosFace in one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals, own_similarity
from metricjax.losses._classes import cross_entropy, in_single, prepare_classes, turned


@declare(within={"m1": "(0, inf)", "m2": "[0, 180]"}, degrees=("m2",))
def combined_margin(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    m1: Scalar = 1.0,
    m2: Scalar = 28.6478898,
    m3: Scalar = 0.0,
    filter_above: Scalar | None = None,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class center, with the margins of SphereFace, ArcFace and CosFace.

    .. math::
        \ell_i = -\log \frac{e^{s g(\theta_{iy})}}
        {e^{s g(\theta_{iy})} + \sum_{c \neq y} e^{s \cos\theta_{ic}}} \qquad
        g(\theta) = (-1)^k \cos\varphi - 2k - m_3 \qquad \varphi = m_1 \theta + m_2 \qquad
        k = \lfloor \varphi / \pi \rfloor

    :math:`g` is continuous, and decreases over all angles. With (m1, m2, m3) = (1, 0, m), this is
    `cosface`. With (1, m, 0), it is `arcface` up to :math:`\theta = \pi - m`. With (m, 0, 0), it
    multiplies the angle as `sphereface` does.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.combined_margin(x, y, w, m1=1.0, m2=0.0, m3=0.35))
        >>> print(f"{loss:.4f}")
        7.5714

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.CombinedMargin` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        m1: factor of the angle.
        m2: added to the angle, in degrees; the default is 0.5 radians.
        m3: subtracted from the cosine.
        filter_above: if another class has a larger cosine than this, it is taken for the same class
            under another label, and its logit is 0. The default, ``None``, filters nothing;
            insightface uses 0.4.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: faces; noisy classes with `filter_above`
        - miner: weighs samples
        - cost: NC
        - setting: (m1, m2, m3) = (1, 28.65, 0), (1, 0, 0.4) or (0.9, 22.9, 0.15)

    References:
        Deng et al., `ArcFace: Additive Angular Margin Loss for Deep Face Recognition
        <https://arxiv.org/abs/1801.07698>`_, 2018.
    """
    check_distance("losses.combined_margin", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.combined_margin", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    if filter_above is None:
        own, rivals = own_and_rivals(batch, distance, scale)
    else:
        batch = in_single(batch)

        def kept(x, w):
            cosine = distance(x, w)
            return jnp.where(jax.lax.stop_gradient(cosine) > filter_above, 0, cosine)

        own, rivals = own_similarity(batch, distance), own_and_rivals(batch, kept, scale)[1]
    target = _folded(own, m1, jnp.deg2rad(jnp.asarray(m2, own.dtype))) - m3
    return {"loss": cross_entropy(batch, scale * target, rivals)}


def _folded(cosine, m1, m2):
    """``(-1)^k cos(phi) - 2k``: a cosine that keeps decreasing beyond pi."""
    # the derivative of arccos is unbounded at -1 and 1, so the cosine stays 2 eps away from them
    inside = 1 - 2 * jnp.finfo(cosine.dtype).eps
    angle = jnp.arccos(jnp.clip(cosine, -inside, inside))
    k = jnp.floor(jax.lax.stop_gradient(m1 * angle + m2) / jnp.pi)
    multiple = turned(cosine, (m1 - 1) * angle + m2)  # exact if m1 is 1
    return jnp.where(k % 2 == 0, multiple, -multiple) - 2 * k
