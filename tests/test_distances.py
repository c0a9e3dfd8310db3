"""Distances: worked numbers, plain numpy, edge cases, dtypes, memory, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
    farther,
    normalize,
)

INF = float("inf")
DISTANCES = [
    CosineSimilarity(),
    DotProductSimilarity(),
    DotProductSimilarity(normalize_embeddings=False),
    SNRDistance(),
    SNRDistance(normalize_embeddings=False),
    LpDistance(),
    LpDistance(power=2),
    LpDistance(power=0.5, normalize_embeddings=False),
    LpDistance(normalize_embeddings=False),
    LpDistance(p=0, normalize_embeddings=False),
    LpDistance(p=0.5),
    LpDistance(p=1),
    LpDistance(p=1, power=2, normalize_embeddings=False),
    LpDistance(p=3),
    LpDistance(p=INF),
]


def label(distance):
    options = {**vars(distance)}
    options.pop("precision")
    return type(distance).__name__ + "".join(f"-{x}" for x in options.values())


every_distance = pytest.mark.parametrize("distance", DISTANCES, ids=label)


def normalizes(distance):
    return getattr(distance, "normalize_embeddings", True)


@functools.partial(jax.jit, static_argnums=0)
def both(distance, x, y):
    """``distance(x, y)`` and ``distance(x)``, and the gradients of a random sum of each."""

    def total(mat):
        return jnp.sum(mat * jnp.cos(jnp.arange(mat.size, dtype=mat.dtype)).reshape(mat.shape))

    pair, itself = distance(x, y), distance(x)
    gradients = jax.grad(lambda x, y: total(distance(x, y)), (0, 1))(x, y)
    return pair, itself, gradients, jax.grad(lambda x: total(distance(x)))(x)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def definition(distance, x, y):
    """Straight from the formulas, in double precision."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if normalizes(distance):
        p = getattr(distance, "p", 2)
        x, y = (z / np.linalg.norm(z, p, -1, keepdims=True) for z in (x, y))
    if distance.is_similarity:
        return x @ y.T
    gap = x[:, None] - y[None]
    if isinstance(distance, SNRDistance):
        return gap.var(-1, ddof=1) / x.var(-1, ddof=1)[:, None]
    return np.linalg.norm(gap, distance.p, -1) ** distance.power


Q = np.array([[3, 4], [1, 0], [0, 0]], np.float32)
R = np.array([[1, 0], [0, 2]], np.float32)
S = np.array([[1, 2, 3], [1, 1, 1], [0, 0, 6]], np.float32)


