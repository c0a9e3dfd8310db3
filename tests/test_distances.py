"""Distances: worked numbers, plain numpy, edge cases, dtypes, memory, errors."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import metricjax as mj
from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LorentzDistance,
    LpDistance,
    PoincareDistance,
    SNRDistance,
    farther,
    lorentz_exp0,
    normalize,
    poincare_exp0,
    row_distances,
)

INF = float("inf")
HYPERBOLIC = PoincareDistance(), LorentzDistance()
FLAT = CosineSimilarity(), SNRDistance(), LpDistance(), LpDistance(p=1), LpDistance(p=INF)
FEW = (*FLAT, *HYPERBOLIC)
DISTANCES = (
    *FEW,
    PoincareDistance(c=4),
    LorentzDistance(c=0.1),
    DotProductSimilarity(),
    DotProductSimilarity(normalize_embeddings=False),
    SNRDistance(normalize_embeddings=False),
    LpDistance(normalize_embeddings=False),
    LpDistance(power=2),
    LpDistance(power=0.5, normalize_embeddings=False),
    LpDistance(p=0, normalize_embeddings=False),
    LpDistance(p=0.5),
    LpDistance(p=1, power=2, normalize_embeddings=False),
    LpDistance(p=3),
)


def label(distance):
    options = {name: x for name, x in vars(distance).items() if name != "precision"}
    return type(distance).__name__ + "".join(f"-{x}" for x in options.values())


def every(distances):
    return pytest.mark.parametrize("distance", distances, ids=label)


def is_hyperbolic(distance):
    return isinstance(distance, PoincareDistance | LorentzDistance)


def normalizes(distance):
    return getattr(distance, "normalize_embeddings", not is_hyperbolic(distance))


NORMALIZING = [d for d in DISTANCES if normalizes(d)]


@functools.partial(jax.jit, static_argnums=0)
def forward(distances, x, y):
    return [(distance(x, y), distance(x)) for distance in distances]


@functools.partial(jax.jit, static_argnums=0)
def backward(distances, x, y):
    """The gradients of a random sum of all entries that `forward` gives for each distance."""

    def one(distance):
        def total(x, y):
            mats = distance(x, y), distance(x)
            scales = [jnp.cos(jnp.arange(mat.size, dtype=mat.dtype)) for mat in mats]
            return sum(jnp.vdot(a, b) for a, b in zip(mats, scales, strict=True))

        return jax.grad(total, (0, 1))(x, y)

    return [one(distance) for distance in distances]


def at(distance, x, y):
    """The values and the gradients of one distance; all share a program, compiled per shape."""
    group = DISTANCES if x.shape == (4, 3) and x.dtype == np.float32 else FEW
    i = group.index(distance)
    return *forward(group, x, y)[i], *map(np.asarray, backward(group, x, y)[i])


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def hyperbolic(distance, x, y):
    """The forms of textbooks."""
    c, of = distance.c, lambda z: (z * z).sum(-1)
    if isinstance(distance, LorentzDistance):
        time = lambda z: np.sqrt(1 / c + of(z))
        return np.arccosh(c * (time(x)[:, None] * time(y) - x @ y.T).clip(1 / c)) / c**0.5
    longest = (1 - distance.eps) / c**0.5
    x, y = (z * np.minimum(1, longest / np.sqrt(of(z)))[:, None] for z in (x, y))
    room = (1 - c * of(x))[:, None] * (1 - c * of(y))
    return np.arccosh(1 + 2 * c * of(x[:, None] - y[None]) / room) / c**0.5


def definition(distance, x, y):
    """Straight from the formulas, in double precision."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if normalizes(distance):
        p = getattr(distance, "p", 2)
        x, y = (z / np.linalg.norm(z, p, -1, keepdims=True) for z in (x, y))
    if distance.is_similarity:
        return x @ y.T
    if is_hyperbolic(distance):
        return hyperbolic(distance, x, y)
    gap = x[:, None] - y[None]
    if isinstance(distance, SNRDistance):
        return gap.var(-1, ddof=1) / x.var(-1, ddof=1)[:, None]
    return np.linalg.norm(gap, distance.p, -1) ** distance.power


