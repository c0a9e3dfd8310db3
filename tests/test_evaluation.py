"""Nearest neighbors and retrieval metrics against worked examples and plain numpy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding

from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance
from metricjax.evaluation import knn, retrieval_metrics

EUCLIDEAN = LpDistance(normalize_embeddings=False)
NAMES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


def column(*values):
    return jnp.array(np.array(values)[:, None], jnp.float32)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def check(scores, *expected):
    assert set(scores) == set(NAMES)
    got = [float(scores[name]) for name in NAMES]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def loop_scores(query, query_labels, reference, reference_labels, ref_includes_query, k):
    """The definitions, one query and one neighbor at a time."""
    scores = []
    for i, (x, label) in enumerate(zip(query, query_labels, strict=True)):
        distances = np.sum((x - reference) ** 2, -1)
        if ref_includes_query:
            distances[i] = np.inf
        order = np.argsort(distances, kind="stable")[: len(reference) - ref_includes_query]
        r = sum(reference_labels[order] == label)
        if r == 0:
            continue
        matches = reference_labels[order[:k]] == label
        found, precisions = 0, 0
        for rank, match in enumerate(matches[:r], start=1):
            found += match
            precisions += match * found / rank
        scores.append((matches[0], found / len(matches[:r]), precisions / r))
    return np.mean(scores, 0) if scores else [np.nan] * 3


# Worked by hand: five points on a line, the matches of each point's neighbors written out.

A = column(0, 1, 3, 7, 12), jnp.array([0, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (None, (0.4, 0.2, 0.2)),
        (1, (0.4, 0.4, 0.2)),
        (2, (0.4, 0.2, 0.2)),
        pytest.param(3, (0.4, 0.2, 0.2), marks=pytest.mark.slow),
        (4, (0.4, 0.2, 0.2)),
    ],
)
def test_self_search(k, expected):
    check(retrieval_metrics(*A, k=k, distance=EUCLIDEAN), *expected)


@pytest.mark.parametrize(
    ("labels", "k", "expected"),
    [
        ((0, 1), None, (0.5, 0.583333, 0.444444)),
        ((0, 1), 1, (0.5, 0.5, 0.25)),
        ((0, 1), 2, (0.5, 0.5, 0.333333)),
        ((0, 1), 3, (0.5, 0.583333, 0.444444)),
        ((0, 9), None, (0, 0.666667, 0.388889)),  # no reference has label 9
        ((8, 9), None, (np.nan, np.nan, np.nan)),
        ((8, 9), 2, (np.nan, np.nan, np.nan)),
    ],
)
def test_separate_references(labels, k, expected):
    reference = column(1, 2, 3, 9, 12), jnp.array([1, 0, 0, 1, 0])
    scores = retrieval_metrics(
        column(0, 10), jnp.array(labels), *reference, k=k, distance=EUCLIDEAN
    )
    check(scores, *expected)


def test_queries_among_the_references():
    reference = (
        jnp.concatenate([A[0], column(2.4, 6.3)]),
        jnp.concatenate([A[1], jnp.array([1, 0])]),
    )
    scores = retrieval_metrics(*A, *reference, ref_includes_query=True, distance=EUCLIDEAN)
    check(scores, 0.8, 0.3, 0.3)
    check(retrieval_metrics(*A, *reference, distance=EUCLIDEAN), 1.0, 0.5, 0.5)


def test_duplicates_of_a_query_stay_its_neighbors():
    scores = retrieval_metrics(column(10, 10, 20, 20), jnp.array([1, 0, 1, 0]), distance=EUCLIDEAN)
    check(scores, 0, 0, 0)


# Random settings.


@pytest.mark.parametrize("mode", ["self", "separate", "inside"])
@pytest.mark.parametrize(
    ("q", "m", "k"),
    [
        (25, 30, None),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in ((25, 30, 4), (31, 9, None))),
    ],
)
def test_equals_the_definition(mode, q, m, k):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        query = rng.integers(-3, 4, (q, 2)).astype(np.float32)  # whole numbers: many exact ties
        reference = rng.integers(-3, 4, (m, 2)).astype(np.float32)
        labels = rng.permutation(np.arange(q) ** 2 // 64)  # small, large and lone classes
        reference_labels = rng.permutation(np.arange(m) ** 2 // 64)
        if mode == "self":
            reference, reference_labels = query, labels
        elif mode == "inside":
            reference = np.concatenate([query, reference])
            reference_labels = np.concatenate([labels, reference_labels])
        scores = retrieval_metrics(
            query,
            labels,
            *(() if mode == "self" else (reference, reference_labels)),
            ref_includes_query=mode == "inside",
            k=k,
            distance=EUCLIDEAN,
            block_size=7,
        )
        expected = loop_scores(query, labels, reference, reference_labels, mode != "separate", k)
        check(scores, *expected)


@pytest.mark.parametrize(
    "distance",
    [LpDistance(), pytest.param(LpDistance(p=1), marks=pytest.mark.slow), CosineSimilarity()],
)
def test_knn_sorts_by_the_distance(distance):
    query, reference = normal(2, 30, 4)
    distances, indices = knn(query, reference, 7, distance=distance, block_size=8)
    mat = np.array(jax.jit(distance)(query, reference))
    order = np.argsort(-mat if distance.is_similarity else mat, 1, kind="stable")[:, :7]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(distances, np.take_along_axis(mat, order, 1), atol=1e-6)


@pytest.mark.parametrize(
    "block_size", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 1000))]
)
def test_block_size_does_not_matter(block_size):
    x = normal(32, 4)
    labels = np.arange(32) % 5
    _, indices = knn(x, x, 6, self_index=np.arange(32), block_size=block_size)
    _, expected = knn(x, x, 6, self_index=np.arange(32), block_size=32)
    np.testing.assert_array_equal(indices, expected)
    scores = retrieval_metrics(x, labels, block_size=block_size)
    check(scores, *(retrieval_metrics(x, labels)[name] for name in NAMES))


@pytest.mark.slow
@pytest.mark.optimized
def test_all_distances_are_never_held_at_once():
    x, labels = jnp.ones((4096, 2)), jnp.arange(4096) % 2048

    def scratch(block_size):
        fn = jax.jit(lambda x: retrieval_metrics(x, labels, k=1, block_size=block_size))
        return fn.lower(x).compile().memory_analysis().temp_size_in_bytes

    assert scratch(64) < scratch(4096) / 8


@pytest.mark.optimized
def test_references_come_in_blocks():
    x = jax.ShapeDtypeStruct((2**20, 2), jnp.float32)
    run = jax.jit(lambda x: knn(x[:256], x, 10, distance=EUCLIDEAN))
    scratch = run.lower(x).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 4 * 256 * 65536 * 4  # four arrays of a block, where one of all is sixteen


def by_argsort(mat, k, *, is_similarity, own, where):
    """Nearest first, by a stable sort of whole rows."""
    score = np.where(np.isnan(mat), np.inf, -mat if is_similarity else mat)
    score = np.minimum(score, np.finfo(np.float32).max)
    score[(own[:, None] == np.arange(mat.shape[1])) | ~where] = np.inf
    order = np.argsort(score, 1, kind="stable")[:, :k]
    return np.where(np.isinf(np.take_along_axis(score, order, 1)), -1, order)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from([EUCLIDEAN, DotProductSimilarity(normalize_embeddings=False)]),
    st.sampled_from([1, 5]),
    st.sampled_from([16, 100, 1000]),
    st.booleans(),
    st.booleans(),
)
def test_blocks_and_groups_equal_a_stable_sort(seed, distance, k, size, own, some):
    rng = np.random.default_rng(seed)
    reference = rng.integers(-2, 3, (230, 3)).astype(np.float32)  # many exact ties
    if seed % 3 == 0:
        reference = np.sort(reference, 0)
    query = reference[:20]
    where = (rng.random(230) < 0.5) | (not some)
    self_index = np.arange(20) if own else np.arange(20) + 230
    _, indices = knn(
        query, reference, k, distance=distance, self_index=self_index, where=where,
        block_size=7, ref_block_size=size,
    )  # fmt: skip
    mat = np.array(distance(query, reference))
    options = {"is_similarity": distance.is_similarity, "own": self_index, "where": where}
    np.testing.assert_array_equal(indices, by_argsort(mat, k, **options))


def test_blocks_of_references_keep_numbers_that_are_not_there():
    x = jnp.array([[1.0, 0.0]])
    reference = normal(10, 2)
    reference[[0, 7]] = np.nan
    for distance in (EUCLIDEAN, CosineSimilarity()):
        distances, indices = knn(x, reference, 10, distance=distance)
        assert np.isnan(distances[0]).tolist() == [False] * 8 + [True] * 2
        assert indices[0, 8:].tolist() == [0, 7]
    # k is 2, so that blocks hold 8 references: the second has fewer than 2 that exist
    where = np.arange(10) == 9
    distances, indices = knn(x, reference, 2, where=where, distance=EUCLIDEAN, ref_block_size=1)
    assert indices.tolist() == [[9, -1]] and distances[0, 1] == jnp.inf


@pytest.mark.parametrize(
    "distance",
    [LpDistance(), pytest.param(LpDistance(p=1), marks=pytest.mark.slow), SNRDistance()],
)
def test_normalizing_once_is_the_same(distance):
    class Other(type(distance)):  # unknown to the search, which leaves it to normalize
        pass

    query, reference = normal(2, 20, 4)
    values, indices = knn(query, reference, 5, distance=distance)
    expected = knn(query, reference, 5, distance=Other(**vars(distance)))
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(values, expected.distances, rtol=1e-6)


def test_approximate_search_finds_most():
    x = normal(200, 4)
    exact = knn(x, x, 10, self_index=np.arange(200)).indices
    approximate = knn(x, x, 10, self_index=np.arange(200), approx=True).indices
    assert np.mean([np.isin(a, e).mean() for a, e in zip(approximate, exact, strict=True)]) > 0.8


def test_vmap():
    x = normal(3, 12, 4)
    search = jax.jit(lambda x: knn(x, x, 2, self_index=np.arange(12)).indices)
    indices = np.asarray(jax.vmap(search)(x))
    for i in range(3):
        np.testing.assert_array_equal(indices[i], search(x[i]))


# Several devices.


def sharded(kind, x, spec):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    return jax.device_put(x, NamedSharding(mesh, spec))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    "sides", [*(pytest.param(s, marks=pytest.mark.slow) for s in ("reference", "query")), "both"]
)
def test_sharded_search_equals_one_device(sides, kind, compiled):
    rng = np.random.default_rng(0)
    reference = rng.integers(-2, 3, (64, 3)).astype(np.float32)
    query, own, where = reference[:32], np.arange(32), rng.random(64) < 0.7
    search = functools.partial(knn, k=9, distance=EUCLIDEAN, block_size=5, ref_block_size=1)
    expected = search(query, reference, self_index=own, where=where)
    x = query if sides == "reference" else sharded(kind, query, jax.P("data"))
    y = reference if sides == "query" else sharded(kind, reference, jax.P("data"))
    run = lambda x, y: search(x, y, self_index=own, where=where)
    found = (jax.jit(run) if compiled else run)(x, y)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize(
    "kind", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit]
)
def test_sharded_metrics_equal_one_device(kind):
    x, y = normal(64, 3), np.arange(64) % 9
    expected = retrieval_metrics(x, y)
    both = sharded(kind, x, jax.P("data")), sharded(kind, y, jax.P("data"))
    check(retrieval_metrics(*both), *(expected[name] for name in NAMES))


@pytest.mark.optimized
def test_devices_search_only_their_own_references():
    reference = sharded(AxisType.Explicit, jnp.ones((8 * 512, 4)), jax.P("data"))
    run = jax.jit(lambda y: knn(jnp.ones((4, 4)), y, 1))
    text = run.lower(reference).compile().as_text()
    assert "f32[4,512]" in text and "f32[4096,4]" not in text


# Order, left-out references, and numbers that are not there.


def test_ties_go_to_the_lower_index():
    x = jnp.array([[1.0, 0.0]])
    reference = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    for distance in (LpDistance(), CosineSimilarity()):
        _, indices = knn(x, reference, 4, distance=distance)
        assert indices.tolist() == [[1, 3, 0, 2]]
    zeros = jnp.array([[0.0, -1.0], [0.0, 1.0]])  # cosines -0 and +0 are equal
    assert knn(x, zeros, 2, distance=CosineSimilarity())[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("distance", [EUCLIDEAN, CosineSimilarity()])
def test_nan_ranks_last_and_stays_visible(distance):
    reference = jnp.array([[jnp.nan, 0.0], [-1.0, 0.5], [1.0, 0.5]])
    distances, indices = knn(jnp.array([[1.0, 0.0]]), reference, 3, distance=distance)
    assert indices.tolist() == [[2, 1, 0]]
    assert np.isnan(distances).tolist() == [[False, False, True]]


def test_nan_queries_match_nothing():
    x, labels = jnp.ones((4, 2)), jnp.zeros(4, jnp.int32)
    check(retrieval_metrics(x, labels), 1, 1, 1)
    check(retrieval_metrics(x.at[0].set(jnp.nan), labels), 0.75, 0.5, 0.5)
    check(retrieval_metrics(x * jnp.nan, labels), 0, 0, 0)


def test_self_index_leaves_one_reference_out():
    x = column(0, 1, 2)
    _, indices = knn(x, x, 2, self_index=jnp.array([2, -1, 3]), distance=EUCLIDEAN)
    assert indices.tolist() == [[0, 1], [1, 0], [2, 1]]


def test_where_leaves_references_out():
    x, reference = column(0), column(3, 1, 2)
    where = jnp.array([True, False, True])
    distances, indices = knn(x, reference, 3, where=where, distance=EUCLIDEAN)
    assert indices.tolist() == [[2, 0, -1]]
    assert distances.tolist() == [[2, 3, np.inf]]
    similarities, _ = knn(x, reference, 3, where=where, distance=CosineSimilarity())
    assert similarities[0, 2] == -np.inf


@pytest.mark.parametrize("queries", [0, 1])
def test_no_neighbors_at_all(queries):
    scores = retrieval_metrics(jnp.ones((queries, 2)), jnp.zeros(queries, jnp.int32))
    check(scores, np.nan, np.nan, np.nan)


def test_large_labels_do_not_collide():
    labels = jnp.array([2**24, 2**24 + 1, 2**24 + 1, 2**24])
    check(retrieval_metrics(column(0, 1, 10, 11), labels, distance=EUCLIDEAN), 0, 0, 0)


# Transformations, types, errors.


def test_inside_jit():
    compiled = jax.jit(lambda x, y: retrieval_metrics(x, y, k=2, distance=EUCLIDEAN))
    check(compiled(*A), 0.4, 0.2, 0.2)
    known_labels = jax.jit(lambda x: retrieval_metrics(x, np.array(A[1]), distance=EUCLIDEAN))
    check(known_labels(A[0]), 0.4, 0.2, 0.2)
    x = A[0]
    _, indices = jax.jit(lambda x: knn(x, x, 2, distance=EUCLIDEAN))(x)
    np.testing.assert_array_equal(indices, knn(x, x, 2, distance=EUCLIDEAN)[1])


def test_compiles_once_per_shape():
    # Read under jit, so that a second trace of the search would be seen.
    traces = []

    class Counting(CosineSimilarity):
        def __call__(self, x, y=None):
            traces.append(x.shape)
            return super().__call__(x, y)

    counting = Counting()
    for seed in range(3):
        x = jax.random.normal(jax.random.key(seed), (8, 3))
        retrieval_metrics(x, jnp.arange(8) % 2, distance=counting)
        if seed == 0:
            first = len(traces)
    assert len(traces) == first


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow), jnp.float32]
)
def test_low_precision(dtype):
    check(retrieval_metrics(A[0].astype(dtype), A[1], distance=EUCLIDEAN), 0.4, 0.2, 0.2)


X, Y = jnp.ones((3, 2)), jnp.zeros(3, jnp.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: knn(X[0], X, 1), ValueError, r"knn: `query` must have shape .* got \(2,\)"),
        (lambda: knn(X, X[0], 1), ValueError, "knn: `reference` must have shape"),
        (lambda: knn(X, X[:, :1], 1), ValueError, r"must have 2 features .* got \(3, 1\)"),
        (lambda: knn(Y[:, None], X, 1), TypeError, "`query` must be floating, got int32"),
        (lambda: knn(X, X, 0), ValueError, "`k` must be a whole number of at least 1, got 0"),
        (lambda: knn(X, X, 1.5), ValueError, "`k` must be a whole number of at least 1, got 1.5"),
        (lambda: knn(X, X, 4), ValueError, "`k` must be at most 3, .* got 4"),
        (lambda: knn(X, X, 3, self_index=Y), ValueError, "`k` must be at most 2, .* got 3"),
        (lambda: knn(X, X, 1, self_index=Y[:2]), ValueError, "`self_index` must have shape"),
        (lambda: knn(X, X, 1, where=Y[:2]), ValueError, "`where` must have shape"),
        (lambda: knn(X, X, 1, block_size=0), ValueError, "`block_size` must be a whole number"),
        (lambda: retrieval_metrics(X, Y[:2]), ValueError, r"`query_labels` must have shape \[3\]"),
        (lambda: retrieval_metrics(X, Y[:, None]), ValueError, r"got \(3, 1\)"),
        (lambda: retrieval_metrics(X, Y > 0), TypeError, "`query_labels` must be integer"),
        (lambda: retrieval_metrics(X, Y, X), ValueError, "both `reference` and `reference_labels`"),
        (lambda: retrieval_metrics(X, Y, X, Y[:2]), ValueError, "`reference_labels` must have"),
        (
            lambda: retrieval_metrics(X, Y, X[:2], Y[:2], ref_includes_query=True),
            ValueError,
            "`reference` must start with the 3 queries",
        ),
        (lambda: retrieval_metrics(X, Y, k=3), ValueError, "`k` must be at most 2, .* got 3"),
        (
            lambda: jax.jit(retrieval_metrics)(X, Y),
            ValueError,
            "retrieval_metrics: `k` must be given under `jit`",
        ),
    ],
)
def test_errors_name_function_argument_and_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()
