"""ArcFace loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, PerClass, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import (
    add_angle,
    cross_entropy,
    of_own_class,
    prepare_classes,
)


@declare(within={"margin": "[0, 180]"}, degrees=("margin",))
def arcface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    margin: PerClass = 28.6,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class center, with a margin added to their angle.

    .. math::
        \ell_i = -\log \frac{e^{s g(\theta_{iy})}}
        {e^{s g(\theta_{iy})} + \sum_{c \neq y} e^{s \cos\theta_{ic}}}
        \qquad g(\theta) = \begin{cases} \cos(\theta + m) & \theta \le \pi - m \\
        \cos\theta - m \sin m & \text{else} \end{cases}

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.arcface(x, y, w))
        >>> print(f"{loss:.4f}")
        11.8691

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.ArcFace` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        margin: degrees, 0 to 180: one number, or ``[C]``, one for each class; see
            `dynamic_margins`.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: faces, or any large set of classes
        - miner: weighs samples
        - cost: NC
        - setting: default (28.6 degrees are about 0.5 radians)

    References:
        Deng et al., `ArcFace: Additive Angular Margin Loss for Deep Face Recognition
        <https://arxiv.org/abs/1801.07698>`_, 2018.
    """
    check_distance("losses.arcface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.arcface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    own, rivals = own_and_rivals(batch, distance, scale)
    margin = of_own_class("losses.arcface", "margin", margin, batch)
    return {"loss": cross_entropy(batch, scale * add_angle(own, margin), rivals)}
