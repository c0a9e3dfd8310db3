"""Re-ranking, expansion and whitening against worked numbers and plain dense NumPy."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricjax.distances import CosineSimilarity, LpDistance
from metricjax.evaluation import knn, rerank

RAW = LpDistance(normalize_embeddings=False)
SHARED = {"distance": RAW, "block_size": 37}  # with 60 queries and 240 rows: one set of programs
X = np.array([[1, 0.2], [0.3, 1], [1, 1.1], [-1, 2]], np.float32)
Z = np.array([[2, 1], [1, 2.2], [1, -1], [0.1, 1]], np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def clusters(seed, q, g, count=12):
    """Whole numbers: distances are exact in float32, many are equal, and some rows, too."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(-6, 7, (count, 3))
    x = centers[rng.integers(0, count, q + g)] + rng.integers(-1, 2, (q + g, 3))
    return np.split(x.astype(np.float32), [q])


def dense(query, gallery, k1=20, k2=6, lam=0.3):
    """The definition, with matrices of all rows by all rows, in float64."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    squared = sum((column[:, None] - column[None, :]) ** 2 for column in x.T)
    scaled = squared / squared.max(1, keepdims=True)
    order = np.argsort(squared, 1, kind="stable")

    def reciprocal(k):
        near = np.zeros(scaled.shape, bool)
        np.put_along_axis(near, order[:, : k + 1], True, 1)
        return near & near.T

    first, half = reciprocal(k1), reciprocal(round(k1 / 2))
    members = first.copy()
    for i, j in np.argwhere(first):
        if 3 * np.sum(half[j] & first[i]) > 2 * np.sum(half[j]):
            members[i] |= half[j]
    weights = members * np.exp(-scaled)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-300)
    if k2 > 1:
        weights = np.stack([weights[order[i, :k2]].mean(0) for i in range(len(x))])
    q = len(query)
    common = np.stack([np.minimum(w, weights[q:]).sum(1) for w in weights[:q]])
    return (1 - lam) * (1 - common / (2 - common)) + lam * scaled[:q, q:]


def check_nearest(found, distances):
    """The nearest by a matrix of distances; among equals the lower index first."""
    order = np.argsort(distances, 1, kind="stable")[:, : found.indices.shape[1]]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.distances, np.take_along_axis(distances, order, 1))


# Worked by other code.


def test_worked_distances():
    gallery = np.concatenate([X[2:], Z])
    options = dict(k1=3, k2=2, lam=0.3, distance=RAW)
    expected = [
        [0.218212, 0.801935, 0.534622, 0.632413, 0.44686, 0.354662],
        [0.180841, 0.646399, 0.666915, 0.602772, 0.850888, 0.002673],
    ]
    got = rerank.k_reciprocal_distances(X[:2], gallery, **options)
    np.testing.assert_allclose(got, expected, atol=6e-7)
    check_nearest(rerank.k_reciprocal(X[:2], gallery, 6, **options), np.asarray(got))


def test_worked_expansion():
    got = rerank.expand_queries(X[:1], Z, n=2, alpha=3.0)
    np.testing.assert_allclose(got, [[0.922781, 0.385325]], atol=6e-7)
    got = rerank.augment(Z, n=1, alpha=3.0)[0]
    np.testing.assert_allclose(got, [0.779579, 0.626304], atol=6e-7)


def test_worked_whitening():
    rows = rerank.fit_whitening(np.concatenate([X, Z]))(X)
    np.testing.assert_allclose(rows[0] @ rows.T, [1, -0.300593, -0.180544, -0.672133], atol=6e-7)


# k-reciprocal distances.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k2": 1},
        {"k1": 7, "k2": 21, "lam": 0.0},  # k2 is more than k1 + 1; 3.5 is rounded to 4
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in ({"k1": 1, "k2": 2}, {"k1": 5, "lam": 0.1}, {"k1": 100, "k2": 400})
        ),
    ],
    ids=str,
)
def test_equals_the_dense_definition(options):
    query, gallery = clusters(1, 60, 240)
    assert len(np.unique(gallery, axis=0)) < 200  # duplicates
    expected = dense(query, gallery, **options)
    got = np.asarray(rerank.k_reciprocal_distances(query, gallery, **options, **SHARED))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    check_nearest(rerank.k_reciprocal(query, gallery, 15, **options, **SHARED), got)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_dense_definition_for_many_clusters(seed):
    rng = np.random.default_rng(seed)
    query, gallery = clusters(seed, 60, 240, count=int(rng.integers(2, 40)))
    options = {"k1": int(rng.integers(1, 30)), "k2": int(rng.integers(1, 10)), "lam": 0.25}
    got = rerank.k_reciprocal_distances(query, gallery, distance=RAW, **options)
    np.testing.assert_allclose(got, dense(query, gallery, **options), atol=2e-6)


def test_small_parts_give_the_same(monkeypatch):
    query, gallery = clusters(2, 60, 240)
    expected = rerank.k_reciprocal_distances(query, gallery, **SHARED)
    # NumPy works on one row, and on 500 pairs, at once
    monkeypatch.setattr(rerank._lists, "AT_ONCE", 500)
    got = rerank.k_reciprocal_distances(query, gallery, **SHARED)
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_rows_are_normalized_by_default():
    query, gallery = normal(60, 3) + 1, normal(240, 3)
    got = rerank.k_reciprocal_distances(3 * query, 2 * gallery)
    np.testing.assert_allclose(got, dense(unit(query), unit(gallery)), atol=2e-6)


def test_limits_of_lam():
    query, gallery = clusters(1, 60, 240)
    # with 1 the order is that of the distance
    found = rerank.k_reciprocal(query, gallery, 15, lam=1.0, **SHARED)
    np.testing.assert_array_equal(found.indices, knn(query, gallery, 15, distance=RAW).indices)
    # with 0 rows that share no neighbor are all at distance 1
    got = rerank.k_reciprocal_distances(query, gallery, lam=0.0, **SHARED)
    assert np.mean(np.asarray(got) == 1) > 0.3


@pytest.mark.parametrize("k2", [1, 6])
def test_equal_rows(k2):
    x = np.ones((300, 3), np.float32)
    got = rerank.k_reciprocal_distances(x[:60], x[60:], k2=k2, **SHARED)
    # the nearest of each row are rows 0 to 20, and only these have reciprocal neighbors
    np.testing.assert_allclose(got, np.full((60, 240), 0.7 if k2 == 1 else 0.0), atol=1e-6)
    found = rerank.k_reciprocal(x[:60], x[60:], 15, k2=k2, **SHARED)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(15), (60, 1)))


def test_few_rows():
    expected = dense(unit(X), unit(Z))  # k1 is more than all rows
    np.testing.assert_allclose(rerank.k_reciprocal_distances(X, Z), expected, atol=1e-6)
    assert rerank.k_reciprocal(X[:0], Z, 2).indices.shape == (0, 2)


@pytest.mark.slow
def test_one_row_or_none():
    got = rerank.k_reciprocal(X[:1], Z[:1], 1)
    assert got.indices.tolist() == [[0]] and np.isfinite(got.distances).all()
    assert rerank.k_reciprocal_distances(X[:2], Z[:0]).shape == (2, 0)


@pytest.mark.slow
def test_half_precision_and_mixed_dtypes():
    query, gallery = clusters(1, 60, 240)
    expected = rerank.k_reciprocal_distances(query, gallery, distance=RAW)
    for q, g in (query, jnp.bfloat16(gallery)), (jnp.bfloat16(query), jnp.bfloat16(gallery)):
        got = rerank.k_reciprocal_distances(q, g, distance=RAW)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_it_finds_what_the_distance_alone_misses():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10  # classes are long: their ends are near to other classes
    centers, directions = rng.normal(size=(2, 10, 3))
    x = centers[labels] + rng.uniform(-1, 1, (300, 1)) * directions[labels]
    query, gallery = np.split((x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), [60])

    def share(found):
        return np.mean(labels[60:][np.asarray(found.indices)] == labels[:60, None])

    plain = share(knn(query, gallery, 15, distance=RAW))
    assert share(rerank.k_reciprocal(query, gallery, 15, **SHARED)) > plain + 0.03


@pytest.mark.slow
def test_no_matrix_of_all_rows(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(250, 16))[rng.integers(0, 250, 3000)] + 0.4 * rng.normal(size=(3000, 16))
    query, gallery = x[:100].astype(np.float32), x[100:].astype(np.float32)
    run = lambda: rerank.k_reciprocal(query, gallery, 10, block_size=64)
    found = run()
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3000**2 * 4  # one matrix in float32
    against, counts = rerank._k_reciprocal._against_all, []

    def seen(x, start, columns, **how):  # what XLA holds, `tracemalloc` does not see
        counts.append(len(columns))
        return against(x, start, columns, **how)

    monkeypatch.setattr(rerank._k_reciprocal, "_against_all", seen)
    run()
    assert counts and max(counts) <= 64
    expected = dense(unit(query), unit(gallery))
    np.testing.assert_allclose(found.distances, np.sort(expected, 1)[:, :10], atol=5e-6)


# Expansion.


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expansion_equals_the_definition(alpha):
    query, gallery = normal(9, 5), normal(30, 5) - 0.5
    q, g = unit(query.astype(np.float64)), unit(gallery.astype(np.float64))
    cosines = q @ g.T
    expected = q.copy()
    for i in range(len(q)):
        for j in np.argsort(-cosines[i], kind="stable")[:12]:
            if cosines[i, j] > 0:
                expected[i] += cosines[i, j] ** alpha * g[j]
    assert (np.sort(cosines, 1)[:, -12] < 0).any()  # some of the 12 add nothing
    got = rerank.expand_queries(query, gallery, n=12, alpha=alpha)
    np.testing.assert_allclose(got, unit(expected), atol=1e-6)


@pytest.mark.slow
def test_expansion_under_jit():
    query, gallery = normal(9, 5), normal(30, 5)
    got = jax.jit(lambda x, y: rerank.expand_queries(x, y, n=12))(query, gallery)
    np.testing.assert_allclose(got, rerank.expand_queries(query, gallery, n=12), atol=1e-6)
    assert jax.jit(lambda x: rerank.augment(x, n=12))(gallery).shape == (30, 5)


def test_a_row_is_not_among_its_own_neighbors():
    rows = np.array([[1, 0], [0, 1], [1, 0]], np.float32)  # its duplicate is
    np.testing.assert_allclose(rerank.augment(rows, n=2), rows, atol=1e-7)
    alone = np.array([[1, 0.1], [1, -0.1], [-1, 0]], np.float32)
    got = rerank.augment(alone, n=2)
    np.testing.assert_allclose(got[2], alone[2], atol=1e-7)  # the others are behind it
    cosine = (1 - 0.1**2) / (1 + 0.1**2)
    np.testing.assert_allclose(got[0], unit(alone[:1] + cosine**3 * alone[1:2])[0], atol=1e-6)


def test_a_zero_row_stays_zero():
    rows = np.array([[0, 0], [1, 0], [1, 0]], np.float32)
    np.testing.assert_array_equal(rerank.augment(rows, n=2), rows)


# Whitening.


def test_whitened_features_are_uncorrelated_with_equal_variance():
    x = normal(500, 6) @ normal(6, 6) + 3
    mean, matrix = map(np.asarray, rerank.fit_whitening(x, 4))
    z = (x - mean) @ matrix
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(4), atol=1e-4)
    rotation = np.asarray(rerank.fit_whitening(x, 4, power=0).matrix)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(4), atol=1e-6)
    variances = np.var((x - mean) @ rotation, axis=0)
    assert (np.diff(variances) < 0).all()  # the largest first
    softened = np.asarray(rerank.fit_whitening(x, 4, eps=0.5).matrix)
    np.testing.assert_allclose(
        np.var((x - mean) @ softened, axis=0), variances / (variances + 0.5), rtol=1e-4
    )


def test_a_mean_far_away_loses_no_digits():
    x = normal(200, 3)
    near, far = rerank.fit_whitening(x), rerank.fit_whitening(x.astype(np.float64) + 1e4)
    products = lambda w: np.asarray(w.matrix) @ np.asarray(w.matrix).T
    np.testing.assert_allclose(products(far), products(near), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_whitening_of_half_precision(dtype):
    x = jnp.asarray(normal(50, 4), dtype)
    rows = jax.jit(lambda w, x: w(x))(rerank.fit_whitening(x), x)
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_rows_in_too_few_directions():
    x = normal(40, 5)
    x[:, 4] = x[:, 0] + x[:, 1]  # rounded to float32
    with pytest.raises(ValueError, match="must vary in `dims` = 5 .* got 40 rows that vary in 4"):
        rerank.fit_whitening(x)
    for whiten in (
        rerank.fit_whitening(x, 4),
        rerank.fit_whitening(x, eps=1e-6),
        rerank.fit_whitening(x, power=0),
        rerank.fit_whitening(x[:1], eps=0.1),
    ):
        assert np.isfinite(whiten(x)).all()


# Mistakes.

BAD = np.where(np.arange(4)[:, None] == 2, np.nan, X)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(X[0], Z), ValueError, r"`query` must have shape \[N, D\], got \(2,\)"),
        (lambda f: f(X, Z[0]), ValueError, "`gallery` must have shape"),
        (lambda f: f(X, Z[:, :1]), ValueError, r"`gallery` must have 2 features .* got \(4, 1\)"),
        (lambda f: f(X.astype(int), Z), TypeError, "`query` must be floating, got int"),
        (lambda f: f(X, Z, k1=0), ValueError, "`k1` must be an integer >= 1, got 0"),
        (lambda f: f(X, Z, k2=1.5), ValueError, "`k2` must be an integer >= 1, got 1.5"),
        (lambda f: f(X, Z, lam=1.1), ValueError, "`lam` must be a number from 0 to 1, got 1.1"),
        (lambda f: f(X, Z, lam="a"), ValueError, "`lam` must be a number from 0 to 1, got 'a'"),
        (lambda f: f(X, Z, block_size=0), ValueError, "`block_size` must be an integer >= 1"),
        (lambda f: f(X, Z, distance="l2"), TypeError, "`distance` must be a distance .* 'l2'"),
        (
            lambda f: f(X, Z, distance=CosineSimilarity()),
            TypeError,
            r"`distance` must be a distance, got CosineSimilarity.*Use LpDistance\(\)",
        ),
        (
            lambda f: f(X, Z, distance=LpDistance(power=2)),
            ValueError,
            "`distance` must have power=1",
        ),
        (lambda f: jax.jit(f)(X, Z), TypeError, "`query` must have known values, got .* `jit`"),
        (lambda f: f(BAD, Z), ValueError, "distances of `query` and `gallery` must be finite"),
        (lambda f: f(X, BAD), ValueError, "distances of `query` and `gallery` must be finite"),
        pytest.param(
            lambda f: f(1e30 * X, Z, distance=RAW),
            ValueError,
            "distances of `query` and `gallery` must be finite",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes_of_k_reciprocal(call, error, message):
    for name, fn in (
        ("k_reciprocal", lambda *args, **options: rerank.k_reciprocal(*args, 2, **options)),
        ("k_reciprocal_distances", rerank.k_reciprocal_distances),
    ):
        with pytest.raises(error, match=rf"^evaluation\.rerank\.{name}: {message}") as caught:
            call(fn)
        assert len(str(caught.value)) <= 400


WHITEN = rerank.Whitening(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rerank.k_reciprocal(X, Z, 5), ValueError, "k_reciprocal: `k` must be at most 4"),
        (lambda: rerank.k_reciprocal(X, Z, 0), ValueError, "`k` must be an integer >= 1, got 0"),
        (
            lambda: rerank.expand_queries(X, Z, n=5),
            ValueError,
            "expand_queries: `n` must be at most 4, the number of rows of `gallery`, got 5",
        ),
        (
            lambda: rerank.expand_queries(X, Z[:, :1], n=1),
            ValueError,
            "expand_queries: `gallery` must have 2 features",
        ),
        (
            lambda: rerank.augment(Z, n=4),
            ValueError,
            "augment: `n` must be at most 3, the number of other rows of `gallery`, got 4",
        ),
        (lambda: rerank.augment(Z[0], n=1), ValueError, "augment: `gallery` must have shape"),
        (
            lambda: rerank.augment(Z, n=1, alpha=-1.0),
            ValueError,
            "`alpha` must be a number at least 0 and finite, got -1.0",
        ),
        (lambda: rerank.fit_whitening(X, 3), ValueError, "`dims` must be at most 2, .* got 3"),
        (lambda: rerank.fit_whitening(X, 0), ValueError, "`dims` must be an integer >= 1, got 0"),
        (lambda: rerank.fit_whitening(X, eps=-1.0), ValueError, "`eps` must be a number at least"),
        (
            lambda: rerank.fit_whitening(X, power=np.inf),
            ValueError,
            "`power` must be a number at least 0 and finite, got inf",
        ),
        (lambda: rerank.fit_whitening(BAD), ValueError, "fit_whitening: `x` must be finite"),
        (lambda: rerank.fit_whitening(X[:0]), ValueError, "`x` must have at least one row"),
        (
            lambda: rerank.fit_whitening(X[:2]),
            ValueError,
            "`x` must vary in `dims` = 2 directions, got 2 rows that vary in 1. Give more",
        ),
        (
            lambda: jax.jit(rerank.fit_whitening)(X),
            TypeError,
            "fit_whitening: `x` must have known values, got",
        ),
        (lambda: WHITEN(X[:, :1]), ValueError, "Whitening: `x` must have 2 features"),
        (lambda: WHITEN(X[0]), ValueError, r"Whitening: `x` must have shape \[N, D\]"),
    ],
)
def test_mistakes_name_function_argument_and_remedy(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith("evaluation.rerank.") and len(str(caught.value)) <= 400
