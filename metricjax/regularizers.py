"""Regularizers: ``[K, D] -> LossDict``, for embeddings and class weights (one per row) alike.

Their term is already reduced, by their own `reducer`, so that the loss's reducer leaves it alone.
Add it to a loss dict with `|` or `merge`, or let `objective` do so.

    >>> import jax.numpy as jnp, metricjax as mj
    >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    >>> print(mj.reduce(mj.regularizers.lp(x) | mj.regularizers.zero_mean(x, weight=0.1))[0])
    3.0
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax import reducers
from metricjax._core import suggest as _suggest
from metricjax._core.check import (
    check_distance,
    check_embeddings,
    check_similarity,
    check_weights,
)
from metricjax._core.masked import safe_abs, safe_divide, safe_norm, safe_power, safe_sqrt, upcast
from metricjax._core.refs import weighed
from metricjax._core.types import LossDict, LossTerm, Reducer, Scalar
from metricjax.distances import CosineSimilarity, Distance, normalize


def _prepare(function, x, where):
    """`x` checked and in at least float32, with a weight for each row; rows of weight 0 are 0."""
    check_embeddings(f"regularizers.{function}", "x", x)
    check_weights(f"regularizers.{function}", "where", where, "x", len(x))
    rows, x = weighed(jnp.ones(len(x)) if where is None else where, x)
    return upcast(x), rows


def _reduced(name, values, rows, weight, reducer, divisor=None) -> LossDict:
    """A 0-d term: the total and the count of `values`, weighed by `rows`, under `reducer`."""
    values = jnp.where(rows > 0, values, 0)
    total, count = reducer(LossTerm(values, rows, divisor))
    count = None if count is None else jnp.asarray(count, total.dtype)
    return {name: LossTerm(weight * total, jnp.ones_like(total), count)}


def lp(
    x: Float[Array, "k d"],
    *,
    p: float = 2,
    power: float = 1,
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.mean,
    name: str = "lp_reg",
) -> LossDict:
    r"""Keeps the rows short.

    .. math:: \ell_i = \lVert x_i \rVert_p^{power}

    Args:
        x: ``[K, D]`` embeddings or class weights.
        p: order of the norm; static.
        power: its exponent; static. The gradient of a zero row is 0.
        where: ``[K]`` weights of the rows; 0 is padding.
        weight: factor of the whole term; may be traced.
        reducer: how the K values become one.
        name: key of the term.
    """
    x, rows = _prepare("lp", x, where)
    return _reduced(name, safe_power(safe_norm(x, p), power), rows, weight, reducer)


def center_invariant(
    x: Float[Array, "k d"],
    *,
    p: float = 2,
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.mean,
    name: str = "center_invariant_reg",
) -> LossDict:
    r"""Pulls the squared norms of the rows to their mean.

    .. math::
        \ell_i = \tfrac14 \Big(\lVert x_i \rVert_p^2 - \tfrac1K \sum_j \lVert x_j \rVert_p^2\Big)^2

    Meant for class weights. For other arguments see `lp`.

    References:
        Wu et al., `Deep Face Recognition with Center Invariant Loss
        <http://www1.ece.neu.edu/~yuewu/files/2017/twu024.pdf>`_, 2017.
    """
    x, rows = _prepare("center_invariant", x, where)
    squared = safe_power(safe_norm(x, p), 2)
    mean = safe_divide(jnp.sum(rows * squared), jnp.sum(rows))
    return _reduced(name, (squared - mean) ** 2 / 4, rows, weight, reducer)


def regular_face(
    x: Float[Array, "k d"],
    *,
    distance: Distance = CosineSimilarity(),
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.mean,
    name: str = "regular_face_reg",
) -> LossDict:
    r"""Pushes each row away from its nearest other row.

    .. math:: \ell_i = \max_{j \neq i} s_{ij}

    The nearest row is taken as given: the gradient reaches both rows, at a tie those of the lowest
    index. A single row has no other: its value is 0. Builds ``[K, K]``.

    Args:
        distance: a similarity. For other arguments see `lp`.

    References:
        Zhao et al., RegularFace: Deep Face Recognition via Exclusive Regularization, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Zhao_RegularFace_Deep_Face_Recognition_via_Exclusive_Regularization_CVPR_2019_paper.html
    """
    x, rows = _prepare("regular_face", x, where)
    check_similarity("regularizers.regular_face", distance)
    if not len(x):
        return _reduced(name, rows, rows, weight, reducer)
    mat = distance(x, x)
    others = (rows[None, :] > 0) & ~jnp.eye(len(x), dtype=bool)
    nearest = jnp.argmax(jnp.where(others, jax.lax.stop_gradient(mat), -jnp.inf), 1)
    values = jnp.take_along_axis(mat, nearest[:, None], 1)[:, 0]
    values = jnp.where(jnp.any(others, 1), values, 0)
    return _reduced(name, values, rows, weight, reducer)


def sparse_centers(
    x: Float[Array, "ck d"],
    *,
    centers_per_class: int,
    distance: CosineSimilarity = CosineSimilarity(),
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.divisor,
    name: str = "sparse_centers_reg",
) -> LossDict:
    r"""Draws the centers of a class together, so that a class uses only as many as it needs.

    .. math:: \ell_{ij} = \sqrt{2 - 2 \cos(x_i, x_j)}

    over the unordered pairs of centers of one class; by default their sum is divided by twice their
    number. The gradient is 0 where two centers coincide.

    Args:
        x: ``[C * K, D]`` class weights, the K centers of a class next to each other.
        centers_per_class: K, at least 2. For other arguments see `lp`.

    References:
        Qian et al., SoftTriple Loss: Deep Metric Learning Without Triplet Sampling, 2019,
        https://openaccess.thecvf.com/content_ICCV_2019/html/Qian_SoftTriple_Loss_Deep_Metric_Learning_Without_Triplet_Sampling_ICCV_2019_paper.html
    """
    x, rows = _prepare("sparse_centers", x, where)
    check_distance("regularizers.sparse_centers", distance, CosineSimilarity)
    k = centers_per_class
    if k < 2 or len(x) % k:
        raise ValueError(
            f"regularizers.sparse_centers: `centers_per_class` must be at least 2 and divide the "
            f"number of rows {len(x)}, got {k}."
        )
    first, second = jnp.triu_indices(k, 1)
    mat = jax.vmap(distance)(x.reshape(-1, k, x.shape[1]))[:, first, second]
    pairs = rows.reshape(-1, k)[:, first] * rows.reshape(-1, k)[:, second]
    squared = 2 - 2 * mat
    squared = jnp.where(squared < 16 * jnp.finfo(mat.dtype).eps, 0, squared)  # rounding error
    return _reduced(name, safe_sqrt(squared), pairs, weight, reducer, 2 * jnp.sum(pairs))


def spherical(
    x: Float[Array, "k d"],
    *,
    state: Scalar | None = None,
    momentum: Scalar = 1.0,
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.mean,
    name: str = "spherical_reg",
) -> LossDict | tuple[LossDict, Float[Array, ""]]:
    r"""Pulls the norms of the rows to their mean: embeddings come to lie on a sphere.

    .. math:: \ell_i = \Big(\lVert x_i \rVert - \mu\Big)^2

    :math:`\mu` is the mean of the norms, constant for the gradient. Beside a loss that normalizes
    embeddings, it makes their gradients equally large.

    Args:
        state: the running mean that was returned before, for one over batches: then the result is
            a pair of terms and the new state.
        momentum: weight of this batch in it, 0 to 1. For other arguments see `lp`.

    References:
        Zhang et al., `Deep Metric Learning with Spherical Embedding
        <https://arxiv.org/abs/2011.02785>`_, 2020.
    """
    x, rows = _prepare("spherical", x, where)
    size = safe_norm(x)
    count = jnp.sum(rows)
    mean = safe_divide(jnp.sum(rows * size), count)
    if state is not None:
        old = jnp.asarray(state, mean.dtype)
        mean = jnp.where(count > 0, momentum * mean + (1 - momentum) * old, old)
    mean = jax.lax.stop_gradient(mean)
    terms = _reduced(name, (size - mean) ** 2, rows, weight, reducer)
    return terms if state is None else (terms, mean)


def global_orthogonal(
    x: Float[Array, "k d"],
    *,
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    precision: jax.lax.Precision = jax.lax.Precision.HIGHEST,
    name: str = "global_orthogonal_reg",
) -> LossDict:
    r"""Spreads the rows as uniform directions are: cosines of mean 0 and of variance 1/D.

    .. math::
        \ell_1 = \big(\mathrm{mean}_{i \neq j} s_{ij}\big)^2 \qquad
        \ell_2 = \big[\mathrm{mean}_{i \neq j} s_{ij}^2 - \tfrac1D\big]_+

    Both means come from sums over rows and a product of the smaller of ``[K, K]`` and ``[D, D]``.

    Args:
        precision: of the matrix product.
        name: prefix of the two terms, ``{name}_mean`` and ``{name}_second``; `reduce` weighs them.
            For other arguments see `lp`.

    References:
        Zhang et al., `Learning Spread-out Local Feature Descriptors
        <https://arxiv.org/abs/1708.06320>`_, 2017.
    """
    x, rows = _prepare("global_orthogonal", x, where)
    unit = normalize(x)
    k, d = x.shape
    squares = jnp.sum(unit * unit, 1)  # 1, or 0 of a zero row
    half = jnp.sqrt(rows)[:, None] * unit
    left, right = (half.T, half) if d <= k else (half, half.T)
    gram = jnp.matmul(left, right, precision=precision)
    pairs = jnp.sum(rows) ** 2 - jnp.sum(rows**2)
    total = jnp.sum(jnp.sum(rows[:, None] * unit, 0) ** 2) - jnp.sum(rows**2 * squares)
    second = jnp.sum(gram**2) - jnp.sum(rows**2 * squares**2)
    # rounding leaves a little of what a single row has with itself
    mean = lambda total: jnp.where(jnp.sum(rows > 0) > 1, safe_divide(total, pairs), 0)
    values = {"mean": mean(total) ** 2, "second": jax.nn.relu(mean(second) - 1 / d)}
    one = jnp.ones_like(pairs)
    return {f"{name}_{part}": LossTerm(weight * x, one, one) for part, x in values.items()}


def zero_mean(
    x: Float[Array, "k d"],
    *,
    where: Num[Array, " k"] | None = None,
    weight: Scalar = 1.0,
    reducer: Reducer = reducers.mean,
    name: str = "zero_mean_reg",
) -> LossDict:
    r"""Pulls the sum of each row's features to zero.

    .. math:: \ell_i = \Big| \sum_d x_{id} \Big|

    For arguments see `lp`.

    References:
        Yuan et al., Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Yuan_Signal-To-Noise_Ratio_A_Robust_Distance_Metric_for_Deep_Metric_Learning_CVPR_2019_paper.html
    """
    x, rows = _prepare("zero_mean", x, where)
    return _reduced(name, safe_abs(jnp.sum(x, -1)), rows, weight, reducer)


_suggest.for_missing_names(__name__)
