"""Visits references one block at a time, on one device or around many devices.

A loss yields what it sums over the references of each anchor (`OverRefs`), so that references can
come in blocks. `over_refs` runs such a loss. For each of these sums, all blocks are visited once
and added up. If the terms have a value for each pair, the blocks are visited once more for the
terms. `InTurn` visits blocks that are on this device. `Around` passes the block of each device
around, here among three devices:

    device 0   meets block 0, passes it to device 2, meets block 1, meets block 2
    device 1   meets block 1, passes it to device 0, meets block 2, meets block 0
    device 2   meets block 2, passes it to device 1, meets block 0, meets block 1

A number of the anchors alone (`OfAnchors`) must not count once for each block, so each block gets
its share of the number. For derivatives the blocks are visited again, and their tangents or
gradients travel with them: only the blocks and the sums are stored. Only requested gradients are
computed. For example, the gradients of a million rows of a memory are not.
"""

import dataclasses
import functools
from collections.abc import Callable
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metricjax._core.blocks import Cut
from metricjax._core.jax_internals import SymbolicZero, hoist
from metricjax._core.linear import linear, vary_along
from metricjax._core.stream import Stream, StreamedTerm, zeros_like
from metricjax._core.sums import OfAnchors, OverRefs, add, nothing, sent, share
from metricjax._core.types import AxisName


@dataclasses.dataclass(frozen=True)
class Around:
    """Passes each device's block around the devices of a mapped axis.

    A block's key says whether the block is the device's own. Several axes count as one: their
    devices are numbered with the last axis fastest.
    """

    axis_name: AxisName

    @property
    def count(self) -> int:
        return jax.lax.axis_size(self.axis_name)

    def first(self, block):
        return jnp.bool_(True), block

    def fold(self, step, block, cargo, done):
        """Folds ``step(key, block, cargo, done) -> cargo, done``. Cargo travels with its block."""
        on = [(i, (i - 1) % self.count) for i in range(self.count)]

        def body(k, carry):
            block, cargo, done = carry
            cargo, done = step(k == 0, block, cargo, done)
            block, cargo = jax.lax.ppermute((block, cargo), self.axis_name, on)
            return block, cargo, done

        return jax.lax.fori_loop(0, self.count, body, (block, cargo, done))[1:]

    def prepared(self, x):
        """Returns `x` as an array that may differ between devices, as everything that travels."""
        return vary_along(x, self.axis_name)

    def terms(self, slab, block):
        """Returns the streamed terms ``slab(key, block)`` of all blocks."""
        of_all = lambda fn, _: total(self, block, lambda *visit: fn(visit))
        stream = Stream(lambda visit: slab(*visit), 0, total=of_all)
        names: list[str] = []
        jax.eval_shape(lambda block: names.extend(slab(*self.first(block))), block)
        return {name: StreamedTerm(stream, name) for name in names}


@dataclasses.dataclass(frozen=True)
class InTurn:
    """Visits blocks on this device, as `cut` has split them. A block's key is its number."""

    cut: Cut

    @property
    def count(self) -> int:
        return self.cut.count

    def first(self, blocks):
        return jnp.int32(0), self.cut.at(blocks, jnp.int32(0))

    def fold(self, step, blocks, cargo, done):
        def body(k, carry):
            cargo, done = carry
            k = k.astype(jnp.int32)  # as the first key, whatever the default integer is
            new, done = step(k, self.cut.at(blocks, k), self.cut.at(cargo, k), done)
            return self.cut.put(cargo, new, k), done

        return jax.lax.fori_loop(0, self.count, body, (cargo, done))

    def prepared(self, x):
        return x

    def terms(self, slab, blocks):
        columns = lambda x: self.cut.join_stacked(x.transpose(2, 1, 0)).T
        slab_of = lambda k: slab(k, self.cut.at(blocks, k))
        return Stream(slab_of, self.count, join=columns).terms()


