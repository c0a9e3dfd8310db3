"""Computes a loss one block of rows at a time, on request."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from metricjax._core.blocks import Cut
from metricjax._core.declare import by_anchor
from metricjax._core.record import record_of
from metricjax._core.refs import replicated
from metricjax._core.stream import Stream


def chunked(loss, chunk_size: int, ref_chunk_size: int | None = None):
    """Computes the same loss, and its gradient, with at most `chunk_size` rows at a time.

    A row is an anchor with all its references. For losses that sum over the batch inside a
    logarithm (`losses.proxy_anchor`), a row is a class with the whole batch. With a
    `ref_chunk_size`, anchors meet this many references at a time: memory is
    ``chunk_size * ref_chunk_size``, whatever N and M are. Value and gradient are those of the dense
    loss. Pair and triplet losses are split into blocks automatically once ``N * M`` is large.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(4), jnp.array([0, 0, 1, 1])
        >>> loss = mj.chunked(mj.losses.contrastive, chunk_size=3)
        >>> print(mj.reduce(loss(x, y))[0], mj.reduce(mj.losses.contrastive(x, y))[0])
        1.4142135 1.4142135

    Args:
        loss: any loss of this library, or a function with the same arguments and result,
            ``(embeddings, labels, *params, refs=, where=, mined=, **options) -> LossDict``,
            whose terms have one row for each anchor.
        chunk_size: the number of rows at a time; static.
        ref_chunk_size: the number of references at a time; static. Only the losses that `ring`
            takes support it. Each block of anchors meets all references once more for every sum
            over references that comes first. `mined` is supported only if it weighs samples. Terms
            of pairs do not hold whole rows, which `reducers.per_anchor` needs.

    Returns:
        A function with the arguments of `loss` whose terms are streamed. Call `reduce` on them
        under the same `jit`. ``term.dense()`` shows the arrays.
    """
    if chunk_size < 1:
        raise ValueError(f"chunked: `chunk_size` must be at least 1, got {chunk_size}.")
    record = record_of(loss)
    if record.has("chunk_size") and ref_chunk_size is None:
        return functools.partial(loss, chunk_size=chunk_size)
    if record.rows == "batch":
        raise ValueError(
            f"chunked: losses.{record.name} needs the whole batch at once: {record.why}."
        )
    if record.rows == "pairs":
        raise ValueError(
            f"chunked: losses.{record.name} takes each row by itself: there is nothing to save."
        )
    size: Any = chunk_size
    if ref_chunk_size is not None:
        if ref_chunk_size < 1:
            raise ValueError(f"chunked: `ref_chunk_size` must be at least 1, got {ref_chunk_size}.")
        if not record.ring or record.opaque:
            raise ValueError(
                f"chunked: losses.{record.name} needs all references of an anchor at once; leave "
                f"`ref_chunk_size` out, or give a pure function that `metricjax.ring` takes."
            )
        size = chunk_size, ref_chunk_size
    if record.sums_over_anchors and record.opaque:
        raise TypeError(f"chunked: give losses.{record.name} itself, not a module or chunks of it.")
    rows = _by_class if record.rows == "classes" else by_anchor

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **options):
        return rows(record, size, embeddings, labels, *params, **options)

    fn.record = dataclasses.replace(record, body=fn, opaque=True)  # type: ignore[attr-defined]
    return fn


def _by_class(record, size, embeddings, labels, weights=None, *params, where=None, **options):
    if weights is None:
        raise TypeError(
            f"chunked: losses.{record.name} is cut by classes and needs its class weights "
            f"as third argument; with a module, give the pure function `module.weights[...]`."
        )
    c = len(weights)
    known = (labels >= 0) & (labels < c)
    where = known if where is None else jnp.where(known, where, jnp.zeros_like(where))
    class_ids = options.pop("class_ids", None)
    cut = Cut(c, size)
    ids = jnp.arange(c) if class_ids is None else class_ids
    parts = cut(replicated((weights, ids)))

    def slab(k):
        some, ids = cut.at(parts, k)
        ids = jnp.where(cut.rows(k) < c, ids, -1)
        return record.body(embeddings, labels, some, *params, where=where, class_ids=ids, **options)

    return Stream(slab, cut.count, cut.rows, cut.join_stacked).terms()
