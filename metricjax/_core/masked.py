"""Arithmetic whose value and gradient stay finite at zero and on empty sets.

The only place for numeric guards. Every condition is written so that a NaN passes through.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._core.jax_internals import SymbolicZero


def upcast(x: Array) -> Array:
    """Casts to at least float32: half-precision inputs are computed in single precision."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def exists(weights: Array, axis: int | None = -1) -> Bool[Array, "..."]:
    """Returns whether any weight along an axis is above 0. A sum is faster than `any`."""
    return jnp.sum(weights, axis) > 0


def safe_divide(total: Array, count: Array) -> Array:
    """Returns ``total / count``, or 0 where the count is 0. A NaN total stays NaN."""
    none = count == 0
    return jnp.where(none, total * 0, total / jnp.where(none, 1, count))


def safe_sqrt(x: Array) -> Array:
    """Returns the square root. It is 0 with gradient 0 for ``x <= 0``."""
    none = x <= 0
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, x)))


def safe_power(x: Array, power: float) -> Array:
    """Returns ``x ** power`` for `x` >= 0 and static `power`, with a finite gradient at 0."""
    if power == 1:
        return x
    if power == 0.5:
        return safe_sqrt(x)
    none = x <= 0
    return jnp.where(none, 0, jnp.where(none, 1, x) ** power)


def safe_abs(x: Array) -> Array:
    """Returns the absolute value, with gradient 0 at 0 (JAX has 1)."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def safe_norm(x: Array, p: float = 2) -> Array:
    """Returns the p-norm over the last axis, with gradient 0 at 0.

    ``p=0`` counts the non-zero entries. ``p=inf`` is the largest absolute value.
    """
    if p == 0:
        return jnp.sum(x != 0, -1).astype(x.dtype)
    if p == float("inf"):
        return jnp.max(safe_abs(x), -1, initial=0)
    if p == 2:
        return safe_sqrt(jnp.sum(x * x, -1))
    return safe_power(jnp.sum(safe_power(safe_abs(x), p), -1), 1 / p)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """Returns ``log(1 + exp(x))``, several times as fast as `jax.nn.softplus` if `log1p` is slow.

    ``log(1 + e) = 2 artanh(t)`` with ``t = e / (2 + e)``. Here t is at most 1/3, so a short series
    is enough.
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
    """Returns ``log(sum(weights * exp(x)))``, or ``log(1 + ...)`` with `plus_one`.

    Where every weight is 0, the result is `empty`. `softplus` of -inf is 0 with gradient 0, which
    is the loss of one candidate without any others. `weights` may be a boolean mask. Only the
    exponentials are kept between the forward and the backward pass.
    """
    return _exponentials(x, weights, axis, plus_one, empty)[0]


def _exponentials(x, weights, axis, plus_one, empty):
    """Returns the log-sum, the weighted exponentials of x minus its maximum, and their sum."""
    mask = weights.dtype == bool
    x = jnp.where(weights if mask else weights > 0, x, -jnp.inf)
    top = jnp.max(x, axis, keepdims=True, initial=0 if plus_one else -jnp.inf)
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    # x may be rounded differently here than in the maximum, and then be above the maximum.
    # `minimum(x - top, 0)` would not help: its derivative at a tie is 1/2, and the largest x of
    # every row is a tie.
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
