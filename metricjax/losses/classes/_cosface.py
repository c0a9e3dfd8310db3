"""CosFace loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, PerClass, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import cross_entropy, of_own_class, prepare_classes


@declare()
def cosface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    margin: PerClass = 0.35,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class center, with a margin subtracted from their cosine.

    .. math::
        \ell_i = -\log \frac{e^{s (\cos\theta_{iy} - m)}}
        {e^{s (\cos\theta_{iy} - m)} + \sum_{c \neq y} e^{s \cos\theta_{ic}}}

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.cosface(x, y, w))
        >>> print(f"{loss:.4f}")
        7.5714

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.CosFace` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        margin: subtracted from the cosine; the paper uses 0.25 to 0.45. One number, or ``[C]``, one
            for each class; see `ldam_margins`.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: as `arcface`, with the margin on the cosine
        - miner: weighs samples
        - cost: NC
        - setting: default; 0.25 to 0.45

    References:
        Wang et al., `CosFace: Large Margin Cosine Loss for Deep Face Recognition
        <https://arxiv.org/abs/1801.09414>`_, 2018.
    """
    check_distance("losses.cosface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.cosface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    own, rivals = own_and_rivals(batch, distance, scale)
    margin = of_own_class("losses.cosface", "margin", margin, batch)
    return {"loss": cross_entropy(batch, scale * (own - margin), rivals)}
