"""What the pair and triplet losses share: which tuples count."""

import jax.numpy as jnp

from metricjax._refs import Batch, replicated
from metricjax._types import Mined, Pairs, TripletRule, Triplets
from metricjax.tuples import as_pairs, check_mined, label_pairs


def pairs_of(function, batch: Batch, mined, match, *, repeats: bool = True) -> Pairs:
    """Weights ``[N, M]`` of the pairs that count: mined or all, times the references' weights.

    Without `repeats`, a pair that was mined twice counts once.
    """
    if mined is None:
        return label_pairs(function, batch.labels, batch.refs, match, batch.weights.dtype)
    check_mined(function, mined)
    pairs = as_pairs(mined, (len(batch.embeddings), len(batch.refs.embeddings)))
    if not repeats:
        pairs = Pairs(*(jnp.minimum(x, 1) for x in pairs))
    return _weighed(function, batch, pairs)


def triplets_of(function, batch: Batch, mined, match) -> Mined:
    """The triplets that count, mined or all, with weights times those of the three samples."""
    if isinstance(mined, Triplets):
        a, p, n, weights = mined
        rows, where = replicated((batch.weights, batch.refs.where))
        weights = weights.astype(rows.dtype) * rows[a] * where[p] * where[n]
        return mined._replace(weights=weights)
    if isinstance(mined, TripletRule):
        pairs = _weighed(function, batch, Pairs(mined.positive, mined.negative))
    else:
        pairs = pairs_of(function, batch, mined, match)
    positive = pairs.positive * batch.weights[:, None]
    if isinstance(mined, TripletRule):
        return mined._replace(positive=positive, negative=pairs.negative)
    return Pairs(positive, pairs.negative)


def _weighed(function, batch, pairs):
    shape = (len(batch.embeddings), len(batch.refs.embeddings))
    for x in pairs:
        if x.shape != shape:
            raise ValueError(f"{function}: `mined` must have shape {shape}, got {x.shape}.")
    return Pairs(*(x.astype(batch.weights.dtype) * batch.refs.where[None, :] for x in pairs))
