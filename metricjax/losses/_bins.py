"""Histograms whose counts have a gradient: each value is shared by the two bins next to it."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._core.jax_internals import SymbolicZero
from metricjax._core.refs import replicated, spread_as

LANES = 4
"""How many sets of bins take turns, so that adding to a bin need not wait for the one before."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def soft_histogram(
    position: Float[Array, "n m"], weights: Float[Array, "n m"], bins: int
) -> Float[Array, "n b"]:
    """Adds each row's weights to the bins ``0, ..., B-1`` of its positions.

    A position between two bins gives to each by nearness; one beyond the ends gives to the end.
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
    """What moves goes from a bin to the next, as a product: its transpose is then one, too.

    Otherwise XLA computes a bin's difference to the next anew for each value in it.
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
    """The bin below each position, and how much of it the next one gets.

    Without `clip`, whose derivative is 1/2 at its bounds, where whole positions are.
    """
    k = jnp.clip(jnp.floor(position), 0, bins - 2)
    share = jnp.where(position < 0, 0, jnp.where(position > bins - 1, 1, position - k))
    return k.astype(jnp.int32), share


def _flat(k, bins):
    """Where bin k of each row is in the bins of all rows."""
    return k + bins * jnp.arange(k.shape[0], dtype=jnp.int32)[:, None]
