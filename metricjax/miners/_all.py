"""What the miners share: the pairs to choose from, and how close they are."""

import jax
import jax.numpy as jnp

from metricjax._refs import prepare
from metricjax._types import Pairs
from metricjax.tuples import label_pairs


def candidates(function, embeddings, labels, refs, where, match, distance):
    """All pairs and their costs ``[N, M]`` (small means close), without gradient.

    Sample weights only decide which samples exist here: the loss applies them.
    """
    batch = prepare(function, *jax.lax.stop_gradient((embeddings, labels, refs, where)))
    exists = (batch.refs.where > 0).astype(batch.weights.dtype)
    refs = batch.refs._replace(where=exists)
    pairs = label_pairs(function, labels, refs, match, batch.weights.dtype)
    anchors = batch.weights[:, None] > 0
    pairs = Pairs(*(jnp.where(anchors, x, 0) for x in pairs))
    mat = distance(batch.embeddings, refs.embeddings)
    return pairs, -mat if distance.is_similarity else mat
