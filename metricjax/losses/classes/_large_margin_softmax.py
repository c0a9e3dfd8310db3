"""Large-margin softmax loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_at_least, check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity, DotProductSimilarity
from metricjax.losses._class_blocks import own_and_rivals, own_rows
from metricjax.losses._classes import cross_entropy, multiply_angle, norms, prepare_classes


@declare()
def large_margin_softmax(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    margin: int = 4,
    scale: Scalar = 1.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class weights by a softmax, with the angle between them multiplied.

    .. math::
        z_{ic} = s \lVert x_i \rVert \lVert w_c \rVert \cos\theta_{ic} \qquad
        z_{iy} = s \lVert x_i \rVert \lVert w_y \rVert \psi(\theta_{iy}) \qquad
        \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \; k = \lfloor m \theta / \pi \rfloor

    The loss is the cross-entropy of :math:`z`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.large_margin_softmax(x, y, w))
        >>> print(f"{loss:.4f}")
        6.7888

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``; `metricjax.nn.LargeMarginSoftmax` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        margin: m, the factor of the angle, an integer of at least 1; static.
        scale: factor of all logits.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: as `sphereface`, with class weights of any norm
        - miner: weighs samples
        - cost: NC
        - setting: default, without the paper's annealing

    References:
        Liu et al., `Large-Margin Softmax Loss for Convolutional Neural Networks
        <https://arxiv.org/abs/1612.02295>`_, 2016.
    """
    name = "losses.large_margin_softmax"
    check_distance(name, distance, CosineSimilarity)
    check_at_least(name, "margin", margin, 1)
    batch = prepare_classes(name, embeddings, labels, weights, mined, where, class_axis=class_axis)
    product = DotProductSimilarity(normalize_embeddings=False, precision=distance.precision)
    own, rivals = own_and_rivals(batch, product, scale)
    lengths = norms(batch.embeddings) * norms(own_rows(batch))
    target = lengths * multiply_angle(safe_divide(own, lengths), int(margin))
    return {"loss": cross_entropy(batch, scale * target, rivals)}
