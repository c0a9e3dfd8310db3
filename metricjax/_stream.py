"""Streamed terms: losses too large to hold, produced slab by slab and reduced on the way."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metricjax._jax import SymbolicZero, depends, hoist, varying
from metricjax._types import LossDict, LossTerm, Ratio, Reducer


class Stream(NamedTuple):
    """A loss dict in parts: `slab(k)` is the k-th, `steps` how many there are (may be traced).

    A slab may close over traced arrays, which gradients reach, and may hold streamed terms itself.
    `rows(k)` are the anchors that the rows of slab k belong to, where these are not all of them in
    order. `join` brings slabs stacked along axis 1 into the order of the whole term. `total` adds
    up ``fn(k)`` over all slabs, `sum_over` if not given; k is then whatever `total` calls it with.
    """

    slab: Callable[[Array], LossDict]
    steps: Array | int
    rows: Callable[[Array], Array] | None = None
    join: Callable[[Array], Array] = lambda x: x
    total: Callable[[Callable[[Any], Any], Array | int], Any] | None = None

    def terms(self) -> LossDict:
        """The streamed loss dict: what a loss returns."""
        names: list[str] = []
        jax.eval_shape(lambda k: names.extend(self.slab(k)), jnp.int32(0))
        return {name: StreamedTerm(self, name) for name in names}


class StreamedTerm:
    """Stands where a `LossTerm` would, when its values would not fit in memory.

    It holds a computation, not arrays: reduce it under the same `jit` that made it.
    """

    def __init__(self, stream: Stream, name: str):
        self.stream, self.name = stream, name

    def dense(self) -> LossTerm:
        """The whole term as arrays. For looking at: outside `jit`, and not for large batches."""
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


def fold(
    terms: LossDict, reducers: dict[str, Reducer], rows: Array | None = None
) -> dict[str, Ratio]:
    """Each term's `(total, count)`; terms of one stream share one pass over its slabs.

    `rows` are the anchors that the rows of these terms belong to, if not 0, 1, 2, ...
    """
    done: dict[str, Ratio] = {}
    for name, term in terms.items():
        if isinstance(term, LossTerm) and term.values.ndim == 0:
            done[name] = term.values, term.divisor
        elif isinstance(term, LossTerm):
            done[name] = reducers[name](term._replace(anchor=_of(rows, term.anchor)))
    streamed = {n: t for n, t in terms.items() if isinstance(t, StreamedTerm)}
    for stream in {id(t.stream): t.stream for t in streamed.values()}.values():
        names = {t.name: n for n, t in streamed.items() if t.stream is stream}
        ratios = _fold_stream(stream, {inner: reducers[n] for inner, n in names.items()}, rows)
        done |= {names[inner]: ratio for inner, ratio in ratios.items()}
    return {name: done[name] for name in terms}


def _fold_stream(stream, reducers, rows):
    def part(k):
        terms = {name: term for name, term in stream.slab(k).items() if name in reducers}
        return fold(terms, reducers, _of(rows, stream.rows and stream.rows(k)))

    return (stream.total or sum_over)(part, stream.steps)


def _of(rows, inner):
    """Row numbers `inner` of the rows `rows`; `None` stands for 0, 1, 2, ..."""
    return inner if rows is None else rows if inner is None else rows[inner]


def sum_over(fn: Callable[[Array], Any], count: Array | int) -> Any:
    """``sum(fn(k) for k in range(count))`` for a traced `count`, reverse-differentiable.

    Nothing is stored between the passes. Where a single number has a derivative, its gradient is
    added up along with it, and scaled in the backward pass; else that pass runs the same loop and
    recomputes each ``fn(k)``. Everything `fn` closes over is hoisted to arguments, so that
    gradients reach it; only those that were asked for are computed.
    """
    fn, closed_over, jaxpr = hoist(fn, jnp.int32(0))

    def pull(k, args, moves, asked):
        """``fn(k)``, and the pullback of its leaves asked for to the arguments that move."""

        def of_moving(moving):
            rest = iter(moving)
            out = fn(k, *(next(rest) if m else x for m, x in zip(moves, args, strict=True)))
            return _where(asked, jax.tree.leaves(out)), out

        _, back, out = jax.vjp(of_moving, _where(moves, args), has_aux=True)
        return out, lambda cotangents: back(cotangents)[0]

    @jax.custom_vjp
    def sum_of_slabs(count, *args):  # `_jax` knows it by this name
        return _add_up(lambda k: fn(k, *args), count)

    def forward(count, *args):
        count, values = count.value, [x.value for x in args]
        moves = tuple(x.perturbed for x in args)
        flows = tuple(depends(jaxpr, [*moves, False]))
        alone = _alone(jaxpr, flows, _where(moves, values))
        if alone is None:
            return sum_of_slabs(count, *values), (count, values, _Static((moves, None)))

        def step(k):
            out, back = pull(k, values, moves, flows)
            return out, back([ones_like(jax.tree.leaves(out)[alone])])

        out, grads = _add_up(step, count)
        return out, (count, grads, _Static((moves, alone)))

    def backward(residuals, cotangents):
        count, kept, static = residuals
        moves, alone = static.value
        leaves = jax.tree.leaves(cotangents)
        asked = [not isinstance(x, SymbolicZero) for x in leaves]
        if alone is None:
            back = lambda k: pull(k, kept, moves, asked)[1](_where(asked, leaves))
            grads = iter(_add_up(back, count))
        elif asked[alone]:
            grads = iter([leaves[alone].astype(x.dtype) * x for x in kept])
        else:
            return None, *(None for _ in moves)
        return None, *(next(grads) if m else None for m in moves)

    sum_of_slabs.defvjp(forward, backward, symbolic_zeros=True)
    return sum_of_slabs(jnp.asarray(count, jnp.int32), *closed_over)


def _alone(jaxpr, flows, moving):
    """Which output alone has a derivative, if it is a number whose gradient can be scaled later.

    Not if that is rounded to half precision, nor if devices, whose scales may differ, are added up.
    """
    out = [v.aval for v, flow in zip(jaxpr.outvars, flows, strict=True) if flow]
    if [x.shape for x in out] != [()]:
        return None
    ready = lambda x: jnp.finfo(x.dtype).bits >= 32 and varying(x) == varying(out[0])
    return flows.index(True) if all(ready(jax.typeof(x)) for x in moving) else None


def _where(flags, values):
    return [value for flag, value in zip(flags, values, strict=True) if flag]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """A value that is no array, among the residuals."""

    value: tuple


def _add_up(step, count):
    zero = jax.tree.map(zeros_like, jax.eval_shape(step, jnp.int32(0)))

    def body(carry):
        k, total = carry
        return k + 1, jax.tree.map(jnp.add, total, step(k))

    return jax.lax.while_loop(lambda carry: carry[0] < count, body, (jnp.int32(0), zero))[1]


def zeros_like(like: jax.ShapeDtypeStruct) -> Array:
    """Zeros that a loop can carry: with the mesh axes that `like` varies or is sharded over."""
    sharding = getattr(like, "sharding", None)
    zeros = jnp.zeros(like.shape, like.dtype, device=sharding)
    axes = tuple(varying(like))
    return jax.lax.pcast(zeros, axes, to="varying") if axes else zeros


def ones_like(x: Array) -> Array:
    """The cotangent 1 of `x`, which has its type, see `zeros_like`."""
    return zeros_like(jax.typeof(x)) + 1