def over_refs(body: Callable[[Array, Any], Any], visits: Around | InTurn, blocks: Any):
    """Computes a loss over all blocks of references. ``body(key, block)`` meets one block.

    This is a generator itself: it yields only the sums over anchors.
    """
    known: list[Any] = []
    meet = lambda visit, known: sent(body(*visit), known, all_refs=False)
    while True:
        part, ended = meet(visits.first(blocks), known)
        if ended:
            break
        if isinstance(part, OfAnchors):
            known.append(part.value / visits.count)
            continue
        over = isinstance(part, OverRefs)

        def sums(key, block, known=tuple(known), over=over):
            part = meet((key, block), known)[0]
            return part.sums if over else part

        part = total(visits, blocks, sums)
        known.append(part if over else (yield part))
    if all(term.values.ndim < 2 for term in part.values()):
        return part

    def slab(key, block):  # none of these has a whole row
        terms = meet((key, block), known)[0]
        return {name: term._replace(anchor_weights=None) for name, term in terms.items()}

    return visits.terms(slab, blocks)


def total(visits: Around | InTurn, blocks: Any, fn: Callable[[Array, Any], Any]) -> Any:
    """Adds up ``fn(key, block)`` over all blocks: arrays, and `LogSum` by logarithms."""
    leaves, tree = jax.tree.flatten(blocks)
    leaves = [visits.prepared(x) for x in leaves]
    of_leaves = lambda key, *leaves: fn(key, jax.tree.unflatten(tree, leaves))
    key, block = visits.first(leaves)
    part, closed_over = hoist(of_leaves, key, *block)
    return _total(part, visits, tuple(leaves), tuple(closed_over))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total(part, visits, blocks, rest):
    """Returns the sum of ``part(key, *block, *rest)`` over all blocks."""
    key, block = visits.first(blocks)
    like = jax.eval_shape(part, key, *block, *rest)
    step = lambda key, block, _, done: ((), add(done, part(key, *block, *rest)))
    return visits.fold(step, blocks, (), nothing(like))[1]


def _total_jvp(part, visits, primals, tangents):
    out = _total(part, visits, *primals)
    moves = jax.tree.map(lambda t: not isinstance(t, SymbolicZero), tangents)
    flags = [*moves[0], *moves[1]]
    zeros = lambda xs: jax.tree.map(lambda x: zeros_like(jax.typeof(x)), xs)
    plus = lambda a, b: jax.tree.map(jnp.add, a, b)

    def smooth(key, block, rest):
        """Returns a block's part as a function of what moves, and where to differentiate it."""

        def of_moving(*moving):
            moving, args = iter(moving), (*block, *rest)
            return part(key, *(next(moving) if m else x for m, x in zip(flags, args, strict=True)))

        return of_moving, *compress((*block, *rest), flags)

    def push(args, slopes):
        blocks, rest, out = args
        to_blocks, to_rest = slopes

        def step(key, block, to_block, done):
            fn, *moving = smooth(key, block, rest)
            values, of_part = jax.jvp(fn, moving, [*to_block, *to_rest])
            return to_block, plus(done, share(of_part, values, out))

        return visits.fold(step, blocks, to_blocks, zeros(out))[1]

    def pull(args, cotangents):
        blocks, rest, out = args

        def step(key, block, to_block, to_rest):
            values, back = jax.vjp(*smooth(key, block, rest))
            grads = back(share(cotangents, values, out))
            n = len(to_block)
            return plus(to_block, grads[:n]), plus(to_rest, grads[n:])

        of_moving = (tuple(compress(p, m)) for m, p in zip(moves, (blocks, rest), strict=True))
        return visits.fold(step, blocks, *map(zeros, of_moving))

    slopes = tuple(tuple(compress(t, m)) for m, t in zip(moves, tangents, strict=True))
    return out, linear(push, pull, (*primals, out), slopes, out)


_total.defjvp(_total_jvp, symbolic_zeros=True)
