"""Products of rows in half precision. They are exact, take one pass, and have exact derivatives.

Rows in bfloat16 or float16 can be multiplied as they are. A product with float32 sums loses
nothing, and an accelerator computes it in one pass. Float32 rows at full precision take six passes.
So the rows are not normalized before the product. The product is normalized instead:

    cosine = (x y^T) / (|x| |y|)      of rows x, y as they came

The derivatives are those of the normalized rows a = x / |x| and b = y / |y|, in float32. If c is
the cotangent of the cosine, the cotangent of a is c b = (c / |y|) y. This is again a product with
rows as they came. c has all the digits of float32, and y has those of half precision. On a TPU,
this product takes three passes (`Precision.HIGH`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from metricjax._core.masked import upcast
from metricjax._core.tuning import block_sizes


class Halves(NamedTuple):
    """Both sides in half precision.

    Attributes:
        x, y: the rows as they came, except for a power of two as a factor.
        u, v: the factor for each row that makes it a unit vector; or ``None``.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    u: Float[Array, " n"] | None = None
    v: Float[Array, " m"] | None = None


def halves(x: Float[Array, "n d"], y: Float[Array, "m d"], unit: bool) -> Halves | None:
    """Returns the rows to multiply, as `unit` vectors or not. ``None`` where float32 is as fast."""
    if x.dtype != y.dtype or x.shape[1] < block_sizes().half_features:
        return None
    x, y = jax.lax.stop_gradient((x, y))
    if not unit:
        return Halves(x, y)
    (x, u), (y, v) = _scaled(x), _scaled(y)
    return Halves(x, y, u, v)


def _scaled(x):
    """Multiplies rows by a power of two, so that no sum overflows. Also returns 1 / norm of each.

    A product with a power of two is exact.
    """
    top = jnp.max(jnp.abs(upcast(x)), -1, keepdims=True, initial=0)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(top), top, 1))
    half = exponent // 2  # 2^-exponent in one step may be too small for float32
    first, second = (jnp.exp2(k.astype(top.dtype)) for k in (-half, half - exponent))
    scaled = upcast(x) * first * second
    least = max(1e-12, float(jnp.finfo(x.dtype).tiny))  # as in `distances.normalize`
    least = (least * first * second)[:, 0]  # infinite for a row that is much shorter
    norm = jnp.maximum(jnp.sqrt(jnp.sum(scaled * scaled, -1)), least)
    return scaled.astype(x.dtype), 1 / norm


@jax.custom_jvp
def exact_products(a: Float[Array, "n d"], b: Float[Array, "m d"], rows: Halves) -> Array:
    """Returns ``a @ b.T`` in float32, from the half-precision rows that `a` and `b` come from."""
    x, y, u, v = rows
    mat = jnp.matmul(x, y.T, preferred_element_type=jnp.float32)
    return mat if u is None or v is None else mat * u[:, None] * v[None, :]


@exact_products.defjvp
def _exact_products_jvp(primals, tangents):
    (a, b, rows), (da, db, _) = primals, tangents
    by_a, by_b = _times(da, b, rows.y, rows.v), _times(db, a, rows.x, rows.u)
    return exact_products(a, b, rows), by_a + by_b.T


@jax.custom_jvp
def _times(d, b, y, v):
    """Returns ``d @ b.T`` for any rows d, from the half-precision rows that `b` comes from."""
    mat = jnp.matmul(d, upcast(y).T, precision=block_sizes().half_precision)
    return mat if v is None else mat * v[None, :]


@_times.defjvp
def _times_jvp(primals, tangents):
    (d, b, y, v), (dd, db, _, _) = primals, tangents
    by_b = jnp.matmul(d, db.T, precision=Precision.HIGHEST)
    return _times(d, b, y, v), _times(dd, b, y, v) + by_b