Q = np.array([[3, 4], [1, 0], [0, 0]], np.float32)
R = np.array([[1, 0], [0, 2]], np.float32)
S = np.array([[1, 2, 3], [1, 1, 1], [0, 0, 6]], np.float32)
WORKED = [
    (LpDistance(), [[0.8944, 0.6325], [0, 1.4142], [1.4142, 1.4142]]),  # 0 is orthogonal to all
    (LpDistance(normalize_embeddings=False), [[4.4721, 3.6056], [0, 2.2361], [1, 2]]),
    (LpDistance(normalize_embeddings=False, power=2), [[20, 13], [0, 5], [1, 4]]),
    (LpDistance(p=1), [[1.1429, 0.8571], [0, 2], [2, 2]]),
    (LpDistance(p=INF), [[1, 0.75], [0, 1], [1, 1]]),
    (LpDistance(p=0, normalize_embeddings=False), [[2, 2], [0, 2], [1, 1]]),
    (LpDistance(p=0), [[2, 1], [0, 2], [1, 1]]),  # (1.5, 2) and (0, 2)
    (LpDistance(p=INF, normalize_embeddings=False), [[4, 3], [0, 2], [1, 2]]),
    (LpDistance(p=0.5, normalize_embeddings=False), [[11.6569, 9.899], [0, 5.8284], [1, 2]]),
    (CosineSimilarity(), [[0.6, 0.8], [1, 0], [0, 0]]),
    (DotProductSimilarity(), [[0.6, 0.8], [1, 0], [0, 0]]),
    (DotProductSimilarity(normalize_embeddings=False), [[3, 8], [1, 0], [0, 0]]),
]


@pytest.mark.parametrize("row", range(len(WORKED)))
def test_worked_numbers(row):
    mat, _ = forward(tuple(distance for distance, _ in WORKED), Q, R)[row]
    np.testing.assert_allclose(mat, WORKED[row][1], atol=1e-4)


def test_worked_noise_to_signal():
    mat = SNRDistance(normalize_embeddings=False)(S, S)
    # an anchor without signal gives 0, not infinity
    np.testing.assert_allclose(mat, [[0, 1, 7], [0, 0, 0], [7 / 12, 1, 0]], atol=1e-6)


