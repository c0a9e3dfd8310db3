"""Splits rows into blocks of equal size: anchors, references, classes, or inputs of a network.

All rows are split in the same way. On one device, block k is a slice: the rows from k * size on. On
several devices, a batch may be spread over all of them. Each device should then have a part of
every block. So a block consists of runs of consecutive rows, one run from each of several equal
parts of the batch. Here 12 rows are split into blocks of 4, in 2 runs:

    rows     0  1 | 2  3 | 4  5      6  7 | 8  9 | 10 11
    block    0  0 | 1  1 | 2  2      0  0 | 1  1 |  2  2

Single rows taken with a stride would also work. But a TPU moves tiles of 8 rows: by the estimate of
its compiler, a stride cost a quarter of the time of a loss.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from metricjax._core.refs import replicated, reshape_rows
from metricjax._core.types import TripletRule, Triplets


class Cut:
    """Splits n rows into `count` blocks of `size` rows.

    If a run is longer than the rows that are left, it is filled with padding: rows of number n.
    """

    def __init__(self, n: int, size: int, runs: int | None = None):
        self.n, self.size = n, min(size, max(n, 1))
        self.runs = runs or math.gcd(n, self.size, jax.device_count())
        self.part, self.run = n // self.runs, self.size // self.runs
        self.count = -(-self.part // self.run)
        self.missing = self.count * self.run - self.part  # rows of padding in each run

    def __call__(self, tree: Any, padding: str = "constant") -> Any:
        """Splits arrays ``[n, ...]`` into ``[runs, count, run, ...]``, with zeros for missing rows.

        With "edge" as `padding`, missing rows are copies of the last row of their part.
        """

        in_runs = lambda x: reshape_rows(x, 1, self.runs, self.part)
        fill = lambda x: jnp.pad(x, [(0, 0), (0, self.missing), *[(0, 0)] * (x.ndim - 2)], padding)
        in_blocks = lambda x: reshape_rows(x, 2, self.runs, self.count, self.run)
        dealt = lambda x: in_blocks(fill(in_runs(x)) if self.missing else in_runs(x))
        return jax.tree.map(dealt, tree)

    def at(self, parts: Any, k: Array | int) -> Any:
        """Returns block k ``[size, ...]`` of arrays that were split."""
        one = lambda x: jax.lax.dynamic_index_in_dim(x, k, 1, False)
        return jax.tree.map(lambda x: one(x).reshape(self.size, *x.shape[3:]), parts)

    def put(self, parts: Any, block: Any, k: Array) -> Any:
        """Returns arrays that were split, with block k replaced."""

        def one(x, new):
            new = new.reshape(self.runs, self.run, *new.shape[1:])
            return jax.lax.dynamic_update_index_in_dim(x, new, k, 1)

        return jax.tree.map(one, parts, block)

    def each(self, fn: Callable[[Array, Any], Any], parts: Any) -> Any:
        """Returns ``fn(k, block k)`` of every block, stacked."""
        flat = lambda x: reshape_rows(x, 2, self.size)
        one = lambda args: fn(args[0], jax.tree.map(flat, args[1]))
        blocks = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts)
        return jax.lax.map(one, (jnp.arange(self.count, dtype=jnp.int32), blocks))

    def rows(self, k: Array) -> Int[Array, " size"]:
        """Returns the row numbers of block k. Padding has the number n."""
        runs = jnp.arange(self.runs, dtype=jnp.int32)[:, None] * self.part
        place = k * self.run + jnp.arange(self.run, dtype=jnp.int32)[None, :]
        return jnp.where(place < self.part, runs + place, self.n).reshape(self.size)

    def place(self, row: Int[Array, "*shape"]) -> tuple[Array, Array]:
        """Returns the block that a row is in, and its place in that block.

        The place of row n, and of a negative row, is outside of the block.
        """
        row = row.astype(jnp.int32)  # the dtype of block numbers
        run, place = row // self.part, row % self.part
        return place // self.run, run * self.run + place % self.run

    def join(self, parts: Array) -> Array:
        """Joins arrays that were split into rows ``[n, ...]`` again."""
        x = reshape_rows(parts, 3, self.runs, self.count * self.run)[:, : self.part]
        return reshape_rows(x, 2, self.n)

    def join_stacked(self, x: Array) -> Array:
        """Joins blocks ``[size, count, ...]`` into rows ``[n, ...]``."""
        return self.join(jnp.moveaxis(x.reshape(self.runs, self.run, *x.shape[1:]), 2, 1))


def cut_mined(cut: Cut, mined) -> Callable[[Array], Any]:
    """Returns mined pairs or triplets as a function of k: those of the anchors in block k."""
    if isinstance(mined, Triplets):
        block, place = cut.place(mined.anchor)
        return lambda k: mined._replace(
            anchor=jnp.where(block == k, place, 0), weights=jnp.where(block == k, mined.weights, 0)
        )
    if isinstance(mined, TripletRule):
        parts = cut(replicated(mined[:3]))

        def ours(k):
            positive, negative, rows = cut.at(parts, k)
            return mined._replace(positive=positive, negative=negative, rows=rows)

        return ours
    parts = cut(replicated(mined))
    return lambda k: cut.at(parts, k)
