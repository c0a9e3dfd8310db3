"""Products of rows in half precision: exact, in one pass, and so are their derivatives.

Rows in bfloat16 or float16 can be multiplied as they are: a product with float32 sums loses
nothing, and an accelerator computes it in one pass, where float32 rows at full precision take six.
So rows are not normalized before it, but the product is after it:

    cosine = (x y^T) / (|x| |y|)      of rows x, y as they came

Their derivatives are those of the normalized rows a = x / |x| and b = y / |y|, in float32. With c
the cotangent, that of a is c b = (c / |y|) y: again a product with rows as they came. c has all the
digits of float32, and y those of half precision, which takes three passes (`Precision.HIGH`).
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
        x, y: rows as they came, but for a power of two.
        u, v: what makes them unit vectors, one factor for each row; or ``None``.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    u: Float[Array, " n"] | None = None
    v: Float[Array, " m"] | None = None


def halves(x: Float[Array, "n d"], y: Float[Array, "m d"], unit: bool) -> Halves | None:
    """The rows to multiply, `unit` vectors or not; ``None`` where float32 is as quick."""
    if x.dtype != y.dtype or x.shape[1] < block_sizes().half_features:
        return None
    x, y = jax.lax.stop_gradient((x, y))
    if not unit:
        return Halves(x, y)
    (x, u), (y, v) = _scaled(x), _scaled(y)
    return Halves(x, y, u, v)


def _scaled(x):
    """Rows times a power of two, which is exact, so that no sum overflows; and 1 / norm of each."""
    top = jnp.max(jnp.abs(upcast(x)), -1, keepdims=True, initial=0)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(top), top, 1))
    half = exponent // 2  # 2^-exponent itself may be too small for float32
    first, second = (jnp.exp2(k.astype(top.dtype)) for k in (-half, half - exponent))
    scaled = upcast(x) * first * second
    least = max(1e-12, float(jnp.finfo(x.dtype).tiny))  # as of `distances.normalize`
    least = (least * first * second)[:, 0]  # infinite where a row is much shorter
    norm = jnp.maximum(jnp.sqrt(jnp.sum(scaled * scaled, -1)), least)
    return scaled.astype(x.dtype), 1 / norm


@jax.custom_jvp
def exact_products(a: Float[Array, "n d"], b: Float[Array, "m d"], rows: Halves) -> Array:
    """``a @ b.T`` in float32, by the rows in half precision that `a` and `b` are made of."""
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
    """``d @ b.T``, of any rows d, by the rows that `b` is made of."""
    mat = jnp.matmul(d, upcast(y).T, precision=block_sizes().half_precision)
    return mat if v is None else mat * v[None, :]


@_times.defjvp
def _times_jvp(primals, tangents):
    (d, b, y, v), (dd, db, _, _) = primals, tangents
    by_b = jnp.matmul(d, db.T, precision=Precision.HIGHEST)
    return _times(d, b, y, v), _times(dd, b, y, v) + by_b
