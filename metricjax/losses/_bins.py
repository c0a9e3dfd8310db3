"""Histograms whose counts have a gradient: each value is shared by the two bins next to it."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._refs import replicated, spread_as


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
    k = k + bins * jnp.arange(len(position), dtype=jnp.int32)[:, None]
    flat = jnp.zeros(len(position) * bins, position.dtype)
    flat = flat.at[k].add(weights * (1 - share)).at[k + 1].add(weights * share)
    return spread_as(flat.reshape(-1, bins), rows)


def _bin(position, bins):
    k = jnp.clip(jnp.floor(position), 0, bins - 2).astype(jnp.int32)
    return k, jnp.clip(position - k.astype(position.dtype), 0, 1)


def _forward(position, weights, bins):
    return soft_histogram(position, weights, bins), (position, weights)


def _backward(bins, residuals, cotangent):
    position, weights = replicated(residuals)
    cotangent = replicated(cotangent)
    k, share = _bin(position, bins)
    inside = (position >= 0) & (position <= bins - 1)
    here = jnp.take_along_axis(cotangent, k, 1)
    slope = jnp.take_along_axis(jnp.diff(cotangent, axis=1), k, 1)
    grads = jnp.where(inside, weights * slope, 0), here + share * slope
    return tuple(spread_as(g, x) for g, x in zip(grads, residuals, strict=True))


soft_histogram.defvjp(_forward, _backward)
