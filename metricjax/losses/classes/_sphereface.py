"""SphereFace loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_at_least, check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity, DotProductSimilarity, normalize
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import cross_entropy, multiply_angle, norms, prepare_classes


@declare()
def sphereface(
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
    r"""Pulls each sample to its class weights of norm 1 by a softmax, with their angle multiplied.

    .. math::
        z_{ic} = s \lVert x_i \rVert \cos\theta_{ic} \qquad
        z_{iy} = s \lVert x_i \rVert \psi(\theta_{iy}) \qquad
        \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \; k = \lfloor m \theta / \pi \rfloor

    The loss is the cross-entropy of :math:`z`. This is `large_margin_softmax` with class weights of
    norm 1.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.sphereface(x, y, w))
        >>> print(f"{loss:.4f}")
        2.2793

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``; `metricjax.nn.SphereFace` owns them.
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
        - when: the first angular margin; embedding norms matter
        - miner: weighs samples
        - cost: NC
        - setting: default, without the paper's annealing

    References:
        Liu et al., `SphereFace: Deep Hypersphere Embedding for Face Recognition
        <https://arxiv.org/abs/1704.08063>`_, 2017.
    """
    check_distance("losses.sphereface", distance, CosineSimilarity)
    check_at_least("losses.sphereface", "margin", margin, 1)
    batch = prepare_classes(
        "losses.sphereface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    lengths = norms(batch.embeddings)
    product = DotProductSimilarity(normalize_embeddings=False, precision=distance.precision)
    own, rivals = own_and_rivals(batch, lambda x, w: product(x, normalize(w)), scale)
    target = lengths * multiply_angle(safe_divide(own, lengths), int(margin))
    return {"loss": cross_entropy(batch, scale * target, rivals)}
