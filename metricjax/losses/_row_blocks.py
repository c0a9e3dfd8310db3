"""Computes losses that compare every row with all rows: at once, or in blocks of rows.

Such a loss does not distinguish anchors from references. Row i is a query with its document, or a
sample with its other view, together with everything else that belongs to it. So the loss is written
as a function of some rows and all rows, ``block(some, numbers, everything)``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metricjax._core.blocks import Cut
from metricjax._core.check import check_at_least
from metricjax._core.refs import replicated, whole_batch
from metricjax._core.stream import Stream
from metricjax._core.tuning import block_rows, pairs_at_once
from metricjax._core.types import AxisName, LossDict


def by_rows(
    function: str,
    block: Callable[[Any, Array, Any], LossDict],
    rows: Any,
    *,
    pairs: int,
    chunk_size: int | None,
    axis_name: AxisName | None,
) -> LossDict:
    """Computes the terms ``block(some, numbers, everything)``, `chunk_size` rows at a time.

    Args:
        function: the public function, for errors.
        block: gets some rows, their numbers among everything, and everything: the rows of all
            devices. Padding has arrays of 0 and a number that no row has.
        rows: a pytree of arrays with one row each.
        pairs: how many numbers `block` computes for one row and one of everything. The size of a
            block depends on it.
        chunk_size: at most this many rows at a time. If ``None``, the size is chosen automatically.
        axis_name: the mapped axis that rows are spread over, if any.
    """
    cut, some, numbers, everything = _cut(function, rows, pairs, chunk_size, axis_name)
    if cut is None:
        return block(some, numbers, everything)
    parts = cut(some)
    slab = lambda k: block(cut.at(parts, k), _numbers(cut, numbers, k, everything), everything)
    return Stream(slab, cut.count, cut.rows, cut.join_stacked).terms()


def of_each_row(
    block: Callable[[Any, Array, Any], Any],
    rows: Any,
    *,
    function: str,
    pairs: int = 1,
    chunk_size: int | None = None,
    axis_name: AxisName | None = None,
) -> Any:
    """Computes arrays ``block(some, numbers, everything)`` with one entry for each row.

    The arguments are those of `by_rows`. The arrays are not streamed: they are joined again. For
    their gradient, each block is computed once more.
    """
    cut, some, numbers, everything = _cut(function, rows, pairs, chunk_size, axis_name)
    if cut is None:
        return block(some, numbers, everything)
    of_block = jax.checkpoint(block)

    def one(k, part):
        return of_block(part, _numbers(cut, numbers, k, everything), everything)

    stacked = cut.each(one, cut(some))
    return jax.tree.map(lambda x: cut.join_stacked(jnp.moveaxis(x, 0, 1)), stacked)


def _cut(function, rows, pairs, chunk_size, axis_name):
    """Returns how rows are cut (if at all), the rows, their numbers, and all rows."""
    everything, numbers = whole_batch(rows, axis_name)
    n, m = (len(jax.tree.leaves(tree)[0]) for tree in (rows, everything))
    if chunk_size is not None:
        check_at_least(function, "chunk_size", chunk_size, 1)
    elif n * m * pairs >= pairs_at_once():
        chunk_size = block_rows(n, m * pairs)
    if chunk_size is None or not n:
        return None, everything if axis_name is None else rows, numbers, everything
    return Cut(n, chunk_size), replicated(rows), numbers, everything


def _numbers(cut, numbers, k, everything):
    """Returns the numbers of the rows in block k. Padding has a number that no row has."""
    place, m = cut.rows(k), len(jax.tree.leaves(everything)[0])
    return jnp.where(place < cut.n, numbers[jnp.minimum(place, cut.n - 1)], m)
