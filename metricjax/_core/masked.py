"""Arithmetic whose value and gradient stay finite at zero and on empty sets.

The only place for numeric guards. Every condition is written so that a NaN passes through.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._core.jax_internals import SymbolicZero


def upcast(x: Array) -> Array:
    """At least float32: half-precision inputs are computed with in single precision."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def exists(weights: Array, axis: int | None = -1) -> Bool[Array, "..."]:
    """Whether any weight along an axis is above 0; sums are faster than `any` over comparisons."""
    return jnp.sum(weights, axis) > 0


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
    if p == 2:
        return safe_sqrt(jnp.sum(x * x, -1))
    return safe_power(jnp.sum(safe_power(safe_abs(x), p), -1), 1 / p)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``, several times as fast as `jax.nn.softplus` where `log1p` is slow.

    ``log(1 + e) = 2 artanh(t)`` with ``t = e / (2 + e)``, at most 1/3 here: a short series.
    """
    e = jnp.exp(-jnp.abs(x))
    t = e / (2 + e)
    series = jnp.zeros_like(t)
    for k in reversed(range(7 if jnp.finfo(x.dtype).bits <= 32 else 16)):
        series = series * (t * t) + 1 / (2 * k + 1)
    return jnp.maximum(x, 0) + 2 * t * series


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (slope,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * slope


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def logsumexp(
    x: Array, weights: Array, axis: int = -1, plus_one: bool = False, empty: float = -jnp.inf
) -> Float[Array, "..."]:
    """``log(sum(weights * exp(x)))``, or ``log(1 + ...)``; `empty` where every weight is 0.

    `weights` may be a boolean mask. Between the passes only the exponentials are kept. `softplus`
    of -inf is 0, with gradient 0: the loss of one among no others.
    """
    return _exponentials(x, weights, axis, plus_one, empty)[0]


def _exponentials(x, weights, axis, plus_one, empty):
    """The logarithm of the sum, the weighted exponentials of x less its largest, and their sum."""
    mask = weights.dtype == bool
    x = jnp.where(weights if mask else weights > 0, x, -jnp.inf)
    top = jnp.max(x, axis, keepdims=True, initial=0 if plus_one else -jnp.inf)
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    # x may be rounded otherwise here than in the maximum, and then lie above it. `minimum(x - top,
    # 0)` would not do: its derivative at a tie is 1/2, and the largest x of every row is one.
    e = jnp.exp(x - jax.lax.stop_gradient(jnp.maximum(x, top)))
    e = e if mask else weights * e
    total = jnp.sum(e, axis, keepdims=True)
    total = total + jnp.exp(-top) if plus_one else total
    none = total == 0
    out = jnp.where(none, empty, top + jnp.log(jnp.where(none, 1, total)))
    return jnp.squeeze(out, axis), e, jnp.where(none, 1, total)


def _logsumexp_jvp(axis, plus_one, empty, primals, tangents):
    out, e, total = _exponentials(*primals, axis, plus_one, empty)
    slope = jnp.zeros_like(out)
    if not isinstance(tangents[0], SymbolicZero):
        slope += jnp.sum(e / total * tangents[0], axis)
    if not isinstance(tangents[1], SymbolicZero):
        slope += jnp.sum(safe_divide(e / total, primals[1]) * tangents[1], axis)
    return out, slope


logsumexp.defjvp(_logsumexp_jvp, symbolic_zeros=True)
