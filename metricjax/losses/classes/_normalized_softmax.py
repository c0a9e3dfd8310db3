"""Normalized softmax loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity, Distance, DotProductSimilarity, normalize
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import cross_entropy, prepare_classes, similarities


@declare(within={"temperature": "(0, inf)"})
def normalized_softmax(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.05,
    distance: Distance = DotProductSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class weights by a softmax over similarities to unit weights.

    .. math:: \ell_i = -\log \frac{e^{s_{iy} / \tau}}{\sum_c e^{s_{ic} / \tau}}

    A distance is negated. The default `distance` also normalizes the embeddings.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.normalized_softmax(x, y, w))
        >>> print(f"{loss:.4f}")
        0.0155

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``; `metricjax.nn.NormalizedSoftmax` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the similarities, > 0.
        distance: distance or similarity. The weights are normalized by the norm that it uses.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: many samples of known classes; start here
        - miner: weighs samples
        - cost: NC
        - setting: default

    References:
        Zhai and Wu, `Classification is a Strong Baseline for Deep Metric Learning
        <https://arxiv.org/abs/1811.12649>`_, 2018.
    """
    name = "losses.normalized_softmax"
    batch = prepare_classes(name, embeddings, labels, weights, mined, where, class_axis=class_axis)
    similarity = lambda x, w: unit_similarities(x, w, distance)
    own, rivals = own_and_rivals(batch, similarity, 1 / temperature)
    return {"loss": cross_entropy(batch, own / temperature, rivals)}


def unit_similarities(embeddings, weights, distance):
    """Similarities to the normalized weights."""
    if not getattr(distance, "normalize_embeddings", isinstance(distance, CosineSimilarity)):
        weights = normalize(weights, getattr(distance, "p", 2))
    return similarities(distance, embeddings, weights)
