"""Instance loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance, check_known_size, check_rows
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare, replicated
from metricjax._core.triplets import pick
from metricjax._core.types import LossDict, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._terms import row_term


@declare()
def instance(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    gamma: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Pulls each anchor to the reference that stands for its class, by a softmax over references.

    .. math::
        \ell_a = -\log \frac{e^{\gamma s_{a t_a}}}{\sum_j e^{\gamma s_{aj}}}

    where :math:`t_a` is the rank of the anchor's label among the distinct labels of the references:
    the first references stand for the classes, in the order of the labels. PyTorch Metric Learning
    computes the same. The paper uses a learned classifier, shared by two modalities, instead of the
    references. For that, use `normalized_softmax` on both modalities.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.instance(x, jnp.array([0, 0, 1]), gamma=1.0))
        >>> print(f"{loss:.4f}")
        1.4251

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: the references, which stand for the classes; the batch itself by default. An anchor
            is also compared with itself.
        where: ``[N]`` sample weights; 0 is padding.
        gamma: factor of the cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors. An anchor has weight 0 if no reference
        is left for its class: if the labels of the references are all distinct and smaller.

    Notes:
        - when: parity with PML; otherwise use `normalized_softmax`
        - miner: none taken
        - cost: NM
        - setting: none: the paper uses a learned classifier

    References:
        Zheng et al., `Dual-Path Convolutional Image-Text Embeddings with Instance Loss
        <https://arxiv.org/abs/1711.05535>`_, 2017.
    """
    check_distance("losses.instance", distance, CosineSimilarity)
    check_known_size("losses.instance", jnp.shape(embeddings)[0])
    batch = prepare(embeddings, labels, refs, where)
    labels, others = batch.labels, batch.refs
    for name, y, of in (("labels", labels, batch), ("refs.labels", others.labels, others)):
        check_rows("losses.instance", name, y, "embeddings", of.embeddings.shape[0], class_ids=True)
    weights = batch.ref_weights
    logits = gamma * distance(batch.embeddings, batch.refs.embeddings)
    target, known = _target(*replicated((labels, others.labels, weights > 0)))
    rivals = jnp.where(
        jnp.arange(weights.shape[0], dtype=jnp.int32)[None, :] == target[:, None],
        0,
        weights[None, :],
    )
    values = softplus(logsumexp(logits, rivals) - pick(logits, target)[:, 0])
    # changes no value, but XLA then needs 1.8 MiB of temporaries at N = 512 instead of 2.5
    values = jnp.where(jnp.sum(weights) > weights[target], values, 0)
    return {"loss": row_term(values, jnp.where(known, batch.weights, 0))}


def _target(labels, ref_labels, exists):
    """The reference that stands for each label, and whether there is one.

    It is the r-th existing reference, for the r-th smallest label.
    """
    ref_labels = jnp.where(exists, ref_labels, jnp.iinfo(ref_labels.dtype).max)
    order = jnp.argsort(ref_labels)
    ordered = ref_labels[order]
    new = exists[order] & jnp.pad(ordered[1:] != ordered[:-1], (1, 0), constant_values=True)
    smaller = jnp.searchsorted(ordered, labels.astype(ordered.dtype))
    rank = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(new, dtype=jnp.int32)])[smaller]
    existing_first = jnp.argsort(~exists).astype(jnp.int32)
    known = rank < jnp.sum(exists, dtype=jnp.int32)
    return existing_first[jnp.where(known, rank, 0)], known
