"""Pairwise distances and similarities: frozen values that know which direction is closer.

Each is called as ``distance(x, y)`` with ``x [N, D]`` and ``y [M, D]`` and gives ``[N, M]``, or as
``distance(x)``, which is ``distance(x, x)`` and has an exact diagonal. Any hashable callable of
that shape with an `is_similarity` attribute can stand in for them.

Half-precision inputs are computed with, and returned, in float32. Matrix products default to full
float32 precision on every device; `precision` lowers it knowingly.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from metricjax._core import suggest as _suggest
from metricjax._core.check import check_embeddings, check_row_by_row
from metricjax._core.halves import exact_products, halves
from metricjax._core.masked import (
    safe_abs,
    safe_divide,
    safe_norm,
    safe_power,
    safe_sqrt,
    upcast,
)
from metricjax._core.stream import sum_over
from metricjax._core.types import Scalar


class Distance(Protocol):
    """Type-checking only; nothing needs to subclass it."""

    is_similarity: ClassVar[bool]

    def __call__(self, x: Array, y: Array | None = None) -> Array: ...


def farther(distance: Distance, u: Any, v: Any) -> Array:
    """How much farther `u` is than `v`: ``u - v``, or ``v - u`` where larger means closer."""
    return v - u if distance.is_similarity else u - v


def normalize(x: Float[Array, "n d"], p: float = 2) -> Float[Array, "n d"]:
    """``x / max(|x|_p, 1e-12)`` row by row; a zero row stays zero and has gradient 0.

    Rows are scaled by their largest entry first, so that no square over- or underflows.
    """
    floor = max(1e-12, float(jnp.finfo(x.dtype).tiny))
    x = upcast(x)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True, initial=0))
    zero = top < jnp.finfo(x.dtype).tiny
    top = jnp.where(zero | (p == 0), 1, top)  # a count has no scale
    x = x / top
    length = safe_sqrt(jnp.sum(x * x, -1)) if p == 2 else safe_norm(x, p)
    norm = jnp.maximum(length[:, None], floor / top)
    zero |= norm == 0  # 1 / top, of the largest floats, may be flushed to 0
    # times 0, since XLA's maximum of a row may miss a NaN, which must stay visible
    return jnp.where(zero, 0 * x, x / jnp.where(zero, 1, norm))


def _prepared(distance, x, y, normalize_embeddings, p=2):
    """Both sides checked, in at least float32, and of norm 1 where asked for.

    Third, the rows to multiply in half precision, if they came so and that is quicker.
    """
    y = x if y is None else y
    for name, value in ("x", x), ("y", y):
        check_embeddings(f"distances.{type(distance).__name__}", name, value)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"distances.{type(distance).__name__}: `x` and `y` must have as many features, "
            f"got {x.shape} and {y.shape}."
        )
    rows = halves(x, y, normalize_embeddings) if x.dtype.itemsize == 2 and p == 2 else None
    a = normalize(x, p) if normalize_embeddings else upcast(x)
    if y is x:
        return a, a, rows
    return a, normalize(y, p) if normalize_embeddings else upcast(y), rows


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def products(x: Float[Array, "n d"], y: Float[Array, "m d"], precision) -> Float[Array, "n m"]:
    """``x @ y.T``. Its gradient transposes `x` and its result, not ``[N, M]``, for the barriers."""
    return jnp.matmul(x, y.T, precision=precision)


@products.defjvp
def _products_jvp(precision, primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    kept = jax.lax.optimization_barrier
    by_y = jnp.matmul(kept(x.T).T, kept(dy.T), precision=precision)
    return products(x, y, precision), jnp.matmul(dx, y.T, precision=precision) + by_y


def _squares(x):
    """The squared length of each row, as a product: XLA on CPU makes a slow [N, M] of two sums."""
    return jnp.matmul(x * x, jnp.ones(x.shape[1], x.dtype), precision=Precision.HIGHEST)


def _squared_euclidean(x, y, precision, unit=False, rows=None):
    """``|x|^2 + |y|^2 - 2 x.y``, with what is within rounding error of zero set to zero.

    Of `unit` vectors: a zero vector, which has no direction, counts as orthogonal to all.
    """
    squares_of = lambda x: jnp.where(_squares(x) == 0, 1, _squares(x)) if unit else _squares(x)
    norms = squares_of(x)[:, None] + squares_of(y)[None, :]
    both = products(-2 * x, y, precision) if rows is None else -2 * exact_products(x, y, rows)
    squared = norms + both
    # 8 eps were too few for 700 features with the products of JAX 0.12
    return jnp.where(squared < 16 * jnp.finfo(x.dtype).eps * norms, 0, squared)


def _centred(x):
    """Every row less its mean; exactly zero for a row whose entries are all equal."""
    x = x - x[:, :1]
    return x - jnp.mean(x, -1, keepdims=True)


def _minkowski(x, y, p):
    """The p-norm of every difference, summed up feature by feature: never ``[N, M, D]``."""
    gap = lambda k: safe_abs(x[:, k][:, None] - y[:, k][None, :])
    if p == float("inf"):
        return jnp.max(safe_abs(x[:, None, :] - y[None, :, :]), -1, initial=0)
    if p == 0:
        return sum_over(lambda k: (gap(k) > 0).astype(x.dtype), x.shape[1])
    return safe_power(sum_over(lambda k: safe_power(gap(k), p), x.shape[1]), 1 / p)


def _directed(mat, a, b, orthogonal):
    """`mat` with the value of `orthogonal` vectors where one of the two is zero."""
    none = lambda x: jnp.all(x == 0, 1)
    return jnp.where(none(a)[:, None] | none(b)[None, :], orthogonal, mat)


def _without_diagonal(mat, a, b):
    """Sets the distance of every row to itself to exactly zero, when `a` meets itself."""
    return jnp.where(jnp.eye(mat.shape[0], dtype=bool), 0, mat) if b is a else mat


_LONGEST = 2.0**60
"""Longer rows count as this long in `LorentzDistance`: products of two lengths stay in float32."""


def _check_curvature(function, c):
    """Returns a known `c` as a float, which can be hashed, and a traced `c` unchanged."""
    if jnp.shape(c) != ():
        raise ValueError(f"distances.{function}: `c` must be one number, got shape {jnp.shape(c)}.")
    if isinstance(c, jax.core.Tracer):
        return c
    if not 0 < float(c) < math.inf:
        raise ValueError(f"distances.{function}: `c` must be above 0 and finite, got {c}.")
    return float(c)


def _shortened(x, scale, longest):
    """Returns ``scale * x`` with rows of at most the length `longest`, and which rows were longer.

    In a longer row, ``scale * x`` may overflow. So the row is replaced before that product: after
    it, its gradient would be NaN.
    """
    x = upcast(x)
    scale = jnp.asarray(scale, x.dtype)
    longer = _squares(jax.lax.stop_gradient(scale * x)) > longest**2
    rows = longer[:, None]
    # `normalize` returns 0 for the largest floats, whose reciprocals are flushed to 0
    short = longest * normalize(jnp.where(rows, x / 16, x))
    return jnp.where(rows, short, scale * jnp.where(rows, 0, x)), longer


def _outer(xs, ys):
    """``sum(x[:, None] * y[None, :])`` of pairs of columns ``[N]`` and ``[M]``, as one product.

    With broadcasts instead, the gradient of a hyperbolic distance between 1,024 rows took at least
    twice as long on a CPU, and half as much memory again.
    """
    return products(jnp.stack(xs, 1), jnp.stack(ys, 1), Precision.HIGHEST)


def _radial_and_angular(z, w, precision):
    """Returns ``|z| - |w|`` and ``|z| |w| - z.w``; rounding errors of 0 are set to 0.

    ``|z - w|^2`` is the square of the first plus twice the second. If two rows have almost the same
    direction, this sum keeps more digits than ``|z|^2 + |w|^2 - 2 z.w``. Hyperbolic distances need
    them: by the latter, rows of one direction and of norm 0.996 and 0.998 in the Poincaré ball
    would be at distance 0 in float32, and they are at 0.69.
    """
    r, s = safe_sqrt(_squares(z)), safe_sqrt(_squares(w))
    radial = _outer([r, jnp.ones_like(r)], [jnp.ones_like(s), -s])
    angular = _outer([r], [s]) - products(z, w, precision)
    tolerance = 16 * jnp.finfo(z.dtype).eps  # as in `_squared_euclidean`
    r, s = jax.lax.stop_gradient((r[:, None], s[None, :]))
    radial = jnp.where(jnp.abs(radial) < tolerance * (r + s), 0, radial)
    return radial, jnp.where(angular < tolerance * r * s, 0, angular)


@dataclasses.dataclass(frozen=True)
class LpDistance:
    r"""p-norm of the difference, to a power.

    .. math:: d_{ij} = \lVert \hat x_i - \hat y_j \rVert_p^{power}

    The Euclidean distance is one matrix product; a squared distance within rounding error of zero
    (a few ``eps * (|x|^2 + |y|^2)``) is zero. Other norms take D passes over ``[N, M]``; only
    ``p=inf`` builds ``[N, M, D]``. The gradient at distance 0 is 0. When rows are normalized, a
    zero row is as far from all others as orthogonal vectors are: :math:`2^{power/p}`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> x, y = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> print(LpDistance()(x, y).round(4))
        [[0.8944 0.6325]
         [0.     1.4142]]

    Attributes:
        p: order of the norm, >= 0; static. 0 counts differing entries, ``inf`` takes the largest.
        power: exponent of the distance; static.
        normalize_embeddings: divide each row by its p-norm first.
        precision: of the matrix product.
    """

    p: float = 2
    power: float = 1
    normalize_embeddings: bool = True
    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = False

    def __post_init__(self):
        if not self.p >= 0:
            raise ValueError(f"distances.LpDistance: `p` must be at least 0, got {self.p}.")

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        return self.between(*_prepared(self, x, y, self.normalize_embeddings, self.p))

    def between(self, a: Float[Array, "n d"], b: Float[Array, "m d"], rows=None) -> Array:
        """The distance of rows that are normalized already, where they are to be."""
        unit = self.normalize_embeddings
        if self.p == 2:
            mat = safe_power(_squared_euclidean(a, b, self.precision, unit, rows), self.power / 2)
        else:
            mat = _minkowski(a, b, self.p)
            mat = _directed(mat, a, b, 2 ** (1 / self.p)) if unit and self.p else mat
            mat = safe_power(mat, self.power)
        return _without_diagonal(mat, a, b)


@dataclasses.dataclass(frozen=True)
class DotProductSimilarity:
    r"""Dot product; of unit vectors unless told otherwise, as in PyTorch Metric Learning.

    .. math:: s_{ij} = \hat x_i \cdot \hat y_j

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import DotProductSimilarity
        >>> x, y = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> print(DotProductSimilarity(normalize_embeddings=False)(x, y))
        [[3. 8.]]

    Attributes:
        normalize_embeddings: divide each row by its Euclidean norm first; ``True`` makes this the
            cosine.
        precision: of the matrix product.
    """

    normalize_embeddings: bool = True
    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = True

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        return self.between(*_prepared(self, x, y, self.normalize_embeddings))

    def between(self, a: Float[Array, "n d"], b: Float[Array, "m d"], rows=None) -> Array:
        """The similarity of rows that are normalized already, where they are to be."""
        return products(a, b, self.precision) if rows is None else exact_products(a, b, rows)


@dataclasses.dataclass(frozen=True)
class CosineSimilarity:
    r"""Cosine of the angle between two vectors; 0 with a zero vector.

    .. math:: s_{ij} = \frac{x_i \cdot y_j}{\lVert x_i \rVert \lVert y_j \rVert}

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import CosineSimilarity
        >>> x, y = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> print(CosineSimilarity()(x, y))
        [[0.6 0.8]]

    Attributes:
        precision: of the matrix product.
    """

    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = True

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        a, b, rows = _prepared(self, x, y, True)
        return products(a, b, self.precision) if rows is None else exact_products(a, b, rows)


@dataclasses.dataclass(frozen=True)
class SNRDistance:
    r"""Noise-to-signal ratio: the variance of the difference over that of the anchor.

    .. math:: d_{ij} = \frac{\mathrm{Var}(\hat y_j - \hat x_i)}{\mathrm{Var}(\hat x_i)}

    Variances are over the D features, so it is one matrix product of centred vectors. Not
    symmetric. An anchor whose features are all equal carries no signal: its distances are 0. When
    rows are normalized, a zero row is as far from any other anchor as uncorrelated ones are: 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import SNRDistance
        >>> x = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])
        >>> print(SNRDistance(normalize_embeddings=False)(x).round(4))
        [[0.     7.    ]
         [0.5833 0.    ]]

    Attributes:
        normalize_embeddings: divide each row by its Euclidean norm first.
        precision: of the matrix product.

    References:
        Yuan et al., Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Yuan_Signal-To-Noise_Ratio_A_Robust_Distance_Metric_for_Deep_Metric_Learning_CVPR_2019_paper.html
    """

    normalize_embeddings: bool = True
    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = False

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        return self.between(*_prepared(self, x, y, self.normalize_embeddings)[:2])

    def between(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Array:
        """The distance of rows that are normalized already, where they are to be."""
        # a zero row differs from an anchor by the anchor's own signal, 1; orthogonal is 2
        missing = jnp.all(b == 0, 1) if self.normalize_embeddings else None
        a, b = (_centred(a),) * 2 if b is a else (_centred(a), _centred(b))
        noise = _squared_euclidean(a, b, self.precision)
        signal = jnp.sum(a * a, -1)[:, None]  # its square, in the gradient, must not underflow
        signal = jnp.where(signal < jnp.finfo(a.dtype).tiny ** 0.5, 0, signal)
        ratio = safe_divide(noise, signal)
        if missing is not None:
            ratio += (missing[None, :] & (signal > 0)).astype(ratio.dtype)
        return _without_diagonal(ratio, a, b)


@dataclasses.dataclass(frozen=True)
class PoincareDistance:
    r"""Hyperbolic distance between points of the Poincaré ball, which has radius :math:`1/\sqrt c`.

    .. math::
        d_{ij} = \frac{2}{\sqrt c} \operatorname{arsinh} \sqrt{\frac{c \lVert x_i - y_j \rVert^2}
        {(1 - c \lVert x_i \rVert^2)(1 - c \lVert y_j \rVert^2)}}

    Rows are not normalized. A row whose norm is above :math:`(1 - eps) / \sqrt c` is first scaled
    to that norm. The gradient includes this projection, so it is orthogonal to the row. Near 0, the
    distance is about twice the Euclidean distance. The gradient at distance 0 is 0.

    Angles have the rounding error of a matrix product: in float32, an angle below 0.002 counts as
    0. This matters near the boundary. With ``eps=0.001``, two rows there can be 1.7 apart at such
    an angle.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import PoincareDistance
        >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[0.5, 0.0], [0.0, 0.8]])
        >>> print(PoincareDistance()(x, y).round(2))
        [[1.1 2.2]]

    Attributes:
        c: minus the curvature of the space, > 0; may be traced. A distance with a traced `c` has no
            hash, so it cannot be a static argument.
        eps: how near rows can be to the boundary, as a share of the radius; between 0 and 1;
            static.
        precision: of the matrix product.

    References:
        Nickel and Kiela, Poincaré Embeddings for Learning Hierarchical Representations, 2017,
        https://arxiv.org/abs/1705.08039.
        Khrulkov et al., Hyperbolic Image Embeddings, 2020, https://arxiv.org/abs/1904.02239
    """

    c: Scalar = 1.0
    eps: float = 1e-3
    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "c", _check_curvature("PoincareDistance", self.c))
        if not 0 < self.eps < 1:
            raise ValueError(
                f"distances.PoincareDistance: `eps` must be between 0 and 1, got {self.eps}."
            )

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        a, b, _ = _prepared(self, x, y, False)
        scale = jnp.sqrt(jnp.asarray(self.c, a.dtype))

        def inside(x):
            """Returns rows z of the unit ball, and ``1 / sqrt(1 - |z|^2)``."""
            z, projected = _shortened(x, scale, 1 - self.eps)
            least = self.eps * (2 - self.eps)  # 1 - |z|^2 of a projected row, without rounding
            room = jnp.where(projected, least, jnp.maximum(1 - _squares(z), least))
            return z, 1 / jnp.sqrt(room)

        z, of_z = inside(a)
        w, of_w = (z, of_z) if b is a else inside(b)
        radial, angular = _radial_and_angular(z, w, self.precision)
        sinh = safe_sqrt(radial * radial + 2 * angular) * _outer([of_z], [of_w])
        return _without_diagonal(2 / scale * jnp.arcsinh(sinh), a, b)


@dataclasses.dataclass(frozen=True)
class LorentzDistance:
    r"""Hyperbolic distance between points of the hyperboloid, the Lorentz model.

    .. math::
        d_{ij} = \frac{1}{\sqrt c} \operatorname{arcosh}\left(c (a_i b_j - x_i \cdot y_j)\right),
        \quad a_i = \sqrt{1/c + \lVert x_i \rVert^2}, \quad b_j = \sqrt{1/c + \lVert y_j \rVert^2}

    Rows are the space parts of the points. They can be any vectors and are not normalized. The time
    parts :math:`a_i` and :math:`b_j` are computed from them. Near 0, the distance is about the
    Euclidean distance. Between long rows, it grows with the logarithm of their norms. The gradient
    at distance 0 is 0.

    Angles have the rounding error of a matrix product: in float32, an angle below 0.002 counts as
    0. A row whose norm is above :math:`2^{60} / \sqrt c` counts as a row of that norm.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LorentzDistance
        >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[0.75, 0.0], [3.0, 4.0]])
        >>> print(LorentzDistance()(x, y).round(2))
        [[0.69 2.31]]

    Attributes:
        c: minus the curvature of the space, > 0; may be traced. A distance with a traced `c` has no
            hash, so it cannot be a static argument.
        precision: of the matrix product.

    References:
        Desai et al., Hyperbolic Image-Text Representations, 2023, https://arxiv.org/abs/2304.09172
    """

    c: Scalar = 1.0
    precision: Precision = Precision.HIGHEST
    is_similarity: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "c", _check_curvature("LorentzDistance", self.c))

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None) -> Array:
        a, b, _ = _prepared(self, x, y, False)
        scale = jnp.sqrt(jnp.asarray(self.c, a.dtype))
        z, _ = _shortened(a, scale, _LONGEST)
        w = z if b is a else _shortened(b, scale, _LONGEST)[0]
        # Let r = |z|, s = |w|, a^2 = 1 + r^2, b^2 = 1 + s^2. For near rows, all digits are lost in
        # cosh(d) = a b - z.w, which is 1. So no term is subtracted from a b:
        #     2 sinh(d / 2)^2 = cosh(d) - 1 = (r - s)^2 / (a b + r s + 1) + (r s - z.w)
        radial, angular = _radial_and_angular(z, w, self.precision)
        rr, ss = _squares(z), _squares(w)
        columns = lambda rr: [jnp.sqrt(1 + rr), safe_sqrt(rr), jnp.ones_like(rr)]
        divisor = _outer(columns(rr), columns(ss))
        # the root first: the square of the divisor, in the gradient, would overflow
        radial = radial / jnp.sqrt(divisor)
        sinh = safe_sqrt((radial * radial + angular) / 2)
        return _without_diagonal(2 / scale * jnp.arcsinh(sinh), a, b)


def poincare_exp0(v: Float[Array, "n d"], c: Scalar = 1.0) -> Float[Array, "n d"]:
    r"""Maps vectors into the Poincaré ball: the exponential map at the origin.

    .. math:: \tanh(\sqrt c \lVert v \rVert) \frac{v}{\sqrt c \lVert v \rVert}

    The results are points for `PoincareDistance`. A zero row stays zero; there the slope is 1. The
    result of a long row is at the boundary.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import poincare_exp0
        >>> print(poincare_exp0(jnp.array([[0.3, 0.4], [0.0, 0.0]])).round(2))
        [[0.28 0.37]
         [0.   0.  ]]

    Args:
        v: ``[N, D]``. Half precision is computed, and returned, in float32.
        c: minus the curvature of the space, > 0; may be traced.

    Raises:
        ValueError: if `v` does not have the shape ``[N, D]``, or if `c` is not above 0.
        TypeError: if `v` is not floating.

    References:
        Khrulkov et al., Hyperbolic Image Embeddings, 2020, https://arxiv.org/abs/1904.02239
    """
    return _exp0("poincare_exp0", v, c, jnp.tanh, -1 / 3, 20)  # tanh(20) is 1 in double precision


def lorentz_exp0(v: Float[Array, "n d"], c: Scalar = 1.0) -> Float[Array, "n d"]:
    r"""Maps vectors onto the hyperboloid: the space part of the exponential map at the origin.

    .. math:: \sinh(\sqrt c \lVert v \rVert) \frac{v}{\sqrt c \lVert v \rVert}

    The results are points for `LorentzDistance`. A zero row stays zero; there the slope is 1. As in
    MERU, :math:`\sqrt c \lVert v \rVert` is limited to :math:`\operatorname{arsinh}(2^{15})`, so
    that the hyperbolic sine cannot overflow. The points ``lorentz_exp0(2 * v)`` are as far apart as
    the points ``poincare_exp0(v)``, each by its own distance.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import lorentz_exp0
        >>> print(lorentz_exp0(jnp.array([[0.3, 0.4], [0.0, 0.0]])).round(2))
        [[0.31 0.42]
         [0.   0.  ]]

    Args:
        v: ``[N, D]``. Half precision is computed, and returned, in float32.
        c: minus the curvature of the space, > 0; may be traced.

    Raises:
        ValueError: if `v` does not have the shape ``[N, D]``, or if `c` is not above 0.
        TypeError: if `v` is not floating.

    References:
        Desai et al., Hyperbolic Image-Text Representations, 2023, https://arxiv.org/abs/2304.09172
    """
    return _exp0("lorentz_exp0", v, c, jnp.sinh, 1 / 6, math.asinh(2**15))


def _exp0(function, v, c, curve, bend, longest):
    """``curve(|z|) / |z| * v`` for ``z = sqrt(c) v``, where ``curve(t) = t + bend t^3 + ...``."""
    v = jnp.asarray(v)
    check_embeddings(f"distances.{function}", "v", v)
    c = _check_curvature(function, c)
    scale = jnp.sqrt(jnp.asarray(c, upcast(v).dtype))
    z, _ = _shortened(v, scale, longest)
    squares = _squares(z)[:, None]
    small = squares < jnp.finfo(z.dtype).eps ** 0.5  # the next term of the series is below eps
    norm = jnp.sqrt(jnp.where(small, 1, squares))
    return jnp.where(small, 1 + bend * squares, curve(norm) / norm) * z / scale


def row_distances(
    x: Float[Array, "n d"], y: Float[Array, "n d"], *, distance: Distance = LpDistance()
) -> Float[Array, " n"]:
    r"""The distance of each row of `x` to the same row of `y`, without all the others.

    .. math:: d_i = d(x_i, y_i)

    It is the diagonal of ``distance(x, y)``, with its normalization and its power, in N * D
    memory. Use it under `jit` and for gradients, too.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import CosineSimilarity, row_distances
        >>> x, y = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[0.1, 0.0], [3.0, 4.0]])
        >>> print(row_distances(x, y, distance=CosineSimilarity()))
        [1.  0.8]

    Args:
        x: ``[N, D]``.
        y: ``[N, D]``.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``.

    Raises:
        ValueError: if `x` and `y` have not the same shape ``[N, D]``.
        TypeError: if they are not floating.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_row_by_row("distances.row_distances", x, y)
    if isinstance(distance, CosineSimilarity | DotProductSimilarity):
        # quicker than a product of one row with one row, N times
        a, b, _ = _prepared(distance, x, y, getattr(distance, "normalize_embeddings", True))
        return jnp.sum(a * b, 1)
    return jax.vmap(lambda a, b: distance(a[None], b[None])[0, 0])(x, y)


_suggest.for_missing_names(__name__)
