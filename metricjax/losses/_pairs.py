"""What the pair and triplet losses share: which tuples count, and all triplets in turn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metricjax._core.check import check_rows
from metricjax._core.refs import Batch, replicated, spread_as
from metricjax._core.stream import Stream, sum_over
from metricjax._core.triplets import pick, triplets_at, walk_positives
from metricjax._core.types import LossDict, Mined, Pairs, TripletRule, Triplets
from metricjax.tuples import as_pairs, check_mined, label_pairs
from metricjax.tuples._convert import samples_weighed
from metricjax.tuples._lists import there


def pairs_of(function, batch: Batch, mined, match, *, repeats: bool = True) -> Pairs:
    """Weights ``[N, M]`` of the pairs that count: mined or all, times the references' weights.

    Without `repeats`, a pair that was mined twice counts once.
    """
    if mined is None:
        return label_pairs(function, batch.labels, batch.refs, match, batch.weights.dtype)
    check_mined(function, mined)
    pairs = as_pairs(mined, (batch.embeddings.shape[0], batch.refs.embeddings.shape[0]))
    if not repeats:
        pairs = Pairs(*(jnp.minimum(x, 1) for x in pairs))
    return _weighed(function, batch, pairs)


def triplets_of(function, batch: Batch, mined, match) -> Mined:
    """The triplets that count, mined or all, with weights times those of the three samples."""
    if isinstance(mined, Triplets):
        mined = there(mined, batch.embeddings.shape[0], batch.refs.embeddings.shape[0])
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


def with_itself(positive, refs):
    """Positive weights ``[N, M]`` with each anchor that is among the references as its own."""
    if refs.self_index is None:
        return positive
    own = refs.self_index[:, None] == jnp.arange(positive.shape[1])[None, :]
    return jnp.where(own, refs.where[None, :], positive)


def at_refs(batch: Batch, x):
    """A vector ``[M]`` with the entries of `x` ``[N]`` where its anchors are references."""
    x, weights, index = replicated((x, batch.weights, batch.refs.self_index))
    x = jnp.where(weights > 0, x.astype(weights.dtype), 0)
    nowhere = jnp.zeros(batch.refs.embeddings.shape[0], x.dtype)
    if index is None:
        return nowhere
    return nowhere.at[jnp.where(index < 0, nowhere.shape[0], index)].add(x, mode="drop")


class TripletSlab(NamedTuple):
    """Triplets side by side: listed ``[T]``, or each anchor's positive with all references.

    Attributes:
        ap, an: entries of the distance matrix, ``[T]``, or ``[N, 1]`` and ``[N, M]``.
        weights: ``[T]`` or ``[N, M]``.
        anchor: ``[T]``, or ``None``: row i is anchor i.
        positive: ``[T]`` or ``[N]``, indices of references.
        negative: ``[T]``, or ``None``: column j is reference j.
    """

    ap: Array
    an: Array
    weights: Array
    anchor: Array | None
    positive: Array
    negative: Array | None

    def of_anchor(self, x):
        """A vector ``[N]`` with an entry for each anchor, as one that meets `ap` and `an`."""
        return x[:, None] if self.anchor is None else replicated(x)[self.anchor]

    def option(self, x):
        """An option, a number or ``[N, 1]``, as one that meets `ap` and `an`."""
        return self.of_anchor(x[:, 0]) if jnp.ndim(x) else x


def each_triplet(mined: Mined, mat, make) -> LossDict:
    """The loss dict ``make(slab)`` of all triplets: listed ones at once, others streamed."""
    if isinstance(mined, Triplets):
        return make(_listed(mined, mat))
    at, steps = _walked(mined, mat)
    return Stream(lambda k: make(at(k)), steps).terms()


def sum_over_triplets(mined: Mined, mat, fn):
    """The sum of ``fn(slab)`` over all triplets."""
    if isinstance(mined, Triplets):
        return fn(_listed(mined, mat))
    at, steps = _walked(mined, mat)
    return sum_over(lambda k: fn(at(k)), steps)


def _listed(mined, mat):
    a, p, n, weights = mined
    mat = replicated(mat)
    return TripletSlab(mat[a, p], mat[a, n], weights, a, p, n)


def _walked(mined, mat):
    walk = walk_positives(mined.positive)

    def at(k):
        j, weights = triplets_at(mined, walk, k)
        return TripletSlab(pick(mat, j), mat, weights, None, j, None)

    return at, walk.steps


def mined_weights(function, mined, batch: Batch, *, self_refs: bool = True):
    """What `mined` weighs each sample by ``[N]``: how often it was mined, see `sample_weights`."""
    if mined is None:
        return jnp.ones_like(batch.weights)
    n, dtype = batch.embeddings.shape[0], batch.weights.dtype
    if isinstance(mined, jax.Array | np.ndarray):
        check_rows(function, "mined", mined, "embeddings", n)
        return jnp.asarray(mined).astype(dtype)
    return samples_weighed(function, mined, n, self_refs, dtype)


def _weighed(function, batch, pairs):
    shape = (batch.embeddings.shape[0], batch.refs.embeddings.shape[0])
    for x in pairs:
        if x.shape != shape:
            raise ValueError(f"{function}: `mined` must have shape {shape}, got {x.shape}.")
    pairs = Pairs(*(spread_as(x, batch.weights) for x in pairs))
    return Pairs(*(x.astype(batch.weights.dtype) * batch.refs.where[None, :] for x in pairs))
