"""Losses whose rows each meet all others: at once, or in blocks of rows.

Such a loss has no anchors and references that could be told apart: row i is a query with its
document, or a sample with its other view, and brings along whatever else belongs to it. So it is
written as a function of some rows and all rows, ``block(some, numbers, everything)``.
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
    """The terms ``block(some, numbers, everything)`` of all rows, `chunk_size` of them at a time.

    Args:
        function: the public one, for errors.
        block: what it makes of some rows, their numbers among everything, and everything: all
            devices' rows. A number that none of them has belongs to padding, whose arrays are 0.
        rows: a pytree of arrays with one row each.
        pairs: how many numbers `block` computes for one row and one of everything, so that blocks
            are chosen by how much memory they take.
        chunk_size: at most so many rows at a time; ``None`` for as many as is best.
        axis_name: the mapped axis that rows are spread over, if any.
    """
    everything, numbers = whole_batch(rows, axis_name)
    n, m = (len(jax.tree.leaves(tree)[0]) for tree in (rows, everything))
    if chunk_size is not None:
        check_at_least(function, "chunk_size", chunk_size, 1)
    elif n * m * pairs >= pairs_at_once():
        chunk_size = block_rows(n, m * pairs)
    if chunk_size is None:
        return block(everything if axis_name is None else rows, numbers, everything)
    cut = Cut(n, chunk_size)
    parts = cut(replicated(rows))

    def slab(k):
        place = cut.rows(k)
        theirs = jnp.where(place < n, numbers[jnp.minimum(place, n - 1)], m)  # padding: no row's
        return block(cut.at(parts, k), theirs, everything)

    return Stream(slab, cut.count, cut.rows, cut.join_stacked).terms()