@pytest.mark.parametrize(
    ("distance", "x", "y", "expected"),
    [
        (LpDistance(), Q, R, [[0.8944, 0.6325], [0, 1.4142], [1, 1]]),
        (
            LpDistance(normalize_embeddings=False),
            Q, R, [[4.4721, 3.6056], [0, 2.2361], [1, 2]],
        ),
        (LpDistance(normalize_embeddings=False, power=2), Q, R, [[20, 13], [0, 5], [1, 4]]),
        (LpDistance(p=1), Q, R, [[1.1429, 0.8571], [0, 2], [1, 1]]),
        (LpDistance(p=0, normalize_embeddings=False), Q, R, [[2, 2], [0, 2], [1, 1]]),
        (LpDistance(p=INF, normalize_embeddings=False), Q, R, [[4, 3], [0, 2], [1, 2]]),
        (LpDistance(p=0.5, normalize_embeddings=False), Q, R, [[11.6569, 9.8990], [0, 5.8284], [1, 2]]),
        (CosineSimilarity(), Q, R, [[0.6, 0.8], [1, 0], [0, 0]]),
        (DotProductSimilarity(), Q, R, [[0.6, 0.8], [1, 0], [0, 0]]),
        (DotProductSimilarity(normalize_embeddings=False), Q, R, [[3, 8], [1, 0], [0, 0]]),
        # PML: inf and NaN for an anchor without signal, here 0
        (
            SNRDistance(normalize_embeddings=False),
            S, S, [[0, 1, 7], [0, 0, 0], [0.5833, 1, 0]],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_worked_numbers(distance, x, y, expected):
    np.testing.assert_allclose(distance(x, y), expected, atol=5e-5)


@every_distance
def test_equals_definition(distance):
    x, y = random(4, 3), random(4, 3, seed=1)
    pair, itself, _, _ = both(distance, x, y)
    np.testing.assert_allclose(pair, definition(distance, x, y), rtol=2e-5, atol=1e-6)
    # near 0 the root of the rounding error shows
    np.testing.assert_allclose(itself, definition(distance, x, x), rtol=2e-5, atol=1e-6)


@every_distance
def test_gradients_in_double(distance):
    with jax.enable_x64(True):
        x, y = random(4, 3).astype(float), random(5, 3, seed=1).astype(float)
        pair, itself = jax.jit(lambda x, y: (distance(x, y), distance(x)))(x, y)
        assert pair.dtype == itself.dtype == "float64"
        np.testing.assert_allclose(pair, definition(distance, x, y), rtol=1e-12, atol=1e-14)
        check_grads(jax.jit(distance), (x, y), order=1, modes=["rev"])
        if not isinstance(distance, LpDistance) or distance.p != 0.5:  # not smooth at 0
            off_diagonal = jax.jit(lambda x: distance(x) * (1 - jnp.eye(4)))
            check_grads(off_diagonal, (x,), order=1, modes=["rev"])


EDGES = {
    "zero": np.zeros((4, 3)),
    "zero_rows": np.array([[0, 0, 0], [1, 2, -3], [0, 0, 0], [0, 0, 1]]),
    "equal_rows": np.tile([[0.3, -0.7, 0.2]], (4, 1)),
    "constant_rows": np.array([[0.1] * 3, [1.7] * 3, [0.1] * 3, [-1] * 3]),
    "opposite": np.array([[1, 2, 3], [-1, -2, -3], [1, 2, 3], [-2, -4, -6]]),
    "tiny": 1e-30 * random(4, 3),
    "denormal": np.full((4, 3), 1e-42),
    "one_row": np.array([[1, 2, 3]]),
    "no_rows": np.zeros((0, 3)),
    "one_feature": np.array([[1], [0], [-2], [3]]),
    "huge": 1e30 * random(4, 3),
    "largest": np.where(np.eye(4, 3) == 1, np.finfo("float32").max, 1),
}


@pytest.mark.parametrize("edge", EDGES)
@every_distance
def test_value_and_gradient_are_finite(distance, edge):
    if edge in ("huge", "largest") and not normalizes(distance):
        pytest.skip("overflows by definition")
    x = EDGES[edge].astype(np.float32)
    for array in jax.tree.leaves(both(distance, x, x[::-1])):
        assert np.all(np.isfinite(array))


@pytest.mark.parametrize("distance", [d for d in DISTANCES if normalizes(d)], ids=label)
def test_zero_row_has_zero_gradient(distance):
    x = EDGES["zero_rows"].astype(np.float32)
    _, _, (of_x, of_y), of_self = both(distance, x, np.roll(x, 1, 0))
    for gradient, zero in ((of_x, [0, 2]), (of_y, [1, 3]), (of_self, [0, 2])):
        assert np.all(gradient[zero] == 0)


@pytest.mark.parametrize("distance", [d for d in DISTANCES if normalizes(d)], ids=label)
def test_normalizing_forgets_the_length(distance):
    x, y = random(4, 3), random(4, 3, seed=1)
    scale = np.float32([[1e30], [1e-10], [1], [1e-5]])
    np.testing.assert_allclose(
        both(distance, x * scale, y * scale[::-1])[0],
        both(distance, x, y)[0],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_shorter_than_the_floor_stays_short():
    x = jnp.array([[3e-13, 4e-13], [3e-30, 4e-30], [3, 4], [0, 0]])
    np.testing.assert_allclose(
        jnp.linalg.norm(1e6 * normalize(x), axis=-1), [5e5, 5e-12, 1e6, 0], rtol=1e-5
    )
    np.testing.assert_allclose(CosineSimilarity()(x[:1], x[2:3]), [[0.5]], rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(normalize(x)))(x)
    np.testing.assert_allclose(gradient[:2], 1e12, rtol=1)
    np.testing.assert_array_equal(gradient[3], 0)


@every_distance
def test_distance_to_itself_is_exactly_zero(distance):
    x = 10 * random(40, 17, seed=2)
    itself, pair = jax.jit(lambda x: (distance(x), distance(x, x)))(x)
    if distance.is_similarity:
        np.testing.assert_array_equal(itself, pair)
    else:
        np.testing.assert_array_equal(np.diag(itself), 0)
        np.testing.assert_array_equal(np.where(np.eye(40), 0, pair), itself)
        assert np.count_nonzero(itself) == 40 * 39


@pytest.mark.parametrize("d", [5, 700])
@pytest.mark.parametrize("normalized", [True, False])
def test_duplicates_are_at_zero(normalized, d):
    distance = LpDistance(normalize_embeddings=normalized)
    x = 3 * random(70, d)
    y = np.concatenate([x, x + 0.01 * random(70, d, seed=1), x])

    def run(x, y):
        mat, pullback = jax.vjp(distance, x, y)
        return mat, pullback(jnp.concatenate([jnp.eye(70), jnp.zeros((70, 70)), jnp.eye(70)], 1))

    mat, gradients = jax.jit(run)(x, y)
    np.testing.assert_array_equal(np.diag(mat), 0)
    np.testing.assert_array_equal(np.diag(mat[:, 140:]), 0)
    assert np.count_nonzero(mat) == mat.size - 140  # close is not equal
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_gradient_at_equal_rows_is_zero():
    x = EDGES["equal_rows"].astype(np.float32)
    for distance in DISTANCES:
        if isinstance(distance, LpDistance):
            _, _, gradients, of_self = both(distance, x, x)
            for gradient in (*gradients, of_self):
                np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("d", [1, 7, 100])
def test_snr_of_an_anchor_without_signal_is_zero(normalized, d):
    x = np.concatenate([np.full((3, d), 0.1), np.full((1, d), 12.3), 1.0 + np.arange(d)[None]])
    distance = SNRDistance(normalize_embeddings=normalized)
    mat, pullback = jax.vjp(jax.jit(distance), x.astype(np.float32))
    np.testing.assert_array_equal(mat[:4], 0)
    np.testing.assert_array_equal(pullback(jnp.ones((5, 5)))[0][:4], np.zeros((4, d)))


@every_distance
def test_nan_and_infinity_stay_visible(distance):
    for bad in (np.nan, np.inf):
        x = random(4, 3)
        x[1, 2] = bad
        pair, itself, _, _ = both(distance, x, random(4, 3, seed=1))
        clean = np.delete(np.arange(4), 1)
        if getattr(distance, "p", 2) != 0:  # p=0 counts what differs
            assert not np.any(np.isfinite(pair[1]))
            assert not np.any(np.isfinite(itself[1, clean]))
            assert not np.any(np.isfinite(itself[clean, 1]))
        assert np.all(np.isfinite(pair[clean]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_distance
def test_half_precision(distance, dtype):
    x = np.concatenate([random(3, 3), np.zeros((1, 3), np.float32)]).astype(dtype)
    y = np.concatenate([random(2, 3, seed=1).astype(dtype), x[:1], np.full((1, 3), 1e-7, dtype)])
    pair, itself, gradients, of_self = both(distance, x, y)
    assert pair.dtype == itself.dtype == "float32"
    for gradient in (*gradients, of_self):
        assert gradient.dtype == dtype
        assert np.all(np.isfinite(gradient.astype(np.float32)))
    if dtype == "bfloat16" or not normalizes(distance):
        expected, _, _, _ = both(distance, x.astype(np.float32), y.astype(np.float32))
        np.testing.assert_allclose(pair, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "distance",
    [LpDistance(), CosineSimilarity(), DotProductSimilarity(), SNRDistance()],
    ids=label,
)
def test_matrix_product_has_full_precision_unless_told_otherwise(distance):
    x = np.ones((2, 3), np.float32)
    assert "HIGHEST" in str(jax.make_jaxpr(distance)(x, x))
    fast = type(distance)(precision=jax.lax.Precision.DEFAULT)
    jaxpr = str(jax.make_jaxpr(fast)(x, x))
    assert "dot_general" in jaxpr and "HIGHEST" not in jaxpr


@pytest.mark.parametrize("make", [lambda p: LpDistance(p=p), lambda p: LpDistance(power=p)])
def test_equal_distances_do_not_retrace(make):
    traces = []

    @functools.partial(jax.jit, static_argnames="distance")
    def run(x, distance):
        traces.append(distance)
        return distance(x)

    x = jnp.ones((2, 3))
    run(x, distance=make(2))
    run(x + 1, distance=make(2))
    run(x, distance=make(2.0))
    assert len(traces) == 1
    run(x, distance=make(1))
    assert len(traces) == 2


def test_distances_are_frozen_values():
    assert len(set(DISTANCES)) == len({type(d)(**vars(d)) for d in [*DISTANCES, *DISTANCES]})
    for distance in DISTANCES:
        with pytest.raises(AttributeError):
            distance.precision = None


def test_farther_follows_the_direction():
    assert farther(LpDistance(), 3.0, 1.0) == 2.0
    assert farther(SNRDistance(), 3.0, 1.0) == 2.0
    assert farther(CosineSimilarity(), 3.0, 1.0) == -2.0
    assert farther(DotProductSimilarity(), 3.0, 1.0) == -2.0


@pytest.mark.parametrize("distance", [LpDistance(), LpDistance(p=1), SNRDistance()], ids=label)
def test_vmap_equals_one_by_one(distance):
    x, y = random(3, 4, 3), random(3, 4, 3, seed=1)
    got = jax.jit(jax.vmap(distance))(x, y)
    for i in range(3):
        np.testing.assert_allclose(got[i], both(distance, x[i], y[i])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 3])
def test_memory_without_the_difference_of_every_feature(p):
    n, m, d = 192, 160, 64
    loss = lambda x, y: jnp.sum(LpDistance(p=p)(x, y) ** 2)
    run = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(jnp.ones((n, d)), jnp.ones((m, d)))
    assert run.compile().memory_analysis().temp_size_in_bytes < n * m * d * 4 / 4


@every_distance
def test_numpy_doubles_are_taken(distance):
    x = np.array([[0.0, 0, 0], [1, 2, -3], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        distance(x, x[::-1]),
        both(distance, x.astype(np.float32), x[::-1].astype(np.float32))[0],
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LpDistance()(X[0]), ValueError, r"LpDistance: `x` .*\(3,\)"),
        (lambda: LpDistance()(X[None]), ValueError, r"LpDistance: `x` .*\(1, 2, 3\).*vmap"),
        (lambda: CosineSimilarity()(X, X[0]), ValueError, r"`y` must have shape .*\(3,\)"),
        (lambda: SNRDistance()(X, X[:, :2]), ValueError, r"SNRDistance: .*\(2, 3\) and \(2, 2\)"),
        (lambda: SNRDistance()(X.astype(int)), TypeError, r"SNRDistance: `x` must be float.*int"),
        (lambda: LpDistance()(X, X > 0), TypeError, r"LpDistance: `y` must be float.*bool"),
        (lambda: LpDistance(p=-1), ValueError, r"LpDistance: `p` .*-1"),
        (lambda: LpDistance(p=float("nan")), ValueError, r"LpDistance: `p` .*nan"),
    ],
)
def test_errors_name_function_and_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
    with pytest.raises(error, match=message):
        jax.jit(call)()
