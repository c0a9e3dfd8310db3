"""What the losses with class weights share: labels that name a class, softmax over classes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._check import check_embeddings, check_labels
from metricjax._masked import logsumexp
from metricjax._refs import prepare
from metricjax._types import LossTerm
from metricjax.losses._terms import row_term
from metricjax.tuples import check_mined, sample_weights


class ClassBatch(NamedTuple):
    """A checked batch: each sample's class as a row of `target`, its weight, its mined weight."""

    embeddings: Float[Array, "n d"]
    target: Bool[Array, "n c"]
    weights: Float[Array, " n"]
    mined: Float[Array, " n"]


def prepare_classes(function, embeddings, labels, weights, mined, where, class_ids=None):
    """Checks the arguments of the public `function`; labels outside the classes get weight 0.

    With `class_ids` the rows of `weights` are some of the classes only, and every label counts.
    """
    if labels is None:
        raise ValueError(f"{function}: `labels` are needed.")
    batch = prepare(function, embeddings, labels, None, where)
    n, d = batch.embeddings.shape
    check_labels(function, "labels", labels, "embeddings", n)
    check_embeddings(function, "weights", weights)
    if weights.shape[1] != d:
        raise ValueError(
            f"{function}: `weights` must have shape [C, {d}] to match `embeddings`, "
            f"got {weights.shape}."
        )
    rows = batch.weights
    if class_ids is None:
        class_ids = jnp.arange(len(weights))
        rows = jnp.where((labels >= 0) & (labels < len(weights)), rows, 0)
    else:
        check_labels(function, "class_ids", class_ids, "weights", len(weights))
    if mined is None:
        counts = jnp.ones_like(rows)
    else:
        check_mined(function, mined)
        counts = sample_weights(mined, n, dtype=rows.dtype)
    target = labels.astype(jnp.int32)[:, None] == class_ids.astype(jnp.int32)[None, :]
    return ClassBatch(batch.embeddings, target, rows, counts)


def cross_entropy(batch: ClassBatch, logits, target_logit) -> LossTerm:
    """Softmax cross-entropy with `target_logit` ``[N]`` in the place of the class's own logit."""
    logits = jnp.where(batch.target, target_logit[:, None], logits)
    values = batch.mined * (logsumexp(logits, jnp.ones_like(logits)) - target_logit)
    return row_term(values, batch.weights)


def of_target(batch: ClassBatch, mat):
    """The entry ``[N]`` of `mat` ``[N, C]`` in each sample's own class."""
    return jnp.sum(jnp.where(batch.target, mat, 0), 1)
