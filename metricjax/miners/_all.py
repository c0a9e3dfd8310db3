"""What the miners share: the pairs to choose from, and how close they are."""

import jax
import jax.numpy as jnp

from metricjax._core.refs import prepare
from metricjax._core.types import Pairs
from metricjax.losses._pairs import pairs_of


def existing(function, embeddings, labels, refs, where, match, mined=None):
    """The batch and all its pairs, or those of `mined`, without gradient.

    Sample weights only decide which samples exist here: the loss applies them.
    """
    data = embeddings, labels, refs, where, mined
    embeddings, labels, refs, where, mined = jax.lax.stop_gradient(data)
    batch = prepare(function, embeddings, labels, refs, where)
    exists = (batch.ref_weights > 0).astype(batch.weights.dtype)
    batch = batch._replace(refs=batch.refs._replace(where=exists))
    pairs = pairs_of(function, batch, mined, match)
    anchors = batch.weights[:, None] > 0
    return batch, Pairs(*(jnp.where(anchors, x, 0) for x in pairs))


def candidates(function, embeddings, labels, refs, where, match, distance, mined=None):
    """All pairs, or those of `mined`, and their costs ``[N, M]``: small means close."""
    batch, pairs = existing(function, embeddings, labels, refs, where, match, mined)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    return pairs, -mat if distance.is_similarity else mat