@every(DISTANCES)
def test_equals_definition(distance):
    x, y = random(4, 3), random(4, 3, seed=1)
    pair, itself, _, _ = at(distance, x, y)
    np.testing.assert_allclose(pair, definition(distance, x, y), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(itself, definition(distance, x, x), rtol=2e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "group",
    [DISTANCES[i::2] for i in range(2)],
    ids=["even", "odd"],
)
def test_double_precision(group):
    with jax.enable_x64(True):
        x, y = random(4, 3).astype(float), random(5, 3, seed=1).astype(float)
        for distance, (pair, itself) in zip(group, forward(group, x, y), strict=True):
            assert pair.dtype == itself.dtype == "float64"
            np.testing.assert_allclose(pair, definition(distance, x, y), rtol=1e-12, atol=1e-14)
        together = lambda x, y: jax.tree.map(jnp.ravel, forward(group, x, y))
        check_grads(together, (x, y), order=1, modes=["rev"])


EDGES = {
    "zero": np.zeros((4, 3)),
    "zero_rows": [[0, 0, 0], [1, 2, -3], [0, 0, 0], [0, 0, 1]],
    "equal_rows": np.tile([[0.3, -0.7, 0.2]], (4, 1)),
    "constant_rows": [[0.1] * 3, [1.7] * 3, [0.1] * 3, [-1] * 3],
    "opposite": [[1, 2, 3], [-1, -2, -3], [1, 2, 3], [-2, -4, -6]],
    "tiny": 1e-30 * random(4, 3),
    "denormal": np.full((4, 3), 1e-42),
    "huge": 1e30 * random(4, 3),
    "largest": np.where(np.eye(4, 3) == 1, np.finfo("float32").max, 1),
    "one_row": [[1, 2, 3]],
    "no_rows": np.zeros((0, 3)),
    "one_feature": [[1], [0], [-2], [3]],
}
EDGES = {name: np.asarray(x, np.float32) for name, x in EDGES.items()}


def meets(distance, edge):
    """Other shapes are for one distance of each kind; huge rows overflow in Euclidean space."""
    if EDGES[edge].shape != (4, 3):
        return distance in FEW
    finite = normalizes(distance) or is_hyperbolic(distance)
    return finite or edge not in ("huge", "largest")


@pytest.mark.parametrize(
    ("edge", "distance"),
    [
        pytest.param(
            edge,
            distance,
            id=f"{edge}-{label(distance)}",
            # the others have shapes of their own, and so programs
            marks=[] if np.shape(EDGES[edge]) == (4, 3) else [pytest.mark.slow],
        )
        for edge in EDGES
        for distance in DISTANCES
        if meets(distance, edge)
    ],
)
def test_value_and_gradient_are_finite(edge, distance):
    x = EDGES[edge]
    *values, of_x, of_y = at(distance, x, x[::-1])
    assert all(np.all(np.isfinite(array)) for array in (*values, of_x, of_y))
    assert [z.shape for z in values] == [(len(x), len(x))] * 2


@every(NORMALIZING)
def test_zero_row_has_zero_gradient(distance):
    x = EDGES["zero_rows"]
    _, _, of_x, of_y = at(distance, x, np.roll(x, 1, 0))
    assert not np.any(of_x[[0, 2]]) and not np.any(of_y[[1, 3]])


@every(NORMALIZING)
def test_normalizing_forgets_the_length(distance):
    x, y = random(4, 3), random(4, 3, seed=1)
    scale = np.float32([[1e30], [1e-10], [1], [1e-5]])
    scaled, _, _, _ = at(distance, x * scale, y * scale[::-1])
    np.testing.assert_allclose(scaled, at(distance, x, y)[0], rtol=1e-4, atol=1e-5)


def test_rows_below_the_floor_stay_short():
    x = jnp.array([[3e-13, 4e-13], [3e-30, 4e-30], [3, 4], [0, 0]])
    rows, pullback = jax.vjp(jax.jit(normalize), x)
    expected = [[0.3, 0.4], [3e-18, 4e-18], [0.6, 0.8], [0, 0]]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    (gradient,) = pullback(jnp.ones_like(x))
    expected = [[1e12, 1e12], [1e12, 1e12], [0.032, -0.024], [0, 0]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_distance_to_itself_is_exactly_zero():
    x = 10 * random(40, 17, seed=2)
    for distance, (pair, itself) in zip(DISTANCES, forward(DISTANCES, x, x), strict=True):
        if distance.is_similarity:
            np.testing.assert_allclose(itself, pair, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(np.diag(itself), 0)
            off_diagonal = np.where(np.eye(40), 0, pair)
            np.testing.assert_allclose(itself, off_diagonal, rtol=1e-4, err_msg=str(distance))
            assert np.count_nonzero(itself) == 40 * 39


def test_distance_to_itself_is_zero_whatever_the_rounding():
    x = np.abs(random(40, 1)).repeat(1024, 1)  # rounding errors add up over equal features
    distance = LpDistance(normalize_embeddings=False)
    itself, pair = jax.jit(lambda x: (distance(x), distance(x, 1 * x)))(x)
    assert np.any(np.diag(pair)) and not np.any(np.diag(itself))
    np.testing.assert_array_equal(jax.jit(lambda x: distance(x, x))(x), itself)


@pytest.mark.parametrize("d", [5, pytest.param(700, marks=pytest.mark.slow)])
@every([LpDistance(), LpDistance(normalize_embeddings=False), *HYPERBOLIC])
def test_duplicates_are_at_zero(distance, d):
    x = 3 * random(70, d)
    y = np.concatenate([x, x + 0.1 * random(70, d, seed=1), x])

    @jax.jit
    def run(x, y):
        mat, pullback = jax.vjp(distance, x, y)
        return mat, pullback(jnp.concatenate([jnp.eye(70), jnp.zeros((70, 70)), jnp.eye(70)], 1))

    mat, gradients = run(x, y)
    np.testing.assert_array_equal(np.diag(mat), 0)
    np.testing.assert_array_equal(np.diag(mat[:, 140:]), 0)
    assert np.count_nonzero(mat) == mat.size - 140  # close is not equal
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@every([d for d in DISTANCES if isinstance(d, LpDistance) or is_hyperbolic(d)])
def test_gradient_at_equal_rows_is_zero(distance):
    x = EDGES["equal_rows"]
    pair, itself, of_x, of_y = at(distance, x, x)
    assert not np.any(pair) and not np.any(itself) and not np.any(of_x) and not np.any(of_y)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("d", [1, 7, 100])
def test_anchor_without_signal_is_at_zero(normalized, d):
    x = np.float32([[0.1], [0.3], [12.3], [-7.7]]).repeat(d, 1)
    y = random(5, d)
    distance = SNRDistance(normalize_embeddings=normalized)
    mat, pullback = jax.vjp(jax.jit(lambda x: distance(x, y)), x)
    np.testing.assert_array_equal(mat, np.zeros((4, 5)))
    np.testing.assert_array_equal(pullback(jnp.ones((4, 5)))[0], np.zeros((4, d)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every([d for d in DISTANCES if getattr(d, "p", 2) != 0])  # p=0 counts what differs
def test_what_is_not_finite_stays_visible(distance, bad):
    x, rest = random(4, 3), [0, 2, 3]
    x[1, 2] = bad
    pair, itself, _, _ = map(np.asarray, at(distance, x, random(4, 3, seed=1)))
    assert not np.any(np.isfinite(pair[1]))
    assert not np.any(np.isfinite(itself[1, rest]))
    assert not np.any(np.isfinite(itself[rest, 1]))
    assert np.all(np.isfinite(pair[rest]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every(FEW)
def test_half_precision(distance, dtype):
    x = jnp.concatenate([random(3, 3), np.zeros((1, 3), np.float32)]).astype(dtype)
    y = jnp.concatenate([random(2, 3, seed=1).astype(dtype), x[:1], jnp.full((1, 3), 1e-4, dtype)])
    pair, itself, of_x, of_y = at(distance, x, y)
    assert pair.dtype == itself.dtype == "float32"
    expected = at(distance, *(z.astype(np.float32) for z in (x, y)))
    np.testing.assert_allclose(pair, expected[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(itself, expected[1], rtol=1e-6, atol=1e-6)
    for gradient, other in zip((of_x, of_y), expected[2:], strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient.astype(np.float32), other, rtol=0.02, atol=1e-2)


@every([LpDistance(), CosineSimilarity(), DotProductSimilarity(), SNRDistance(), *HYPERBOLIC])
def test_matrix_product_has_full_precision_unless_told_otherwise(distance):
    x = np.ones((2, 3), np.float32)
    found = lambda distance: re.findall(
        r"f32\[2,2\] = dot_general\[(.*?)\] \w+ \w+\n",
        str(jax.make_jaxpr(distance)(x, x)),
        re.DOTALL,
    )
    full, fast = found(distance), found(type(distance)(precision=jax.lax.Precision.DEFAULT))
    assert full and all("HIGHEST" in product for product in full)
    assert ["HIGHEST" in product for product in fast].count(False) == 1


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


@every(DISTANCES)
def test_distances_are_frozen_values(distance):
    again = type(distance)(**vars(distance))
    assert again is not distance and again == distance and hash(again) == hash(distance)
    assert [d for d in DISTANCES if d == distance] == [distance]
    with pytest.raises(AttributeError):
        distance.precision = None


def test_farther_follows_the_direction():
    assert farther(LpDistance(), 3.0, 1.0) == 2.0
    assert farther(SNRDistance(), 3.0, 1.0) == 2.0
    assert farther(CosineSimilarity(), 3.0, 1.0) == -2.0
    assert farther(DotProductSimilarity(), 3.0, 1.0) == -2.0


def test_vmap_equals_one_by_one():
    group = LpDistance(), LpDistance(p=1), SNRDistance()
    x, y = random(3, 4, 3), random(3, 4, 3, seed=1)
    got = jax.jit(jax.vmap(functools.partial(forward, group)))(x, y)
    for distance, mats in zip(group, got, strict=True):
        for i in range(3):
            expected = at(distance, x[i], y[i])
            for mat, other in zip(mats, expected, strict=False):
                np.testing.assert_allclose(mat[i], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 3])
def test_memory_without_the_difference_of_every_feature(p):
    n, m, d = 192, 160, 64
    loss = lambda x, y: jnp.sum(LpDistance(p=p)(x, y) ** 2)
    run = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(jnp.ones((n, d)), jnp.ones((m, d)))
    assert run.compile().memory_analysis().temp_size_in_bytes < n * m * d * 4 / 4


@pytest.mark.slow
@every([LpDistance(), SNRDistance(normalize_embeddings=False)])
def test_numpy_doubles_are_taken(distance):
    x = EDGES["zero_rows"]
    mat = distance(x.astype(float), x[::-1].astype(float))
    np.testing.assert_allclose(mat, at(distance, x, x[::-1])[0], rtol=1e-5, atol=1e-6)


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
        (lambda: PoincareDistance(c=0), ValueError, r"PoincareDistance: `c` .* above 0 .*got 0"),
        (lambda: LorentzDistance(np.float32("nan")), ValueError, r"LorentzDistance: `c` .*nan"),
        (lambda: LorentzDistance(np.ones(2)), ValueError, r"`c` must be one number.*\(2,\)"),
        (lambda: PoincareDistance(eps=1), ValueError, r"PoincareDistance: `eps` .*1"),
        (lambda: lorentz_exp0(X[0]), ValueError, r"lorentz_exp0: `v` .*\(3,\)"),
        (lambda: poincare_exp0(X, -1), ValueError, r"poincare_exp0: `c` .*-1"),
    ],
)
def test_errors_name_function_and_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
    with pytest.raises(error, match=message):
        jax.jit(call)()


@pytest.mark.slow
@every(FEW)
def test_row_distances_are_the_diagonal(distance):
    x, y = np.random.default_rng(5).normal(size=(2, 6, 4)).astype(np.float32)
    rows = jax.jit(functools.partial(row_distances, distance=distance))

    def both(x):
        return rows(x, y), jax.grad(lambda x: rows(x, y).sum())(x)

    def whole(x):
        diagonal = lambda x: jnp.diag(distance(x, y))
        return diagonal(x), jax.grad(lambda x: diagonal(x).sum())(x)

    for ours, theirs in zip(jax.jit(both)(x), jax.jit(whole)(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_errors_of_row_distances():
    with pytest.raises(ValueError, match=r"distances.row_distances: `y` must have shape \(2, 3\)"):
        row_distances(jnp.ones((2, 3)), jnp.ones((1, 3)))
    with pytest.raises(TypeError, match="distances.row_distances: `y` must be floating"):
        row_distances(np.ones((2, 3)), np.ones((2, 3), int))


UNIT = [LpDistance(), LpDistance(power=2), DotProductSimilarity(), CosineSimilarity()]
PLAIN = [
    LpDistance(normalize_embeddings=False),
    DotProductSimilarity(normalize_embeddings=False),
]


@pytest.mark.slow
@pytest.mark.parametrize("distance", UNIT + PLAIN, ids=repr)
def test_rows_in_half_precision_are_multiplied_as_they_are(distance):
    """Where that is quicker: value, gradient and second derivatives are those of float32 rows."""
    rng = np.random.default_rng(0)
    sizes = np.float32([1, 1e30, 1e-30, 0, 3, 1, 1]) if distance in UNIT else np.ones(7, "f4")
    x = jnp.asarray(rng.normal(size=(7, 256)) * sizes[:, None], jnp.bfloat16)
    y = jnp.concatenate([x[:2], jnp.asarray(rng.normal(size=(4, 256)), jnp.bfloat16)])
    along = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)

    def both(x, y):
        mat = distance(x, y)
        return jnp.sum(jnp.sin(mat[:, 2:])), (mat, distance(x))

    def run(x, y):  # another function each time: a trace is kept
        gradient = lambda x: jax.grad(both, has_aux=True)(x, y)[0]
        second = jax.jvp(gradient, (x[4:],), (along[4:],))[1]
        return jax.grad(both, has_aux=True)(x, y), second

    with mj.for_platform("tpu"):
        lowered = jax.jit(lambda x, y: run(x, y)).lower(x, y)
    assert "x256xbf16>, tensor<256x" in lowered.as_text()
    got, want = lowered.compile()(x, y), jax.jit(lambda x, y: run(x, y))(x, y)
    ((grad, mats), second), ((want_grad, want_mats), want_second) = got, want
    chex.assert_trees_all_close(mats, want_mats, rtol=2e-5, atol=2e-5)
    for a, b in (grad, want_grad), (second, want_second):
        assert a.dtype == b.dtype == jnp.bfloat16
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        size = np.abs(b).max(1, keepdims=True) + 1e-30
        np.testing.assert_allclose(a / size, b / size, rtol=2e-2, atol=2e-2)


A = np.array([[1, 0.2], [0.3, 1], [1, 1.1], [-1, 2]])
B = np.array([[2, 1], [1, 2.2], [1, -1], [0.1, 1]])
WORKED_HYPERBOLIC = [  # scale of the rows, mean over all pairs, norm of its gradient, corner
    (PoincareDistance(), 4, 0.97875311, 0.181754, [[0.778806, 1.220602], [1.017487, 0.874825]]),
    (PoincareDistance(c=2), 4, 1.2462684, 0.335886, None),
    (LorentzDistance(), 1, 1.2840929, 0.179802, [[0.75471, 1.472846], [1.282316, 0.733077]]),
    (LorentzDistance(c=0.1), 1, 1.5715356, 0.22687, None),
]


def test_worked_hyperbolic_distances():
    @jax.jit
    def run(x, y):
        one = lambda distance, n: lambda x: distance(x / n, y / n)
        all_of = [one(distance, n) for distance, n, *_ in WORKED_HYPERBOLIC]
        return [(f(x), jax.grad(lambda x, f=f: f(x).mean())(x)) for f in all_of]

    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, run(A, B))
    for (mat, gradient), (_, _, mean, norm, corner) in zip(found, WORKED_HYPERBOLIC, strict=True):
        np.testing.assert_allclose(mat.mean(), mean, rtol=1e-7)
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-5)
        if corner is not None:
            np.testing.assert_allclose(mat[:2, :2], corner, atol=1e-6)


@jax.jit
def hyperbolic_points(v, c):
    """Points of both models and their distances, with the curvature traced."""
    ball, sheet = poincare_exp0(v, c), lorentz_exp0(2 * v, c)
    return (ball, sheet), (PoincareDistance(c)(ball), LorentzDistance(c)(sheet))


@pytest.mark.slow
def test_both_models_are_one_space():
    with jax.enable_x64(True):
        v = 0.5 * random(6, 4).astype(float)
        for c in 0.3, 2.0:
            (ball, sheet), (ours, theirs) = hyperbolic_points(v, c)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(ours, ours.T, rtol=1e-14)
            n = c**0.5 * np.linalg.norm(v, axis=1, keepdims=True)
            np.testing.assert_allclose(ball, np.tanh(n) / n * v, rtol=1e-12)
            np.testing.assert_allclose(sheet, np.sinh(2 * n) / n * v, rtol=1e-12)
        both = lambda v, c: jax.tree.map(lambda mat: mat[:3, 3:], hyperbolic_points(v, c)[1])
        check_grads(both, (v, 0.7), order=1, modes=["rev"])  # c is learned through a closure


def test_points_of_zero_tiny_and_huge_vectors():
    huge = [[3e38] * 3, [-3e38, 0, 1e30], [1e15, 1, 0]]
    v = np.float32([[0] * 3, [1e-30, 0, 0], [1e-4, 0, 0], *huge])

    @functools.partial(jax.jit, static_argnums=1)
    def run(v, half):
        dtype = jnp.bfloat16 if half else v.dtype
        points = lambda v: (poincare_exp0(v.astype(dtype)), lorentz_exp0(v.astype(dtype)))
        return *points(v), *jax.jacobian(lambda v: jax.tree.map(lambda x: x.sum(0), points(v)))(v)

    ball, sheet, of_ball, of_sheet = map(np.asarray, run(v, False))
    for points, slope, longest in (ball, of_ball, 1), (sheet, of_sheet, 2.0**15):
        assert np.all(np.isfinite(points)) and np.all(np.isfinite(slope))
        np.testing.assert_allclose(points[:3], v[:3], rtol=1e-6)
        np.testing.assert_allclose(slope[:, :3], np.eye(3)[:, None].repeat(3, 1), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(points[3:], axis=1), longest, rtol=1e-5)
    half = run(v, True)
    for points, full in zip(half[:2], (ball, sheet), strict=True):
        assert points.dtype == "float32"
        np.testing.assert_allclose(points, full, rtol=0.01, atol=1e-3 * np.abs(full).max())


BOUNDARY = np.float32([[1, 0, 0], [0, -0.999, 0], [0.6, 0.8, 0], [3, 4, 0]])


def test_rows_at_the_boundary_are_projected():
    distance = HYPERBOLIC[0]
    pair, itself, of_x, of_y = at(distance, BOUNDARY, np.roll(BOUNDARY, 1, 0))
    assert all(np.all(np.isfinite(x)) for x in (pair, itself, of_x, of_y))
    np.testing.assert_allclose(itself, definition(distance, BOUNDARY, BOUNDARY), atol=2e-5)
    assert itself[2, 3] == 0 and itself[3, 2] == 0  # one point of the ball
    radial = np.sum(of_x * BOUNDARY, 1)
    np.testing.assert_allclose(radial, 0, atol=1e-4 * np.abs(of_x).max())


def test_rows_of_one_direction_differ_by_their_length():
    """Even in float32, where |x|^2 + |y|^2 - 2 x.y would be 0 or rounding errors."""
    lengths = np.float32([0.996, 0.998, 10, 1e4, 1e9, 1e15, 3e38])
    x = lengths[:, None] * np.float32([[0.48, 0.6, 0.64]])
    run = jax.jit(lambda x: (HYPERBOLIC[0](x[:2]), HYPERBOLIC[1](x)))
    ball, sheet = run(x)
    np.testing.assert_allclose(ball[0, 1], 0.69415, rtol=1e-3)
    r = np.arcsinh(lengths.astype(float).clip(max=2.0**60))
    np.testing.assert_allclose(sheet, np.abs(r[:, None] - r[None, :]), rtol=1e-4)


def test_gradient_at_the_origin():
    """Unlike where rows are normalized, a zero row is a point like any other."""
    slope = lambda distance: jax.grad(lambda x: distance(x, y).sum())(jnp.zeros((1, 2)))
    y = np.float32([[0.3, 0.4]])
    ball, sheet = jax.jit(lambda: [slope(distance) for distance in HYPERBOLIC])()
    np.testing.assert_allclose(ball, [[-1.2, -1.6]], rtol=1e-5)
    np.testing.assert_allclose(sheet, [[-0.6, -0.8]], rtol=1e-5)


@pytest.mark.slow
@every(HYPERBOLIC)
def test_second_derivatives_at_ties_are_finite(distance):
    x = np.concatenate([EDGES["zero_rows"], EDGES["equal_rows"], EDGES["opposite"]])
    slope = jax.grad(lambda x: jnp.sum(distance(x, jnp.concatenate([x[1:], x[:1]]))))
    first, second = jax.jit(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),)))(x)
    assert np.all(np.isfinite(first)) and np.all(np.isfinite(second))
