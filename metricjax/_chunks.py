"""Losses a block of rows at a time: memory no longer grows with N * M."""

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from metricjax._check import check_embeddings
from metricjax._masked import upcast
from metricjax._refs import gather_refs, replicated, self_refs
from metricjax._stream import Stream, sum_over
from metricjax._types import LossTerm, Mined, Refs, TripletRule, Triplets
from metricjax.tuples import sample_weights

P = ParamSpec("P")
T = TypeVar("T")

DENSE_ELEMENTS = 2**20
"""Pair and triplet losses take all (anchor, reference) pairs at once if there are fewer."""

CHUNK_ELEMENTS, CHUNK_ROWS = 2**19, 128
"""Of more they take so many at a time, but no fewer anchors: products of few rows are slow."""


def chunked(loss, chunk_size: int):
    """The same loss, computed at most `chunk_size` rows at a time, and its gradient, too.

    A row is an anchor with all its references, or a class with the whole batch for losses that sum
    over the batch inside a logarithm (`losses.proxy_anchor`). Value and gradient are those of the
    dense loss. Pair and triplet losses do this by themselves once ``N * M`` is large.

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

    Returns:
        A function with the arguments of `loss` whose terms are streamed: `reduce` them under the
        same `jit`; ``term.dense()`` shows the arrays.
    """
    if chunk_size < 1:
        raise ValueError(f"chunked: `chunk_size` must be at least 1, got {chunk_size}.")
    rows = _rows_of(loss)
    if rows is None:
        name, why = pure(loss).__name__, pure(loss).why_whole
        raise ValueError(f"chunked: losses.{name} needs the whole batch at once: {why}.")

    @functools.wraps(loss)
    def fn(embeddings, labels=None, *params, **options):
        return rows(loss, chunk_size, embeddings, labels, *params, **options)

    return fn


def anchorwise(loss):
    """Marks a loss whose rows are anchors, and streams it by itself over large batches."""

    @functools.wraps(loss)
    def fn(embeddings, labels=None, *params, refs=None, **options):
        size = _own_size(loss, embeddings, refs)
        if size is None:
            return loss(embeddings, labels, *params, refs=refs, **options)
        return _by_anchor(loss, size, embeddings, labels, *params, refs=refs, **options)

    return fn


