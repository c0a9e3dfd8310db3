"""SoftTriple loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_at_least, check_similarity
from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._centers import softmax_mean
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import cross_entropy, prepare_classes


@declare(within={"gamma": "(0, inf)"})
def soft_triple(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "ck d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    centers_per_class: int = 10,
    la: Scalar = 20.0,
    gamma: Scalar = 0.1,
    margin: Scalar = 0.01,
    distance: Distance = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to the centers of its class, most of all to the nearest of them.

    .. math::
        S_{ic} = \sum_k \frac{e^{s_{ick} / \gamma}}{\sum_l e^{s_{icl} / \gamma}} s_{ick} \qquad
        \ell_i = -\log \frac{e^{\lambda (S_{iy} - \delta)}}
        {e^{\lambda (S_{iy} - \delta)} + \sum_{c \neq y} e^{\lambda S_{ic}}}

    The similarity to a class is a softmax mean over its centers. The paper adds
    `metricjax.regularizers.sparse_centers` of the weights.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.repeat(jnp.eye(3) + 2, 2, 0)
        >>> loss, _ = mj.reduce(mj.losses.soft_triple(x, y, w, centers_per_class=2))
        >>> print(f"{loss:.4f}")
        0.0189

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C * K, D]``, the K centers of a class in adjacent rows;
            `metricjax.nn.SoftTriple` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        centers_per_class: K; static.
        la: lambda, the factor of the class similarities.
        gamma: softness of the choice among a class's centers, > 0.
        margin: delta, subtracted from the similarity to the sample's own class.
        distance: a similarity.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: classes that form several clusters
        - miner: weighs samples
        - cost: NCK
        - setting: default, with `regularizers.sparse_centers`

    References:
        Qian et al., `SoftTriple Loss: Deep Metric Learning Without Triplet Sampling
        <https://arxiv.org/abs/1909.05235>`_, 2019.
    """
    name = "losses.soft_triple"
    check_similarity(name, distance)
    check_at_least(name, "centers_per_class", centers_per_class, 1)
    k = centers_per_class
    batch = prepare_classes(
        name, embeddings, labels, weights, mined, where, centers=k, class_axis=class_axis
    )
    similarity = lambda x, w: softmax_mean(distance, x, w, k, gamma)
    own, rivals = own_and_rivals(batch, similarity, la, keep=False)
    return {"loss": cross_entropy(batch, la * (own - margin), rivals)}
