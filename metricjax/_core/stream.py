"""Streamed terms: losses too large to hold, computed slab by slab and reduced on the way.

A loss of 8,192 anchors has 67 million pairs. Its term does not hold an array of them, but a
function. ``slab(k)`` is the term of the k-th block of anchors, or of the k-th positive of every
anchor. A reducer computes two sums of each slab, so a loop can add up the sums and drop the slab:

    total, count = 0, 0
    for k in range(steps):                 # a loop of XLA; `steps` may be traced
        term = slab(k)
        total, count = total + sum(term.values * term.weights), count + term.divisor

`fold` does this for all terms of a loss. Terms of one stream share the loop, `sum_over`.

JAX cannot differentiate a loop backwards if its number of steps is traced. If the number is fixed,
JAX would store every slab. So the loop has its own rule, `_sum_of_tangents`: derivatives compute
the slabs again. The gradient of a single number is added up in the same loop as the number.
"""

import dataclasses
import functools
from collections.abc import Callable
from itertools import compress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metricjax._core.jax_internals import SymbolicZero, depends, hoist, no_slope, varying
from metricjax._core.linear import linear, vary
from metricjax._core.types import LossDict, LossTerm, Ratio, Reducer


class Stream(NamedTuple):
    """A loss dict in parts: `slab(k)` is the k-th of `steps` parts. `steps` may be traced.

    A slab may close over traced arrays, and gradients reach these arrays. A slab may hold streamed
    terms itself. `rows(k)` are the anchors that the rows of slab k belong to, if these are not all
    anchors in order. `join` brings slabs stacked along axis 1 into the order of the whole term.
    `total` adds up ``fn(k)`` over all slabs, and chooses what to pass as k. The default is
    `sum_over`.
    """

    slab: Callable[[Array], LossDict]
    steps: Array | int
    rows: Callable[[Array], Array] | None = None
    join: Callable[[Array], Array] = lambda x: x
    total: Callable[[Callable[[Any], Any], Array | int], Any] | None = None

    def terms(self) -> LossDict:
        """Returns the streamed loss dict, which is what a loss returns."""
        names: list[str] = []
        jax.eval_shape(lambda k: names.extend(self.slab(k)), jnp.int32(0))
        return {name: StreamedTerm(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class StreamedTerm:
    """Takes the place of a `LossTerm` whose values would not fit in memory.

    It holds a computation, not arrays. Reduce it under the same `jit` that made it.
    """

    stream: Stream
    name: str

    def __repr__(self):
        return f"StreamedTerm({self.name!r}; `metricjax.reduce` computes it, under the same `jit`)"

    def dense(self) -> LossTerm:
        """Returns the whole term as arrays, for inspection outside of `jit`.

        Do not use it for large batches.
        """
        if self.stream.total is not None:
            raise ValueError(f"{self.name}: the parts of this term are never on one device.")
        steps = max(1, int(self.stream.steps))
        slabs = [self.stream.slab(jnp.int32(k))[self.name].dense() for k in range(steps)]
        values, weights, divisor, _, anchor_weights = zip(*slabs, strict=True)
        if not values[0].ndim:
            return LossTerm(sum(values), weights[0], None if divisor[0] is None else sum(divisor))
        return LossTerm(
            self._whole(values),
            self._whole(weights),
            None if divisor[0] is None else sum(divisor[1:], divisor[0]),
            None,
            None if anchor_weights[0] is None else self._whole(anchor_weights),
        )

    def _whole(self, slabs):
        shape = [max(sizes) for sizes in zip(*(x.shape for x in slabs), strict=True)]
        fit = lambda x: jnp.pad(x, [(0, n - m) for m, n in zip(x.shape, shape, strict=True)])
        return self.stream.join(jnp.stack([fit(x) for x in slabs], 1))


def _refuse(term):
    raise TypeError(
        f"The loss term {term.name!r} is computed in blocks, while it is reduced, and cannot leave "
        f"a transformed function. Call `metricjax.reduce` inside of it and return the numbers, or "
        f"`term.dense()`."
    )


jax.tree_util.register_pytree_node(StreamedTerm, _refuse, lambda *_: None)  # type: ignore
"""Registered only to raise this error when a term would leave a transformed function. Outside, what
the term closes over is of no use."""


def fold(
    terms: LossDict, reducers: dict[str, Reducer], rows: Array | None = None
) -> dict[str, Ratio]:
    """Reduces each term to `(total, count)`. Terms of one stream share one pass over its slabs.

    `rows` are the anchors that the rows of these terms belong to, if not 0, 1, 2, ...
    """
    done: dict[str, Ratio] = {}
    streams: dict[int, tuple[Stream, dict[str, str]]] = {}
    term: Any
    for name, term in terms.items():
        if isinstance(term, StreamedTerm):
            streams.setdefault(id(term.stream), (term.stream, {}))[1][term.name] = name
        elif term.values.ndim == 0:
            done[name] = term.values, term.divisor
        elif rows is None:
            done[name] = reducers[name](term)
        else:
            done[name] = reducers[name](term._replace(anchor=_of(rows, term.anchor)))
    for stream, names in streams.values():
        chosen = {inner: reducers[name] for inner, name in names.items()}

        def part(k, stream=stream, chosen=chosen):
            slab = stream.slab(k)
            its_rows = _of(rows, stream.rows and stream.rows(k))
            return fold({inner: slab[inner] for inner in chosen}, chosen, its_rows)

        ratios = (stream.total or sum_over)(part, stream.steps)
        done |= {names[inner]: ratio for inner, ratio in ratios.items()}
    return {name: done[name] for name in terms}


def scaled(terms: LossDict, factor: Any) -> LossDict:
    """Multiplies the values of terms by `factor`. Terms of one stream stay in one stream."""
    streams: dict[int, Stream] = {}

    def one(term: Any):
        if not isinstance(term, StreamedTerm):
            return term._replace(values=term.values * jnp.asarray(factor, term.values.dtype))
        stream = term.stream
        larger = stream._replace(slab=lambda *at: scaled(stream.slab(*at), factor))
        return StreamedTerm(streams.setdefault(id(stream), larger), term.name)

    return {name: one(term) for name, term in terms.items()}


def _of(rows, inner):
    """Takes the row numbers `inner` of the rows `rows`. `None` stands for 0, 1, 2, ..."""
    return inner if rows is None else rows if inner is None else rows[inner]


def sum_over(fn: Callable[[Array], Any], count: Array | int) -> Any:
    """Returns ``sum(fn(k) for k in range(count))``, with all of JAX's derivatives.

    `count` may be traced. All arrays that `fn` closes over become arguments, so that derivatives
    reach them.
    """
    fn, closed_over = hoist(fn, jnp.int32(0))
    return sum_of_slabs(_once(fn), jnp.asarray(count, jnp.int32), *closed_over)


_once = functools.partial(jax.jit, inline=True)
"""Functions are traced several times here, and inside each other. `jit` keeps what was traced, so
their Python code runs only once. With `inline`, the `jit` does not appear in the program."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_slabs(fn, count, *args):  # `jax_internals` looks for this name
    """Returns ``sum(fn(k, *args) for k in range(count))``. `fn` closes over no arrays."""
    zero = jax.tree.map(zeros_like, jax.eval_shape(fn, jnp.int32(0), *args))
    step = lambda k, total: jax.tree.map(jnp.add, total, fn(k, *args))
    return jax.lax.fori_loop(jnp.int32(0), count, step, zero)


def _sum_of_tangents(fn, primals, tangents):
    """Differentiates `sum_of_slabs`.

    If a single number has a derivative, its gradient is added up together with the number. There is
    one loop. The tangent is an inner product, whose transpose scales the gradient. Otherwise the
    tangent is a loop of its own, and its transpose is a third loop. Each loop computes every
    ``fn(k)`` again, so nothing is stored between the loops. (Loops that stored something, or two
    loops for the single number, took 1.3 to 2 times as long.) The loops are streamed sums, so they
    have derivatives themselves.
    """
    (count, *args), (_, *tangents) = primals, tangents
    moves = [not isinstance(t, SymbolicZero) for t in tangents]
    moving, tangents = [*compress(args, moves)], [*compress(tangents, moves)]
    jaxpr = jax.make_jaxpr(fn)(jnp.int32(0), *args).jaxpr
    flows = depends(jaxpr, [False, *moves])

    def smooth(k, args):
        """Returns ``fn(k, *args)`` as a function of what moves, and where to differentiate it."""

        def of_moving(*moving):
            rest = iter(moving)
            out = fn(k, *(next(rest) if m else x for m, x in zip(moves, args, strict=True)))
            return [*compress(jax.tree.leaves(out), flows)], out

        return of_moving, *compress(args, moves)

    @_once
    def value_and_gradient(k, *args):
        (leaf,), back, out = jax.vjp(*smooth(k, args), has_aux=True)
        return out, back([zeros_like(jax.typeof(leaf)) + 1])

    @_once
    def push(k, *args):
        args, tangents = args[: len(moves)], args[len(moves) :]
        of_moving, *moving = smooth(k, args)
        return jax.jvp(of_moving, moving, list(tangents), has_aux=True)[1]

    @_once
    def pull(k, *args):
        args, cotangents = args[: len(moves)], args[len(moves) :]
        return jax.vjp(*smooth(k, args), has_aux=True)[1](list(cotangents))

    if _alone(jaxpr, flows, moving):
        out, grads = sum_of_slabs(value_and_gradient, count, *args)
        (leaf,) = compress(jax.tree.leaves(out), flows)
        products = (jnp.sum(g * t) for g, t in zip(grads, tangents, strict=True))
        slopes = [sum(x.astype(leaf.dtype) for x in products)]
    elif not any(flows):
        out, slopes = sum_of_slabs(fn, count, *args), []
    else:
        out = sum_of_slabs(fn, count, *args)
        slopes = linear(
            lambda args, tangents: sum_of_slabs(push, *args, *tangents),
            lambda args, cotangents: sum_of_slabs(pull, *args, *cotangents),
            (count, *args),
            tuple(tangents),
            [*compress(jax.tree.leaves(out), flows)],
        )
    leaves, tree = jax.tree.flatten(out)
    slopes = iter(slopes)
    return out, tree.unflatten(
        next(slopes) if f else no_slope(x) for f, x in zip(flows, leaves, strict=True)
    )


sum_of_slabs.defjvp(_sum_of_tangents, symbolic_zeros=True)


def _alone(jaxpr, flows, moving):
    """Returns whether only one output has a derivative, and its gradient can be scaled later.

    A single number qualifies, unless its gradient is rounded to half precision, or is a sum over
    devices, whose scales may differ.
    """
    out = [v.aval for v, flow in zip(jaxpr.outvars, flows, strict=True) if flow]
    if [x.shape for x in out] != [()]:
        return False
    ready = lambda x: jnp.finfo(x.dtype).bits >= 32 and varying(x) == varying(out[0])
    return all(ready(jax.typeof(x)) for x in moving)


def zeros_like(like: jax.ShapeDtypeStruct) -> Array:
    """Returns zeros for a loop to carry, with the axes that `like` varies or is sharded over."""
    sharding = getattr(like, "sharding", None)
    zeros = jnp.zeros(like.shape, like.dtype, device=sharding)
    return vary(zeros, varying(like))