def _own_size(loss, embeddings, refs):
    """How many anchors at a time a loss takes by itself; `None`: all.

    One in passes computes its pairs anew in each of them, and takes twice as many at once.
    """
    check_embeddings(f"losses.{pure(loss).__name__}", "embeddings", jnp.asarray(embeddings))
    n = len(embeddings)
    m = len(refs.embeddings) if isinstance(refs, Refs) else n
    if n * m < DENSE_ELEMENTS * (2 if _rows_of(loss) is _by_passes else 1):
        return None
    size = max(CHUNK_ROWS, CHUNK_ELEMENTS // m)
    return size if size < n else None


Passes = Generator[Any, Any, T]
"""A loss in passes: it yields sums over its anchors, is sent those over all, and returns a T."""


def in_passes(
    *,
    refs_first: bool = False,
    own_mined: Callable[..., Mined] | None = None,
):
    """Makes a loss of a generator: ``total = yield part`` adds up `part` over all anchors.

    A dense loss is sent what it yields. In blocks of anchors each `yield` is a pass over all of
    them; then the terms are streamed, unless they are numbers, which must come from totals alone.
    A row of weight 0 must add 0. The argument `axis_name` is seen to here: totals are summed over
    that axis, and the batch is gathered as references if there are none.

    Args:
        refs_first: the first total is that of the references among themselves.
        own_mined: ``(mined, n, where) -> mined``, for what was mined within the batch.
    """

    def mark(loss: Callable[P, Passes[T]]) -> Callable[P, T]:
        body: Callable[..., Any] = loss

        @functools.wraps(loss)
        def fn(embeddings, labels=None, *params, block=False, **options):
            if block:
                return body(embeddings, labels, *params, **options)
            return _by_passes(fn, None, embeddings, labels, *params, **options)

        vars(fn).update(rows=_by_passes, refs_first=refs_first, own_mined=own_mined)
        return fn  # type: ignore[return-value]

    return mark


def classwise(loss):
    """Marks a loss whose rows are classes: it needs the whole batch, but not all classes."""
    loss.rows = _by_class
    return loss


def whole_batch(why: str):
    """Marks a loss that does not come apart: it needs the whole batch at once."""

    def mark(loss):
        loss.rows = None
        loss.why_whole = why
        return loss

    return mark


def weighs_samples(*, anchors_only: bool = False):
    """Marks a loss for which `mined` weighs samples, and does not choose pairs.

    Losses without references are such by themselves. `anchors_only`: as in `tuples.sample_weights`
    with ``self_refs=False``.
    """

    def mark(loss):
        loss.weighs_samples = True
        loss.anchors_only = anchors_only
        return loss

    return mark


def needs_whole_batch(loss, *, mined: bool = False) -> bool:
    """Whether a device's part of the batch, or what is `mined` in it, makes no part of the loss."""
    of_batch = mined and getattr(pure(loss), "own_mined", None) is not None
    return of_batch or _rows_of(loss) in (None, _by_class)


def gathers(loss, *, mined: bool = False) -> bool:
    """Whether a loss gathers its references by itself, and need not share them with a miner."""
    return names(loss, "axis_name") and not (mined and _rows_of(loss) is _by_passes)


def given(loss, option: str):
    """What a `functools.partial` or a module of `metricjax.nn` has for an option."""
    while isinstance(loss, functools.partial):
        if option in loss.keywords:
            return loss.keywords[option]
        loss = loss.func
    return dict(getattr(loss, "options", ())).get(option)


def takes(loss, option: str) -> bool:
    """Whether a loss has a parameter of that name, or takes any."""
    parameters = inspect.signature(pure(loss)).parameters
    return option in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def names(loss, option: str) -> bool:
    """Whether a loss has a parameter of that very name."""
    return option in inspect.signature(pure(loss)).parameters


def pure(loss):
    """The function under a `functools.partial` or a module of `metricjax.nn`."""
    loss = _unbound(loss)
    return getattr(loss, "loss", loss)


def _unbound(loss):
    """The function or module under a `functools.partial`."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _rows_of(loss):
    return getattr(pure(loss), "rows", _by_anchor)


def _by_anchor(loss, size, embeddings, labels, *params, **options):
    cut, block = _blocks(loss, size, embeddings, labels, *params, **options)

    def slab(k):
        terms = block(k)
        for name, term in terms.items():
            _check_rows(name, term, size)
        return terms

    return cut.stream(slab)


def _by_passes(
    loss,
    size,
    embeddings,
    labels,
    *params,
    refs=None,
    where=None,
    mined=None,
    axis_name=None,
    **options,
):
    """Sends a loss `in_passes` its totals; `size` anchors at a time, `None`: as it does itself."""
    if hasattr(_unbound(loss), "loss"):
        raise TypeError(
            f"chunked: give the pure function losses.{pure(loss).__name__}, not the module."
        )
    options |= {"block": True}
    totals = []
    if pure(loss).refs_first and isinstance(refs, Refs) and mined is None:
        totals.append(_first_total(loss, size, refs, *params, **options))
    if refs is None and mined is not None and pure(loss).own_mined is not None:
        if axis_name is not None:
            raise ValueError(
                f"losses.{pure(loss).__name__}: `mined` must be that of the whole batch, and "
                f"`axis_name` left out: gather the batch, or use `metricjax.objective`."
            )
        mined = pure(loss).own_mined(mined, len(embeddings), where)
    if refs is None and axis_name is not None:
        refs = gather_refs(embeddings, labels, axis_name, where=where)
    if size is None and not (labels is None and mined is None):
        size = _own_size(loss, embeddings, refs)
    options |= {"refs": refs, "where": where, "mined": mined}
    of_all = lambda total: total if axis_name is None else jax.lax.psum(total, axis_name)
    if size is None:
        return _sent(loss(embeddings, labels, *params, **options), totals, then=of_all)[0]
    cut, block = _blocks(loss, size, embeddings, labels, *params, **options)
    while True:
        out, ended = _sent(block(jnp.int32(0)), totals)
        if ended:
            break
        add_up = lambda k, sent=tuple(totals): _sent(block(k), sent)[0]
        totals.append(of_all(sum_over(add_up, cut.count)))
    if not isinstance(out, dict) or all(term.values.ndim == 0 for term in out.values()):
        return out
    return cut.stream(lambda k: _sent(block(k), totals)[0])


def _first_total(loss, size, refs, *params, **options):
    """The first total of the references among themselves."""
    batch = refs.embeddings, refs.labels, *params
    options |= {"where": refs.where}
    size = size or _own_size(loss, refs.embeddings, None)
    if size is None:
        return next(loss(*batch, **options))
    cut, block = _blocks(loss, size, *batch, **options)
    return sum_over(lambda k: next(block(k)), cut.count)


def _sent(passes, totals, *, then=None):
    """What a loss yields after `totals`, or returns; and whether it returned.

    It goes on with ``then(part)`` of what it yields, if there is a `then`.
    """
    try:
        part = next(passes)
        for total in totals:
            part = passes.send(total)
        while then is not None:
            part = passes.send(then(part))
    except StopIteration as end:
        return end.value, True
    return part, False


def _blocks(loss, size, embeddings, labels, *params, refs=None, where=None, mined=None, **options):
    """How the anchors are cut, and what the loss makes of the k-th of its blocks."""
    n = len(embeddings)
    paired, own_refs = takes(loss, "refs"), refs is None
    if paired:
        refs = self_refs(embeddings, labels, where) if refs is None else replicated(refs)
    cut = Cut(n, size)
    # at least float32, or gradients would be added up in half precision
    parts = cut((upcast(embeddings), labels, where, refs and refs.self_index))
    if isinstance(mined, Mined) and getattr(pure(loss), "weighs_samples", not paired):
        own_refs &= not getattr(pure(loss), "anchors_only", False)
        mined = sample_weights(mined, n, self_refs=own_refs)
    mined_at = _cut_mined(cut, mined)

    def block(k):
        x, y, w, self_index = cut.at(parts, k)
        real = cut.rows(k) < n
        own = {"where": real if w is None else jnp.where(real, w, jnp.zeros_like(w))}
        if paired:
            own["refs"] = refs._replace(self_index=self_index)
        if mined is not None:
            own["mined"] = mined_at(k)
        return loss(x.astype(embeddings.dtype), y, *params, **own, **options)

    return cut, block


def _by_class(loss, size, embeddings, labels, weights=None, *params, where=None, **options):
    if weights is None:
        raise TypeError(
            f"chunked: losses.{pure(loss).__name__} is cut by classes and needs its class weights "
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


class Cut:
    """Deals n rows out to parts of `size`: part k has the rows k, k + count, k + 2 count, ...

    So each part has rows from every device when the batch is sharded, and all devices work on it.
    """

    def __init__(self, n, size):
        self.n, self.size, self.count = n, size, -(-n // size)

    def __call__(self, tree):
        """Arrays ``[n, ...]`` as ``[size, count, ...]``, with zeros at the end."""

        def one(x):
            if padding := self.size * self.count - self.n:
                x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
            return x.reshape(self.size, self.count, *x.shape[1:])

        return jax.tree.map(one, replicated(tree))

    def at(self, parts, k):
        """Part k of what was cut."""
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, k, 1, False), parts)

    def rows(self, k):
        """The row numbers of part k; those from n on are padding."""
        return jnp.arange(self.size, dtype=jnp.int32) * self.count + k

    def join(self, x):
        """``[size, count, ...]`` as ``[n, ...]``."""
        return x.reshape(-1, *x.shape[2:])[: self.n]

    def stream(self, slab):
        return Stream(slab, self.count, self.rows, self.join).terms()


def _cut_mined(cut, mined):
    """Mined pairs or triplets as a function of k: those of the anchors in part k."""
    if isinstance(mined, Triplets):
        ours = lambda k: mined.anchor % cut.count == k
        return lambda k: mined._replace(
            anchor=jnp.where(ours(k), mined.anchor // cut.count, 0),
            weights=jnp.where(ours(k), mined.weights, 0),
        )
    if isinstance(mined, TripletRule):
        parts = cut((mined.positive, mined.negative, mined.rows))
        return lambda k: TripletRule(*cut.at(parts, k), mined.keep)
    parts = cut(mined)
    return lambda k: cut.at(parts, k)
