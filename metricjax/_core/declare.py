"""Declares losses, and computes them at once, or in blocks of anchors and of references.

A loss is a function of anchors and references that returns terms. If the loss needs sums over
anchors or references first, it is a generator that yields what is to be summed:

    negatives = yield OverRefs(LogSum(logsumexp(logits, w)))   # of each anchor, over references
    total = yield jnp.sum(...)                                 # over all anchors
    return {"loss": ...}

The driver sends the sums back. With the whole batch at once, a sum is the yielded value itself,
summed over devices if there is an `axis_name`. In blocks of anchors, a loss that yields n sums over
anchors runs n + 1 times over all blocks, each time from its start. In run k the first k sums are
known and are sent at once. The next sum is added up over the blocks, and the rest of the function
is dropped. The last run is a stream of terms, which reducers add up. `visits` treats references the
same way.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, get_args, get_origin, overload

import jax.numpy as jnp

from metricjax._core.blocks import Cut, cut_mined
from metricjax._core.check import check_known_size, options_of
from metricjax._core.linear import sum_along
from metricjax._core.masked import upcast
from metricjax._core.record import Record
from metricjax._core.refs import (
    admit,
    check_not_gathered,
    gather_refs,
    replicated,
    somebody,
)
from metricjax._core.stream import Stream, sum_over
from metricjax._core.sums import sent
from metricjax._core.tuning import block_rows, block_sizes, pairs_at_once
from metricjax._core.types import LossTerm, Mined, Refs
from metricjax._core.visits import InTurn, over_refs
from metricjax.tuples._convert import samples_weighed

P = ParamSpec("P")
T = TypeVar("T")

Passes = Generator[Any, Any, T]
"""A loss that yields sums of a part, is sent the sums over all parts, and returns a T."""


class _Declare(Protocol):
    @overload
    def __call__(self, body: Callable[P, Passes[T]]) -> Callable[P, T]: ...
    @overload
    def __call__(self, body: Callable[P, T]) -> Callable[P, T]: ...


def declare(
    *, within: Mapping[str, str] | None = None, degrees: tuple[str, ...] = (), **known
) -> _Declare:
    """Turns a function or a generator into a loss. `known` are fields of its `Record`.

    Options that are numbers are checked, and must be `within` their intervals; see `Options`.

    A loss with references is run by a driver, which computes a large batch in blocks. Rows of
    weight 0 must add 0 to every sum, because padding has weight 0. An argument `axis_name` is read
    by the driver, not by the loss. Sums over anchors are then also summed over that axis, and the
    batch is gathered as references if none are given. Terms that are numbers must then be computed
    from sums alone.
    """

    def mark(body):
        signature = inspect.signature(body)
        options = options_of(signature, within, degrees)
        record = Record(body.__name__, signature, body, options=options, **known)
        if record.rows != "anchors" or not record.has("refs"):

            @functools.wraps(body)
            def checked(*args, **options):
                first = next(iter(signature.parameters))
                if not args and first not in options:
                    raise TypeError(f"losses.{record.name}: `{first}` must be given, got none.")
                embeddings, *args = args or (options.pop(first),)
                n = jnp.shape(embeddings)[0]
                record.options.check(f"losses.{record.name}", n, args, options)
                check_known_size(f"losses.{record.name}", n)
                refs = options.get("refs")
                if isinstance(refs, Refs) and jnp.shape(refs.embeddings)[0] == 0:
                    refs, mined = somebody(refs, options.get("mined"), n)
                    options |= {"refs": refs, "mined": mined}
                return body(embeddings, *args, **options)

            checked.record = record
            return checked
        record = dataclasses.replace(
            record, by_itself=True, sums_over_anchors=record.has("axis_name")
        )

        @functools.wraps(body)
        def fn(embeddings, labels=None, *params, **options):
            return by_anchor(record, None, embeddings, labels, *params, **options)

        returned = signature.return_annotation
        if get_origin(returned) is Generator:
            returned = get_args(returned)[-1]
        fn.__annotations__ = body.__annotations__ | {"return": returned}
        fn.__signature__ = signature.replace(return_annotation=returned)
        fn.record = record
        return fn

    return mark  # type: ignore[return-value]


def _rows_at_once(record, size, n, m, mined=None):
    """Returns how many of n anchors a block has, or a pair: how many anchors and references.

    `None` means all at once. A loss that splits large batches automatically also splits a block of
    `size` anchors that has too many pairs, unless the loss sums over anchors first.
    """
    sizes = block_sizes()
    if not isinstance(n, int) or not isinstance(m, int):  # symbolic sizes of `jax.export`
        return size
    if isinstance(size, tuple) or not record.by_itself or (size and record.sums_over_anchors):
        return size
    # a loss that sums over anchors first recomputes its pairs in every run, so its limit is doubled
    if (size or n) * m < pairs_at_once() * (1 + record.sums_over_anchors):
        return size
    rows = block_rows(size or n, m)
    tuples = mined is not None and record.mined == "tuples"  # unsupported in blocks of references
    if not size and rows * m > sizes.ref_pairs and record.ring and not tuples:
        return min(n, sizes.ref_chunk[0]), sizes.ref_chunk[1]
    return rows if size or rows < n else None


def by_anchor(
    record: Record,
    size: int | tuple[int, int] | None,
    embeddings,
    labels=None,
    *params,
    refs=None,
    where=None,
    mined=None,
    **options,
):
    """Computes the terms of a loss, `size` anchors at a time.

    `size` may be a pair: how many anchors and how many references at a time. With `None`, the size
    is chosen automatically.
    """
    totals, of_all = [], lambda total: total
    labels = options.pop(record.labels_name, labels)
    embeddings, labels, refs = admit(
        f"losses.{record.name}", embeddings, labels, refs, where, record.labels_name
    )
    n = embeddings.shape[0]
    options = record.options.check(f"losses.{record.name}", n, (labels, *params), options)
    if refs is not None and refs.embeddings.shape[0] == 0:
        refs, mined = somebody(refs, mined, n)
    if record.sums_over_anchors:
        if record.refs_first and isinstance(refs, Refs) and mined is None:
            totals.append(_first_total(record, size, refs, *params, **options))
        axis_name = options.pop("axis_name", None)
        mined = _own_mined(record, mined, n, refs, where, axis_name)
        if axis_name is not None:
            of_all = functools.partial(sum_along, axis_name=axis_name)
            if refs is None:
                refs = gather_refs(embeddings, labels, axis_name, where=where)
        elif refs is not None and refs.self_index is not None:
            check_not_gathered(f"losses.{record.name}", embeddings, refs)
    if labels is not None or mined is not None:
        m = n if refs is None else refs.embeddings.shape[0]
        size = _rows_at_once(record, size, n, m, mined)
    batch = embeddings, labels, *params
    if mined is not None:
        options["mined"] = mined
    if size is None:
        return sent(record.body(*batch, refs=refs, where=where, **options), totals, then=of_all)[0]

    cut, block = _blocks(record, size, *batch, refs=refs, where=where, **options)
    while True:
        out, ended = sent(block(jnp.int32(0)), totals)
        if ended:
            break
        add_up = lambda k, known=tuple(totals): sent(block(k), known)[0]
        totals.append(of_all(sum_over(add_up, cut.count)))
    if not isinstance(out, dict):
        return out
    if totals and all(map(_is_number, out.values())):  # computed from sums over all anchors alone
        return out

    def slab(k):
        terms = sent(block(k), totals)[0]
        for name, term in terms.items():
            dense = isinstance(term, LossTerm) and term.values.ndim and term.anchor is None
            if dense and len(term.values) != cut.size:
                raise ValueError(
                    f"chunked: the term {name!r} has {len(term.values)} rows for {cut.size} "
                    f"anchors; a loss whose rows are not anchors cannot be chunked."
                )
        return terms

    return Stream(slab, cut.count, cut.rows, cut.join_stacked).terms()


def _is_number(term):
    return isinstance(term, LossTerm) and term.values.ndim == 0


def _own_mined(record, mined, n, refs, where, axis_name):
    """Converts what was mined within the whole batch to what the loss needs."""
    if refs is not None or mined is None or record.own_mined is None:
        return mined
    if axis_name is not None:
        raise ValueError(
            f"losses.{record.name}: `mined` must be that of the whole batch, and `axis_name` left "
            f"out: gather the batch, or use `metricjax.objective`."
        )
    return record.own_mined(mined, n, where)


def _first_total(record, size, refs, *params, axis_name=None, **options):
    """Returns the first total: the sum over the references among themselves."""
    batch = refs.embeddings, refs.labels, *params
    options |= {"where": refs.where}
    size = _rows_at_once(record, size, len(refs.embeddings), len(refs.embeddings))
    if size is None:
        return sent(record.body(*batch, **options), ())[0]
    cut, block = _blocks(record, size, *batch, **options)
    return sum_over(lambda k: sent(block(k), ())[0], cut.count)


def _blocks(
    record, size, embeddings, labels, *params, refs=None, where=None, mined=None, **options
):
    """Returns how the anchors are cut, and a function that runs the loss on their k-th block."""
    n, own_refs = len(embeddings), refs is None
    paired = record.by_itself or record.accepts("refs")
    size, ref_size = size if isinstance(size, tuple) else (size, None)
    if paired:
        own = Refs(embeddings, labels, jnp.arange(n), where)
        refs = replicated(own if refs is None else refs)
    cut = Cut(n, size)
    some = record.options.per_sample
    each = {k: jnp.asarray(x) for k, x in options.items() if k in some and jnp.ndim(x)}
    # at least float32: otherwise gradients would be added up in half precision
    rows = upcast(embeddings), labels, where, refs and refs.self_index
    parts = cut(replicated(rows))
    each = cut(replicated(each), "edge")  # "edge": padding must not divide by a temperature of 0
    if isinstance(mined, Mined) and (record.mined != "tuples" or not paired):
        own_refs &= record.mined != "anchors"
        mined = samples_weighed(f"losses.{record.name}", mined, n, own_refs)
    if ref_size is not None:
        if isinstance(mined, Mined):
            raise ValueError(
                f"losses.{record.name}: `mined` is not supported with blocks of references."
            )
        *visits, some_refs = _ref_blocks(refs, ref_size)
    mined_at = None if mined is None else cut_mined(cut, mined)

    def block(k):
        x, y, w, self_index = cut.at(parts, k)
        own = cut.at(each, k) | {"where": w}
        if cut.missing:
            real = cut.rows(k) < n
            own["where"] = real if w is None else jnp.where(real, w, jnp.zeros_like(w))
        if mined_at is not None:
            own["mined"] = mined_at(k)
        meet = functools.partial(record.body, x.astype(embeddings.dtype), y, *params)
        meet = functools.partial(meet, **options | own)
        if not paired:
            return meet()
        if ref_size is None:
            return meet(refs=refs._replace(self_index=self_index))
        return over_refs(lambda j, some: meet(refs=some_refs(j, some, self_index)), *visits)

    return cut, block


def _ref_blocks(refs, size):
    """Splits references: returns how to visit the blocks, the blocks, and a function for `Refs`."""
    m = len(refs.embeddings)
    cut = Cut(m, size)
    where = jnp.ones(m, upcast(refs.embeddings[:0]).dtype) if refs.where is None else refs.where

    def one(j, block, self_index):
        embeddings, labels, weights = block
        weights = jnp.where(cut.rows(j) < m, weights, jnp.zeros_like(weights))
        if self_index is not None:
            its_block, place = cut.place(self_index)
            place = jnp.where(its_block == j, place, cut.size)  # not a row of any other block
            self_index = place.astype(self_index.dtype)
        return Refs(embeddings, labels, self_index, weights)

    return InTurn(cut), cut((refs.embeddings, refs.labels, where)), one
