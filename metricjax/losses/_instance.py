"""Instance loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._check import check_distance, check_labels
from metricjax._chunks import anchorwise
from metricjax._masked import logsumexp
from metricjax._refs import prepare
from metricjax._types import LossDict, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._terms import row_term


@anchorwise
def instance(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    gamma: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Softmax over the references, the first ones standing for the classes in their order.

    .. math::
        \ell_a = -\log \frac{e^{\gamma s_{a t_a}}}{\sum_j e^{\gamma s_{aj}}}

    with :math:`t_a` the rank of the anchor's label among the distinct labels of the references.
    This is what PyTorch Metric Learning computes. The paper has a learned classifier, shared by two
    modalities, in the place of the references: for that, use `normalized_softmax` on both.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.instance(x, jnp.array([0, 0, 1]), gamma=1.0))
        >>> print(f"{loss:.4f}")
        1.4251

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: the classes, the batch itself by default; an anchor meets itself, too.
        where: ``[N]`` sample weights; 0 is padding.
        gamma: factor of the cosines.
        distance: the cosine, at another matrix precision if need be.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors. One with a larger label than all
        references, of which there are too few then, gets weight 0.

    References:
        Zheng et al., `Dual-Path Convolutional Image-Text Embeddings with Instance Loss
        <https://arxiv.org/abs/1711.05535>`_, 2017.
    """
    check_distance("losses.instance", distance, CosineSimilarity)
    batch = prepare("losses.instance", embeddings, labels, refs, where)
    if labels is None:
        raise ValueError("losses.instance: `labels` are needed.")
    labels, others = batch.labels, batch.refs
    for name, y, of in (("labels", labels, batch), ("refs.labels", others.labels, others)):
        check_labels("losses.instance", name, y, "embeddings", len(of.embeddings))
    weights = batch.ref_weights
    logits = gamma * distance(batch.embeddings, others.embeddings)
    place = jnp.cumsum(weights > 0, dtype=jnp.int32)[None, :] - 1
    rank = _rank(labels, others.labels, weights > 0)[:, None]
    target = (weights > 0)[None, :] & (place == rank)
    own = jnp.sum(jnp.where(target, logits, 0), 1)
    rivals = jnp.where(target, 0, weights[None, :])
    values = jax.nn.softplus(logsumexp(logits, rivals) - own)
    values = jnp.where(jnp.any(rivals > 0, 1), values, 0)
    return {"loss": row_term(values, jnp.where(jnp.any(target, 1), batch.weights, 0))}


def _rank(labels, ref_labels, exists):
    """For each label, how many distinct smaller ones there are among those that exist."""
    last = jnp.iinfo(ref_labels.dtype).max
    first = jnp.argsort(jnp.where(exists, ref_labels, last))
    ordered = ref_labels[first]
    repeated = jnp.pad(ordered[1:] == ordered[:-1], (1, 0))[: len(ordered)]
    new = exists[first] & ~repeated
    smaller = new[None, :] & (ordered[None, :] < labels[:, None])
    return jnp.sum(smaller, 1, dtype=jnp.int32)
