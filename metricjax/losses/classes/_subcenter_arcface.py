"""Sub-center ArcFace loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_at_least, check_distance
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, PerClass, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._centers import nearest
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import (
    add_angle,
    cross_entropy,
    of_own_class,
    prepare_classes,
)


@declare(within={"margin": "[0, 180]"}, degrees=("margin",))
def subcenter_arcface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "ck d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    sub_centers: int = 3,
    margin: PerClass = 28.6,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to the nearest of several centers of its class, with ArcFace's margin.

    .. math::
        \cos\theta_{ic} = \max_k \cos\theta_{ick} \qquad
        \ell_i = -\log \frac{e^{s g(\theta_{iy})}}
        {e^{s g(\theta_{iy})} + \sum_{c \neq y} e^{s \cos\theta_{ic}}}

    with :math:`g` as in `arcface`. Samples with wrong labels can gather at a center of their own.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.repeat(jnp.eye(3) + 2, 2, 0)
        >>> loss, _ = mj.reduce(mj.losses.subcenter_arcface(x, y, w, sub_centers=2))
        >>> print(f"{loss:.4f}")
        11.8691

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C * K, D]``, the K centers of a class in adjacent rows;
            `metricjax.nn.SubCenterArcFace` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        sub_centers: K; static.
        margin: degrees, 0 to 180: one number, or ``[C]``, one for each class; see
            `dynamic_margins`.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: noisy labels, or classes that form several clusters
        - miner: weighs samples
        - cost: NCK
        - setting: default

    References:
        Deng et al., `Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces
        <https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf>`_, 2020.
    """
    name = "losses.subcenter_arcface"
    check_distance(name, distance, CosineSimilarity)
    check_at_least(name, "sub_centers", sub_centers, 1)
    batch = prepare_classes(
        name, embeddings, labels, weights, mined, where, centers=sub_centers, class_axis=class_axis
    )
    cosine = lambda x, w: nearest(distance, x, w, sub_centers)
    own, rivals = own_and_rivals(batch, cosine, scale, keep=False)
    margin = of_own_class(name, "margin", margin, batch)
    return {"loss": cross_entropy(batch, scale * add_angle(own, margin), rivals)}
