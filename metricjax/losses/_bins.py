"""Histograms whose counts have a gradient: each value is split between the two nearest bins."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._core.jax_internals import SymbolicZero
from metricjax._core.refs import replicated, spread_as

LANES = 4
"""How many sets of bins take turns, so that an addition need not wait for the previous one."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def soft_histogram(
    position: Float[Array, "n m"], weights: Float[Array, "n m"], bins: int
) -> Float[Array, "n b"]:
    """Adds each row's weights to the bins ``0, ..., B-1`` of its positions.

    The weight at a position between two bins is split between them by nearness. The weight at a
    position beyond the ends goes to the bin at that end.
    """
    rows = position
    position, weights = replicated((position, weights))
    k, share = _bin(position, bins)
    n, m = position.shape
    k += bins * (jnp.arange(m, dtype=jnp.int32) % LANES)[None, :]
    k = _flat(k, bins * LANES)
    add_up = lambda x: jnp.sum(
        jnp.zeros(n * LANES * bins, x.dtype).at[k].add(x).reshape(n, LANES, bins), 1
    )
    whole, next_one = add_up(weights), add_up(weights * share)
    return spread_as(whole - next_one + jnp.pad(next_one[:, :-1], [(0, 0), (1, 0)]), rows)


def _soft_histogram_jvp(bins, primals, tangents):
    """Weight moves from a bin to the next by a matrix product, so the transpose is also a product.

    Otherwise XLA computes a bin's difference to the next bin again for each value in it.
    """
    position, weights = replicated(primals)
    k, share = _bin(position, bins)
    k, n, dtype = _flat(k, bins), position.shape[0], weights.dtype
    add_up = lambda x: (
        jnp.zeros(n * bins, dtype).at[k].add(x, mode="promise_in_bounds").reshape(n, bins)
    )
    added, moved = [], []
    if not isinstance(tangents[0], SymbolicZero):
        inside = (position >= 0) & (position <= bins - 1)
        moved.append(jnp.where(inside, weights * replicated(tangents[0]), 0))
    if not isinstance(tangents[1], SymbolicZero):
        by_weight = replicated(tangents[1])
        moved.append(share * by_weight)
        added.append(add_up(by_weight))
    onward = jnp.eye(bins, bins, 1, dtype) - jnp.eye(bins, bins, 0, dtype)
    added.append(jnp.matmul(add_up(sum(moved)), onward, precision=jax.lax.Precision.HIGHEST))
    return soft_histogram(*primals, bins), spread_as(sum(added), primals[0])


soft_histogram.defjvp(_soft_histogram_jvp, symbolic_zeros=True)


def _bin(position, bins):
    """The bin below each position, and the share of the next bin.

    The share is computed without `clip`: at its bounds, where integer positions lie, the derivative
    of `clip` is 1/2.
    """
    k = jnp.clip(jnp.floor(position), 0, bins - 2)
    share = jnp.where(position < 0, 0, jnp.where(position > bins - 1, 1, position - k))
    return k.astype(jnp.int32), share


def _flat(k, bins):
    """The index of bin k of each row among the bins of all rows."""
    return k + bins * jnp.arange(k.shape[0], dtype=jnp.int32)[:, None]
