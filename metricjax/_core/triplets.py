"""All triplets without a list: each anchor's k-th positive against every reference, ``[N, M]``.

There may be N * M * M triplets. Step k of a walk takes one positive of every anchor and compares it
with all references at once, so that nothing is larger than ``[N, M]``. Anchors with fewer positives
than others have triplets of weight 0 in the last steps:

    positives of          step 0   step 1   step 2
    anchor 0:  3, 5          3        5       none
    anchor 1:  0, 2, 4       0        2         4

The walk needs the columns of a row's positives one after the other. Sorting would take longer than
the loss. So a row of the matrix is packed into words of 32 bits: removing the lowest bit of a word
is one operation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from metricjax._core.stream import sum_over, zeros_like
from metricjax._core.types import Pairs, TripletRule


class Walk(NamedTuple):
    """Visits the positives of all anchors side by side.

    ``table[:, k]`` holds the k-th positive of each anchor, or M if there is none. Only the first
    `steps` columns of `table` are filled, because no anchor has more positives.
    """

    table: Int[Array, "n m"]
    steps: Int[Array, ""]


def walk_positives(weights: Num[Array, "n m"]) -> Walk:
    """Finds the positives (weight above 0) of each anchor.

    One pass over ``[N, M]`` packs them into bits. Each step removes the first bit of every row.
    """
    n, m = weights.shape
    count = -(-m // 32)  # words: column j is bit j // count of word j % count
    bit, word = jnp.arange(32, dtype=jnp.uint32)[None, :, None], jnp.arange(count)[None, :]
    bits = jnp.pad((weights > 0).astype(jnp.uint32), ((0, 0), (0, 32 * count - m)))
    words = jnp.sum(bits.reshape(n, 32, count) << bit, 1, dtype=jnp.uint32)

    def step(carry):
        k, words, table = carry
        first = jax.lax.population_count((words & -words) - 1).astype(word.dtype)
        columns = jnp.where(words > 0, first * count + word, m)
        j = jnp.min(columns, 1, initial=m)
        words = jnp.where(columns == j[:, None], words & (words - 1), words)
        return k + 1, words, jax.lax.dynamic_update_index_in_dim(table, j, k, 1)

    table = zeros_like(jax.typeof(jnp.where(weights > 0, jnp.arange(m), 0))) + m
    table = table if m else jnp.zeros((n, 1), word.dtype)
    steps, _, table = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1] > 0), step, (jnp.int32(0), words, table)
    )
    return Walk(table, steps)


def positive_at(weights: Num[Array, "n m"], walk: Walk, k) -> tuple[Array, Array]:
    """Returns step k of the walk: each anchor's positive ``j [N]`` and its weight ``[N, 1]``.

    The weight is 0 if an anchor has no k-th positive.
    """
    m = weights.shape[1]
    j = jax.lax.dynamic_index_in_dim(walk.table, k, 1, False, allow_negative_indices=False)
    exists, j = j < m, jnp.minimum(j, m - 1)
    return j, jnp.where(exists[:, None], pick(weights, j), 0)


def sum_over_positives(fn: Callable[[Array, Array], Any], weights: Num[Array, "n m"]) -> Any:
    """Sums ``fn(j, weight)`` over a walk along the positives; see `positive_at`."""
    walk = walk_positives(weights)
    return sum_over(lambda k: fn(*positive_at(weights, walk, k)), walk.steps)


def triplets_at(mined: Pairs | TripletRule, walk: Walk, k) -> tuple[Array, Array]:
    """Returns step k of the walk: each anchor's positive ``j [N]``, and its triplets' weights.

    If an anchor has no k-th positive, j is some valid index and its weights in ``[N, M]`` are 0.
    """
    j, positive = positive_at(mined.positive, walk, k)
    weights = positive * mined.negative
    if isinstance(mined, TripletRule):
        weights = jnp.where(mined.keep(mined.rows, j), weights, 0)
    return j, weights


@jax.custom_jvp
def pick(mat: Num[Array, "n m"], j: Int[Array, " n"]) -> Num[Array, "n 1"]:
    """Returns ``mat[i, j[i]]``. Its gradient is a mask, not a scatter: it fuses with others."""
    return jnp.take_along_axis(mat, j[:, None], 1, mode="promise_in_bounds")


@pick.defjvp
def _pick_jvp(primals, tangents):
    mat, j = primals
    here = j[:, None] == jnp.arange(mat.shape[1], dtype=j.dtype)[None, :]
    return pick(mat, j), jnp.sum(jnp.where(here, tangents[0], 0), 1, keepdims=True)
