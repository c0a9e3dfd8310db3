"""Shared by the miners: the pairs to choose from, and their distances."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from metricjax._core.check import options_of
from metricjax._core.refs import admit, prepare
from metricjax._core.types import Pairs
from metricjax.losses._pairs import pairs_of

P = ParamSpec("P")
T = TypeVar("T")


def miner(**within: str):
    """Checks the options of a miner: a distance and numbers, some of them `within` an interval."""

    def mark(fn: Callable[P, T]) -> Callable[P, T]:
        options = options_of(inspect.signature(fn), within)

        @functools.wraps(fn)
        def checked(*args, **given):
            options.check(f"miners.{fn.__name__}", 0, args[1:], given)
            return fn(*args, **given)

        return checked  # type: ignore[return-value]

    return mark


def existing(function, embeddings, labels, refs, where, match, mined=None):
    """Returns the batch and all its pairs, or the pairs of `mined`, without gradient.

    Sample weights only decide which samples exist here. The loss applies the weights.
    """
    embeddings, labels, refs = admit(function, embeddings, labels, refs, where)
    data = embeddings, labels, refs, where, mined
    embeddings, labels, refs, where, mined = jax.lax.stop_gradient(data)
    batch = prepare(embeddings, labels, refs, where)
    exists = (batch.ref_weights > 0).astype(batch.weights.dtype)
    batch = batch._replace(refs=batch.refs._replace(where=exists))
    pairs = pairs_of(function, batch, mined, match)
    anchors = batch.weights[:, None] > 0
    return batch, Pairs(*(jnp.where(anchors, x, 0) for x in pairs))


def candidates(function, embeddings, labels, refs, where, match, distance, mined=None):
    """Returns all pairs, or those of `mined`, and their costs ``[N, M]``; a low cost is close."""
    batch, pairs = existing(function, embeddings, labels, refs, where, match, mined)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    return pairs, -mat if distance.is_similarity else mat
