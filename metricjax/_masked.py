"""Arithmetic whose value and gradient stay finite at zero and on empty sets.

The only place for numeric guards. Every condition is written so that a NaN passes through.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def upcast(x: Array) -> Array:
    """At least float32: half-precision inputs are computed with in single precision."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def safe_divide(total: Array, count: Array) -> Array:
    """``total / count``, and 0 where the count is 0; a NaN total stays NaN."""
    none = count == 0
    return jnp.where(none, total * 0, total / jnp.where(none, 1, count))


def safe_sqrt(x: Array) -> Array:
    """Square root, 0 with gradient 0 for ``x <= 0``."""
    none = x <= 0
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, x)))


def safe_power(x: Array, power: float) -> Array:
    """``x ** power`` for non-negative `x` and static `power`; at 0 the gradient is finite."""
    if power == 1:
        return x
    if power == 0.5:
        return safe_sqrt(x)
    none = x <= 0
    return jnp.where(none, 0, jnp.where(none, 1, x) ** power)


def safe_abs(x: Array) -> Array:
    """Absolute value with gradient 0 at 0 (JAX has 1)."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def safe_norm(x: Array, p: float = 2) -> Array:
    """p-norm over the last axis (0: non-zero entries, inf: largest), with gradient 0 at 0."""
    if p == 0:
        return jnp.sum(x != 0, -1).astype(x.dtype)
    if p == float("inf"):
        return jnp.max(safe_abs(x), -1, initial=0)
    size = x * x if p == 2 else safe_power(safe_abs(x), p)
    return safe_power(jnp.sum(size, -1), 1 / p)


def logsumexp(
    x: Array, weights: Array, *, axis: int = -1, plus_one: bool = False
) -> Float[Array, "..."]:
    """``log(sum(weights * exp(x)))``, or ``log(1 + ...)``; 0 where every weight is 0."""
    kept = weights > 0
    x = jnp.where(kept, x, -jnp.inf)
    top = jnp.max(x, axis, keepdims=True, initial=0 if plus_one else -jnp.inf)
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    total = jnp.sum(weights * jnp.exp(jnp.where(kept, x, top) - top), axis, keepdims=True)
    total = total + jnp.exp(-top) if plus_one else jnp.where(total == 0, 1, total)
    return jnp.squeeze(top + jnp.log(total), axis)
