"""Losses and their blocks of rows: by `chunked`, and what large losses do by themselves.

A loss is a function of anchors and references that returns terms, or a generator that yields what
has to be summed elsewhere before it can go on:

    negatives = yield OverRefs(log_sum(logits, pairs.negative))   # of each anchor, over references
    total = yield jnp.sum(...)                                    # over all anchors
    return {"loss": ...}

Whoever runs it sends the sums back. With the whole batch at once, that is what it yields, summed
over devices if there is an `axis_name`. In blocks of anchors, a loss that yields n sums over them
runs n + 1 times over all blocks, each time from its start. In run k the first k sums are known and
are sent at once; the next sum is added up over the blocks, and the rest of the function is dropped.
The last run is a stream of terms, which reducers add up. `_ring` treats references the same way.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, Protocol, TypeVar, get_args, get_origin, overload

import jax
import jax.numpy as jnp

from metricjax._blocks import Cut, cut_mined
from metricjax._check import check_embeddings
from metricjax._masked import upcast
from metricjax._record import Record, accepts, body_of, is_module, record_of
from metricjax._refs import gather_refs, replicated, self_refs
from metricjax._stream import sum_over
from metricjax._sums import sent
from metricjax._types import LossTerm, Mined, Refs
from metricjax._visits import InTurn, over_refs
from metricjax.tuples import sample_weights

P = ParamSpec("P")
T = TypeVar("T")

Passes = Generator[Any, Any, T]
"""A loss that yields sums, is sent those over everything, and returns a T."""

DENSE_ELEMENTS = 2**20
"""Pair and triplet losses take all (anchor, reference) pairs at once if there are fewer."""

CHUNK_ELEMENTS, CHUNK_ROWS = 2**19, 128
"""Above that, a chunk has this many pairs but at least CHUNK_ROWS anchors: products of few rows are
slow."""

REF_ELEMENTS, REF_CHUNK = 2**25, (1024, 4096)
"""Where a chunk of anchors with all references would be more than so many pairs, 128 MiB for each
array of them, a chunk is of so many anchors and references."""


def chunked(loss, chunk_size: int, ref_chunk_size: int | None = None):
    """The same loss, computed at most `chunk_size` rows at a time, and its gradient, too.

    A row is an anchor with all its references, or a class with the whole batch for losses that sum
    over the batch inside a logarithm (`losses.proxy_anchor`). With a `ref_chunk_size` anchors meet
    so many references at a time: memory is ``chunk_size * ref_chunk_size`` whatever N and M are.
    Value and gradient are those of the dense loss. Pair and triplet losses do this by themselves
    once ``N * M`` is large.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(4), jnp.array([0, 0, 1, 1])
        >>> loss = mj.chunked(mj.losses.contrastive, chunk_size=3)
        >>> print(mj.reduce(loss(x, y))[0], mj.reduce(mj.losses.contrastive(x, y))[0])
        1.4142135 1.4142135

    Args:
        loss: any loss of this library or function of its shape,
            ``(embeddings, labels, *params, refs=, where=, mined=, **options) -> LossDict``,
            whose terms have one row for each anchor.
        chunk_size: rows at a time; static.
        ref_chunk_size: references at a time; static. For the losses that `ring` takes; each block
            of anchors meets all references once more for every sum over them that comes first.
            There is no `mined`, unless it weighs samples, and terms of pairs hold no whole rows.

    Returns:
        A function with the arguments of `loss` whose terms are streamed: `reduce` them under the
        same `jit`; ``term.dense()`` shows the arrays.
    """
    if chunk_size < 1:
        raise ValueError(f"chunked: `chunk_size` must be at least 1, got {chunk_size}.")
    record = record_of(loss)
    if record.rows == "batch":
        raise ValueError(
            f"chunked: losses.{record.name} needs the whole batch at once: {record.why}."
        )
    size: Any = chunk_size
    if ref_chunk_size is not None:
        if ref_chunk_size < 1:
            raise ValueError(f"chunked: `ref_chunk_size` must be at least 1, got {ref_chunk_size}.")
        if not record.ring or is_module(loss):
            raise ValueError(
                f"chunked: losses.{record.name} needs all references of an anchor at once; leave "
                f"`ref_chunk_size` out, or give a pure function that `metricjax.ring` takes."
            )
        size = chunk_size, ref_chunk_size
    rows = _by_class if record.rows == "classes" else _by_anchor

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **options):
        return rows(loss, size, embeddings, labels, *params, **options)

    fn.record = dataclasses.replace(record, body=fn, ring=False)  # type: ignore[attr-defined]
    return fn


class _Declare(Protocol):
    @overload
    def __call__(self, body: Callable[P, Passes[T]]) -> Callable[P, T]: ...
    @overload
    def __call__(self, body: Callable[P, T]) -> Callable[P, T]: ...


def declare(**known) -> _Declare:
    """Makes a loss of a function or a generator; what is `known` of it is in its `Record`.

    A loss with references is run by a driver: a large batch is taken in blocks. Rows of weight 0
    must add 0 to every sum, as padding has weight 0. With an argument `axis_name`, which is read
    here and not by the loss, sums over anchors are summed over that axis, and the batch is gathered
    as references if there are none; terms that are numbers must then come from sums alone.
    """

    def mark(body):
        signature = inspect.signature(body)
        record = Record(body, **known)
        if record.rows != "anchors" or "refs" not in signature.parameters:
            body.record = record
            return body

        @functools.wraps(body)
        def fn(embeddings, labels=None, *params, **options):
            return _by_anchor(fn, None, embeddings, labels, *params, **options)

        returned = signature.return_annotation
        if get_origin(returned) is Generator:
            returned = get_args(returned)[-1]
        fn.__annotations__ = body.__annotations__ | {"return": returned}
        fn.__signature__ = signature.replace(return_annotation=returned)
        fn.record = dataclasses.replace(record, by_itself=True)
        return fn

    return mark  # type: ignore[return-value]


def _own_size(record, embeddings, refs, mined=None):
    """How many anchors, or anchors and references, at a time a loss takes by itself; `None`: all.

    A loss that sums over anchors first computes its pairs anew each time, and takes twice as many
    at once.
    """
    check_embeddings(f"losses.{record.name}", "embeddings", jnp.asarray(embeddings))
    n = len(embeddings)
    m = len(refs.embeddings) if isinstance(refs, Refs) else n
    if not record.by_itself or n * m < DENSE_ELEMENTS * (2 if record.sums_over_anchors else 1):
        return None
    size = min(n, max(CHUNK_ROWS, CHUNK_ELEMENTS // m))
    tuples = mined is not None and record.mined == "tuples"  # which blocks of references have not
    if size * m > REF_ELEMENTS and record.ring and not tuples:
        return min(n, REF_CHUNK[0]), REF_CHUNK[1]
    return size if size < n else None


def _at_most(record, size, m):
    """How many of the `size` anchors of a chunk a loss takes at once: many pairs are slow."""
    if not record.by_itself or record.sums_over_anchors or size * m < DENSE_ELEMENTS:
        return size
    return min(size, max(CHUNK_ROWS, CHUNK_ELEMENTS // m))


def _by_anchor(
    loss, size, embeddings, labels, *params, refs=None, where=None, mined=None, **options
):
    """The terms of a loss, `size` anchors at a time; `None`: as many as it takes by itself.

    Or `size` is a pair: so many anchors, and so many references at a time.
    """
    record, totals, of_all = record_of(loss), [], lambda total: total
    if record.sums_over_anchors:
        if is_module(loss):
            raise TypeError(
                f"chunked: give the pure function losses.{record.name}, not the module."
            )
        if record.refs_first and isinstance(refs, Refs) and mined is None:
            totals.append(_first_total(loss, size, refs, *params, **options))
        axis_name = options.pop("axis_name", None)
        mined = _own_mined(record, mined, len(embeddings), refs, where, axis_name)
        if axis_name is not None:
            of_all = functools.partial(jax.lax.psum, axis_name=axis_name)
            if refs is None:
                refs = gather_refs(embeddings, labels, axis_name, where=where)
    if isinstance(size, int):
        size = _at_most(record, size, len(embeddings if refs is None else refs.embeddings))
    elif size is None and not (labels is None and mined is None):
        size = _own_size(record, embeddings, refs, mined)
    batch = embeddings, labels, *params
    options |= {} if mined is None else {"mined": mined}
    if size is None:
        body = body_of(loss)(*batch, refs=refs, where=where, **options)
        return sent(body, totals, then=of_all)[0]

    cut, block = _blocks(loss, size, *batch, refs=refs, where=where, **options)
    while True:
        out, ended = sent(block(jnp.int32(0)), totals)
        if ended:
            break
        add_up = lambda k, known=tuple(totals): sent(block(k), known)[0]
        totals.append(of_all(sum_over(add_up, cut.count)))
    if not isinstance(out, dict):
        return out
    if totals and all(map(_is_number, out.values())):  # made of sums over all anchors alone
        return out

    def slab(k):
        terms = sent(block(k), totals)[0]
        for name, term in terms.items():
            _check_rows(name, term, cut.size)
        return terms

    return cut.stream(slab)


def _is_number(term):
    return isinstance(term, LossTerm) and term.values.ndim == 0


def _own_mined(record, mined, n, refs, where, axis_name):
    """What was mined within a batch, as the loss wants it of the whole batch."""
    if refs is not None or mined is None or record.own_mined is None:
        return mined
    if axis_name is not None:
        raise ValueError(
            f"losses.{record.name}: `mined` must be that of the whole batch, and `axis_name` left "
            f"out: gather the batch, or use `metricjax.objective`."
        )
    return record.own_mined(mined, n, where)


def _first_total(loss, size, refs, *params, axis_name=None, **options):
    """The first total, of the references among themselves."""
    batch = refs.embeddings, refs.labels, *params
    options |= {"where": refs.where}
    size = size or _own_size(record_of(loss), refs.embeddings, None)
    if size is None:
        return sent(body_of(loss)(*batch, **options), ())[0]
    cut, block = _blocks(loss, size, *batch, **options)
    return sum_over(lambda k: sent(block(k), ())[0], cut.count)


def _blocks(loss, size, embeddings, labels, *params, refs=None, where=None, mined=None, **options):
    """How the anchors are cut, and what the loss makes of the k-th of its blocks."""
    n, record, body = len(embeddings), record_of(loss), body_of(loss)
    size, ref_size = size if isinstance(size, tuple) else (size, None)
    paired, own_refs = accepts(loss, "refs"), refs is None
    if paired:
        refs = self_refs(embeddings, labels, where) if refs is None else replicated(refs)
    cut = Cut(n, size)
    # at least float32, or gradients would be added up in half precision
    parts = cut((upcast(embeddings), labels, where, refs and refs.self_index))
    if isinstance(mined, Mined) and (record.mined != "tuples" or not paired):
        own_refs &= record.mined != "anchors"
        mined = sample_weights(mined, n, self_refs=own_refs)
    if ref_size is not None:
        if isinstance(mined, Mined):
            raise ValueError(
                f"losses.{record.name}: `mined` is not supported with blocks of references."
            )
        *visits, some_refs = _ref_blocks(refs, ref_size)
    mined_at = cut_mined(cut, mined)

    def block(k):
        x, y, w, self_index = cut.at(parts, k)
        real = cut.rows(k) < n
        own = {"where": real if w is None else jnp.where(real, w, jnp.zeros_like(w))}
        if mined is not None:
            own["mined"] = mined_at(k)
        meet = functools.partial(body, x.astype(embeddings.dtype), y, *params, **own, **options)
        if not paired:
            return meet()
        if ref_size is None:
            return meet(refs=refs._replace(self_index=self_index))
        return over_refs(lambda j, some: meet(refs=some_refs(j, some, self_index)), *visits)

    return cut, block


def _ref_blocks(refs, size):
    """References in contiguous blocks: how to visit them, the blocks, and the `Refs` of one.

    Contiguous blocks are slices of what is there; dealt ones would be a copy of all references.
    """
    m = len(refs.embeddings)
    size = min(size, max(m, 1))
    count = -(-m // size)
    where = jnp.ones(m, upcast(refs.embeddings[:0]).dtype) if refs.where is None else refs.where

    def blocks(x):
        x = jnp.pad(x, [(0, count * size - m)] + [(0, 0)] * (x.ndim - 1))  # of weight 0
        return x.reshape(count, size, *x.shape[1:])

    def one(j, block, self_index):
        if self_index is not None:  # in other blocks an anchor is nowhere
            here = self_index // size == j.astype(self_index.dtype)
            self_index = jnp.where(here, self_index % size, size)
        return Refs(*block[:2], self_index, block[2])

    everything = refs.embeddings, refs.labels, where
    return InTurn(count, m), jax.tree.map(blocks, everything), one


def _by_class(loss, size, embeddings, labels, weights=None, *params, where=None, **options):
    if weights is None:
        raise TypeError(
            f"chunked: losses.{record_of(loss).name} is cut by classes and needs its class weights "
            f"as third argument; with a module, give the pure function `module.weights[...]`."
        )
    c = len(weights)
    known = (labels >= 0) & (labels < c)
    where = known if where is None else jnp.where(known, where, jnp.zeros_like(where))
    class_ids = options.pop("class_ids", None)
    cut = Cut(c, size)
    parts = cut((weights, jnp.arange(c) if class_ids is None else class_ids))

    def slab(k):
        some, ids = cut.at(parts, k)
        ids = jnp.where(cut.rows(k) < c, ids, -1)
        return loss(embeddings, labels, some, *params, where=where, class_ids=ids, **options)

    return cut.stream(slab)


def _check_rows(name, term, size):
    """A loss whose rows are not anchors cannot be cut by anchors."""
    dense = isinstance(term, LossTerm) and term.values.ndim and term.anchor is None
    if dense and len(term.values) != size:
        raise ValueError(
            f"chunked: the term {name!r} has {len(term.values)} rows for {size} anchors; a loss "
            f"that does not come apart by anchors cannot be chunked."
        )
