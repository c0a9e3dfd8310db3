"""Sums over all classes, one block of classes at a time: no array is ``[N, C]`` if that is large.

A block stays in cache, so blocks are faster than a whole matrix even if the matrix fits in memory.
A softmax over classes needs two numbers for each sample: the similarity to its own class, and the
logarithm of a sum over all other classes. Both are accumulated over blocks. The sum is kept
relative to its largest exponent so far, as in an online softmax:

    own, top, total = 0, lowest, 0
    for each block of classes:                       # z: ``[N, classes of the block]``
        own  += z[i, label] where the label is in the block
        total = total * exp(top - higher) + sum(exp(z - higher))
        top   = higher                               # max(top, max(z))

The derivatives compute the blocks again: exp(z - logarithm) is the softmax. With a `class_axis`,
each device holds some of the classes, and the sums are added up over devices.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metricjax._core.blocks import Cut
from metricjax._core.linear import alike, linear, log_sum_along
from metricjax._core.masked import logsumexp, safe_divide, upcast
from metricjax._core.refs import replicated, spread_as, take
from metricjax._core.stream import zeros_like
from metricjax._core.triplets import pick
from metricjax._core.tuning import block_sizes
from metricjax.losses._classes import ClassBatch, in_single

Similarity = Callable[[Array, Array], Float[Array, "n c"]]
"""How close samples ``[N, D]`` are to classes ``[C * K, D]``."""


def own_and_rivals(
    batch: ClassBatch, similarity: Similarity, scale=1.0, *, keep: bool = True
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    r"""The similarity to the own class, and the logarithm of a sum over all other classes.

    .. math:: s_{iy} \qquad \log \sum_{c \neq y} e^{\sigma s_{ic}}

    If there are no other classes, the logarithm is the lowest finite number. With `keep`, a single
    block is kept for the backward pass. This pays off if the similarity is little more than a
    product.
    """
    scale = jnp.asarray(scale, upcast(batch.embeddings).dtype)
    if keep and _fits(batch):
        batch = in_single(batch)
        return own_similarity(batch, similarity), _rivals_in_one_block(batch, similarity, scale)
    own, rivals = _in_blocks(batch, similarity, scale)
    return safe_divide(own, scale), rivals


def rivals_given(
    batch: ClassBatch, similarity, given: Float[Array, "n e"], scale=1.0
) -> Float[Array, " n"]:
    """Only the logarithm of the sum over other classes, for a ``similarity(x, classes, given)``.

    What is `given` for each sample is appended to its embedding, as additional features.
    """
    d, batch = batch.embeddings.shape[1], in_single(batch)
    wide = jnp.concatenate([batch.embeddings, given], 1)
    batch = batch._replace(embeddings=wide)
    split = lambda x, rows: similarity(x[:, :d], rows, x[:, d:])
    scale = jnp.asarray(scale, wide.dtype)
    if _fits(batch):
        return _rivals_in_one_block(batch, split, scale)
    return _in_blocks(batch, split, scale)[1]


def own_similarity(batch: ClassBatch, similarity: Similarity) -> Float[Array, " n"]:
    """Only the similarity to the own class."""
    batch = in_single(batch)
    alone = lambda x, rows: similarity(x[None], rows.reshape(batch.centers, len(x)))[0, 0]
    return jax.vmap(alone)(batch.embeddings, own_rows(batch))


def _fits(batch):
    return len(batch.labels) * len(batch.classes) <= block_sizes().class_kept


def _in_blocks(batch, similarity, scale):
    """`scale` times the similarity to the own class, and the logarithm of the sum over others."""

    def part(batch):
        cut, parts, labels = _dealt(batch)
        x, parts, labels = alike((batch.embeddings, parts, labels))
        logits = lambda x, rows: scale * similarity(x, rows)
        fn, closed = jax.closure_convert(logits, x, _rows(cut, parts, 0))
        own, rivals = _own_and_rivals(fn, cut, x, parts, labels, closed)
        if batch.class_axis is not None:
            own = jax.lax.psum(own, batch.class_axis)
        return own, _over_devices(batch, rivals)

    return _on_shards(part, batch)


def _over_devices(batch, rivals):
    """The logarithm of the sum over the classes of all devices."""
    if batch.class_axis is None:
        return rivals
    return log_sum_along(rivals, batch.class_axis)


def _rivals_in_one_block(batch, similarity, scale):
    """The logarithm of the sum over other classes, in one block.

    Only `logsumexp` reads ``[N, C]``, and it keeps only the exponentials.
    """

    def part(batch):
        cut, parts, labels = _dealt(batch, whole=block_sizes().class_kept)
        x, parts, labels, factor = alike((batch.embeddings, parts, labels, scale))
        mat = similarity(x, _rows(cut, parts, 0))
        rival = columns(cut, labels, 0)[1]
        lowest = float(jnp.finfo(mat.dtype).min)
        return _over_devices(batch, logsumexp(factor * mat, rival, empty=lowest))

    return _on_shards(part, batch)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _own_and_rivals(logits, cut, x, parts, labels, closed):
    def step(carry, k):
        own, top, total = carry
        z = logits(x, _rows(cut, parts, k), *closed)
        column, rival = columns(cut, labels, k)
        own += at(z, column)
        z = jnp.where(rival, z, -jnp.inf)
        higher = jnp.maximum(top, jnp.max(z, 1))
        total = jnp.exp(top - higher) * total + jnp.sum(jnp.exp(z - higher[:, None]), 1)
        return (own, higher, total), None

    zero = zeros_like(jax.typeof(upcast(x[:, 0])))
    start = zero, zero + jnp.finfo(zero.dtype).min, zero
    (own, top, total), _ = jax.lax.scan(step, start, _arange(cut.count))
    return own, top + jnp.log(jnp.where(total == 0, 1, total))


@_own_and_rivals.defjvp
def _own_and_rivals_jvp(logits, cut, primals, tangents):
    """Derivatives compute the blocks again: a softmax needs only the logarithm of the sum."""
    out = _own_and_rivals(logits, cut, *primals)

    def push(args, tangents):
        (x, parts, labels, closed), (_, rivals) = args
        to_x, to_parts, to_closed = tangents

        def step(sums, k):
            at_rows, along = (
                (x, _rows(cut, parts, k), *closed),
                (to_x, _rows(cut, to_parts, k), *to_closed),
            )
            z, slope = jax.jvp(logits, at_rows, along)
            column, rival = columns(cut, labels, k)
            softmax = jnp.where(rival, jnp.exp(z - rivals[:, None]), 0)
            return plus(sums, (at(slope, column), jnp.sum(softmax * slope, 1))), None

        zero = zeros_like(jax.typeof(rivals))
        return jax.lax.scan(step, (zero, zero), _arange(cut.count))[0]

    def pull(args, cotangents):
        (x, parts, labels, closed), (_, rivals) = args
        to_own, to_rivals = cotangents

        def step(carry, k):
            z, back = jax.vjp(logits, x, _rows(cut, parts, k), *closed)
            column, rival = columns(cut, labels, k)
            to_rival = to_rivals[:, None] * jnp.exp(z - rivals[:, None])
            own = jnp.where(column[:, None] == _arange(cut.size)[None, :], to_own[:, None], 0)
            to_x, to_rows, *to_closed = back(jnp.where(rival, to_rival, own))
            sums, to_parts = carry
            to_parts = cut.put(to_parts, to_rows.reshape(cut.size, *parts.shape[3:]), k)
            return (plus(sums, (to_x, to_closed)), to_parts), None

        start = jax.tree.map(lambda x: zeros_like(jax.typeof(x)), ((upcast(x), closed), parts))
        ((to_x, to_closed), to_parts), _ = jax.lax.scan(step, start, _arange(cut.count))
        return to_x.astype(x.dtype), to_parts, to_closed

    plus = lambda sums, more: jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, more)
    to_x, to_parts, _, to_closed = tangents
    return out, linear(push, pull, (primals, out), (to_x, to_parts, to_closed), out)


def sum_over_classes(batch: ClassBatch, fn):
    """The sum of ``fn(x, rows, own)`` over blocks of classes; rows of 0 must add nothing to it.

    `rows` are the class weights of a block. `own` ``[N]`` is the place of each sample's own class
    in the block, or -1 if the class is not there.
    """

    def part(batch):
        cut, parts, labels = _dealt(batch, whole=block_sizes().class_kept)
        x = batch.embeddings
        flat = lambda rows: rows.reshape(-1, x.shape[1])
        block = lambda k, rows: fn(x, flat(rows), columns(cut, labels, k)[0])
        total = jax.tree.map(lambda x: jnp.sum(x, 0), map_blocks(block, cut, parts))
        return total if batch.class_axis is None else jax.lax.psum(total, batch.class_axis)

    return _on_shards(part, batch)


def map_blocks(fn, cut: Cut, parts):
    """``fn(k, part k)`` of every block of classes, stacked.

    Blocks are computed again in the backward pass, unless there is only one.
    """
    if cut.count == 1:
        return jax.tree.map(lambda x: x[None], fn(0, cut.at(parts, 0)))
    return cut.each(jax.checkpoint(fn, prevent_cse=False), parts)


def own_rows(batch: ClassBatch) -> Float[Array, "n kd"]:
    """The weights of each sample's own class, with all its centers in one row."""

    def part(batch):
        own = _labels_here(batch)
        count, d = batch.classes.shape
        rows = batch.classes.reshape(count // batch.centers, batch.centers * d)
        rows = take(rows, jnp.maximum(own, 0))
        if batch.class_axis is None:
            return rows
        return jax.lax.psum(jnp.where(own[:, None] < 0, 0, rows), batch.class_axis)

    return _on_shards(part, batch)


def cut_classes(classes: int, each: int, *, whole: int = 0) -> Cut:
    """Cuts classes into blocks, of equal size if possible.

    Each class has `each` similarities. Up to `whole` similarities in total form a single block.
    """
    count = -(-classes * each // block_sizes().class_block) if classes * each > whole else 1
    count = next((k for k in range(count, 2 * count) if classes % k == 0), count) or 1
    return Cut(classes, max(1, -(-classes // count)))


def at(mat: Float[Array, "n c"], column: Int[Array, " n"]) -> Float[Array, " n"]:
    """``mat[i, column[i]]``, or 0 where the column is negative."""
    return jnp.where(column < 0, 0, pick(mat, jnp.maximum(column, 0))[:, 0])


def _dealt(batch, whole=0):
    """How this device's classes are cut, their blocks, and the labels as numbers of these classes.

    A label is -1 if its class is on another device.
    """
    count = len(batch.classes) // batch.centers
    cut = cut_classes(count, len(batch.labels) * batch.centers, whole=whole)
    rows = batch.classes.reshape(count, batch.centers, batch.classes.shape[1])
    parts = cut(replicated(rows))
    return cut, parts, _labels_here(batch)


def _rows(cut, parts, k):
    """The class weights of block k."""
    return cut.at(parts, k).reshape(-1, parts.shape[-1])


def columns(cut, labels, k):
    """The place of each sample's own class in block k, or -1; and a mask of all other classes.

    The mask is ``[N, B]`` and leaves out padding.
    """
    block, place = cut.place(labels)
    column = jnp.where((block == k) & (labels >= 0), place, -1)
    real = cut.rows(k) < cut.n
    return column, real[None, :] & (column[:, None] != _arange(cut.size)[None, :])


def _arange(n):
    return jnp.arange(n, dtype=jnp.int32)  # the dtype of labels


def _labels_here(batch):
    """Labels as numbers of the classes on this device, or -1 for classes on other devices."""
    if batch.class_axis is None:
        return batch.labels
    here = len(batch.classes) // batch.centers
    labels = batch.labels - here * jax.lax.axis_index(batch.class_axis)
    return jnp.where((labels >= 0) & (labels < here), labels, -1)


def _on_shards(part, batch):
    """``part(batch)``, on each device's own classes if the classes are explicitly sharded."""
    axes = _mesh_axes(batch.classes)
    if not axes:
        return part(batch)

    def run(classes, embeddings, labels):
        local = {"classes": classes, "embeddings": embeddings, "labels": labels}
        return part(batch._replace(**local, class_axis=axes))

    samples = batch.embeddings, batch.labels
    if set(axes) & set(_mesh_axes(batch.labels)):
        samples = replicated(samples)
    specs = jax.P(axes), jax.P(), jax.P()
    run = jax.shard_map(run, in_specs=specs, out_specs=jax.P(), axis_names=set(axes))
    return jax.tree.map(lambda x: spread_as(x, batch.labels), run(batch.classes, *samples))


def _mesh_axes(x):
    """The mesh axes that the rows of `x` are explicitly sharded over."""
    axes = jax.typeof(x).sharding.spec[0]
    return () if axes is None else (axes,) if isinstance(axes, str) else axes
