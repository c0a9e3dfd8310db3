"""Histograms whose counts have a gradient: each value is shared by the two bins next to it."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._refs import replicated, spread_as

LANES = 4
"""How many sets of bins take turns, so that adding to a bin need not wait for the one before."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
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


def _bin(position, bins):
    k = jnp.clip(jnp.floor(position), 0, bins - 2).astype(jnp.int32)
    return k, jnp.clip(position - k.astype(position.dtype), 0, 1)


def _flat(k, bins):
    """Where bin k of each row is in the bins of all rows."""
    return k + bins * jnp.arange(len(k), dtype=jnp.int32)[:, None]


def _forward(position, weights, bins):
    return soft_histogram(position, weights, bins), (position, weights)


def _backward(bins, residuals, cotangent):
    position, weights = replicated(residuals)
    cotangent = replicated(cotangent)
    k, share = _bin(position, bins)
    inside = (position >= 0) & (position <= bins - 1)
    here = cotangent.ravel()[_flat(k, bins)]
    # as a matrix product, or XLA computes a bin's difference anew for each value in it
    steps = jnp.eye(bins, bins - 1, -1, cotangent.dtype) - jnp.eye(
        bins, bins - 1, 0, cotangent.dtype
    )
    slope = jnp.matmul(cotangent, steps, precision=jax.lax.Precision.HIGHEST)
    slope = slope.ravel().at[_flat(k, bins - 1)].get(mode="promise_in_bounds")
    grads = jnp.where(inside, weights * slope, 0), here + share * slope
    return tuple(spread_as(g, x) for g, x in zip(grads, residuals, strict=True))


soft_histogram.defvjp(_forward, _backward)
