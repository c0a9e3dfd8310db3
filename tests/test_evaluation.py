"""Nearest neighbors and retrieval metrics against worked examples and plain numpy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from sklearn.metrics import ndcg_score

from metricjax import evaluation, relations
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance
from metricjax.evaluation import (
    AccuracyCalculator,
    evaluate_within_parents,
    knn,
    mean_over_queries,
    ndcg_at_k,
    retrieval_metrics,
)

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


def test_an_infinite_distance_comes_before_a_nan_and_0_is_not_negative():
    x, y = np.zeros((1, 1), np.float32), np.float32([[np.nan], [1e30], [0], [2]])
    found = knn(x, y, 4, distance=LpDistance(normalize_embeddings=False))
    assert found.indices.tolist() == [[2, 3, 1, 0]]
    np.testing.assert_array_equal(found.distances, np.float32([[0, 2, np.inf, np.nan]]))
    assert not np.signbit(found.distances[0, 0])


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
        (lambda: knn(X, X, 0), ValueError, "`k` must be an integer >= 1, got 0"),
        (lambda: knn(X, X, 1.5), ValueError, "`k` must be an integer >= 1, got 1.5"),
        (lambda: knn(X, X, 4), ValueError, "`k` must be at most 3, .* got 4"),
        (lambda: knn(X, X, 3, self_index=Y), ValueError, "`k` must be at most 2, .* got 3"),
        (lambda: knn(X, X, 1, self_index=Y[:2]), ValueError, "`self_index` must have shape"),
        (lambda: knn(X, X, 1, where=Y[:2]), ValueError, "`where` must have shape"),
        (lambda: knn(X, X, 1, block_size=0), ValueError, "`block_size` must be an integer >= 1"),
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
        (lambda: knn(X, X, 1, distance=LpDistance), TypeError, "got the class LpDistance"),
        (lambda: retrieval_metrics(X, Y, distance="l2"), TypeError, "`distance` must .* got 'l2'"),
        (lambda: evaluation.ami(X, Y, distance="l2"), TypeError, "k_means: `distance` must be a"),
        (
            lambda: AccuracyCalculator(distance=LpDistance),
            TypeError,
            r"LpDistance\(\), got the class",
        ),
        (lambda: AccuracyCalculator(match="overlap"), TypeError, "`match` must be a function"),
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


# One space for training, search and every metric.


@pytest.mark.slow
def test_every_metric_is_of_the_space_that_losses_train():
    x, y = normal(20, 3), np.arange(20) % 4
    stretched = x * np.random.default_rng(1).uniform(0.01, 100, (20, 1)).astype(np.float32)
    calculator = AccuracyCalculator(k=5)
    assert calculator.distance == LpDistance()
    scores = calculator.get_accuracy(stretched, y)
    assert dict(scores) == pytest.approx(calculator.get_accuracy(x, y))
    assert {name: scores[name] for name in NAMES} == pytest.approx(
        {name: float(value) for name, value in retrieval_metrics(stretched, y, k=5).items()}
    )
    assert scores["AMI"] == evaluation.ami(x, y) == evaluation.ami(stretched, y)
    assert scores["NMI"] == evaluation.nmi(x, y) == evaluation.nmi(stretched, y)
    plain = AccuracyCalculator(k=5, distance=EUCLIDEAN).get_accuracy(stretched, y)
    assert plain["AMI"] == evaluation.ami(stretched, y, distance=EUCLIDEAN) != scores["AMI"]
    assert plain["mean_reciprocal_rank"] != scores["mean_reciprocal_rank"]


# A value of a query depends on no other query.


def hits(inputs):
    return jnp.sum(inputs.matches, 1) / inputs.k.astype(jnp.float32)


def reach(inputs):
    return jnp.max(jnp.where(jnp.isinf(inputs.distances), 0, inputs.distances), 1)


@pytest.mark.filterwarnings("ignore:.*is less than")
@pytest.mark.parametrize(
    "k", [None, *(pytest.param(k, marks=pytest.mark.slow) for k in (5, "max_bin_count"))]
)
def test_a_parent_is_evaluated_as_if_alone(k):
    parents = np.array([0] * 4 + [1] * 12)
    x, labels = normal(16, 3), np.stack([np.arange(16) % 2, parents], 1)
    cuts = ("precision_at_3",) if k == "max_bin_count" else ("precision_at_5", "ndcg_at_5")
    names = (*cuts, "recall_at_1", "precision_at_k", "ndcg_at_k", "recall_at_k", "hits", "reach")
    names = names if k != "max_bin_count" else names[1:]
    calculator = AccuracyCalculator(names, k=k, metrics={"hits": hits, "reach": reach})
    found = evaluate_within_parents(calculator, {"test": (x, labels)})["test"]["test"]
    for parent in (0, 1):
        rows = parents == parent
        alone = calculator.get_accuracy(x[rows], labels[rows, 0])
        assert dict(found[parent]) == pytest.approx(dict(alone))
        assert found[parent].k == alone.k
    assert found[0].k == {None: 3, 5: 3, "max_bin_count": 1}[k]


def test_precision_at_k_is_divided_by_k():
    x, y = np.eye(4, dtype=np.float32), np.zeros(4, int)
    scores = AccuracyCalculator(("precision_at_8", "precision_at_k")).get_accuracy(x, y)
    assert scores == pytest.approx({"precision_at_8": 3 / 8, "precision_at_k": 1})
    labels = np.stack([np.arange(16) % 2, [0] * 4 + [1] * 12], 1)
    calculator = AccuracyCalculator(("recall_at_3",), k="max_bin_count")
    with pytest.raises(ValueError, match="`k` must be at least 3 for recall_at_3, got 1"):
        evaluate_within_parents(calculator, {"test": (normal(16, 3), labels)})


# Degrees of match.

GRADES = np.array([[3, 2, 0, 1], [0, 0, 3, 2], [1, 0, 0, 0]])  # of the references, nearest first


def test_ndcg_of_grades():
    log = np.log2(np.arange(2, 6))
    by_hand = (3 + 2 / log[1] + 1 / log[3]) / (3 + 2 / log[1] + 1 / log[2])
    scores, ideal = -np.tile(np.arange(4.0), (3, 1)), -np.sort(-GRADES, 1)
    for gain, gains, k in (("linear", GRADES, None), ("exponential", 2**GRADES - 1, 2)):
        ours = ndcg_at_k(GRADES, GRADES.sum(1), k=k, ideal=ideal, gain=gain)
        assert np.mean(ours) == pytest.approx(ndcg_score(gains, scores, k=k))
        if gain == "linear":
            assert ours[0] == pytest.approx(by_hand)


def by_grade(labels, others):
    """The first labels are rows of grades, the others have their column in the first place."""
    return labels[:, others[:, 0].astype(int)]


@pytest.mark.parametrize("gain", [pytest.param("linear", marks=pytest.mark.slow), "exponential"])
def test_ndcg_of_grades_by_the_calculator(gain):
    calculator = AccuracyCalculator(
        ("ndcg_at_2", "ndcg_at_k"), match=by_grade, gain=gain, distance=EUCLIDEAN
    )
    columns = np.arange(4.0, dtype=np.float32)[:, None]  # references, farther and farther away
    sets = np.zeros((3, 1), np.float32), GRADES.astype(np.float32), columns, columns * np.ones(4)
    scores = calculator.get_accuracy(*sets)
    gains = GRADES if gain == "linear" else 2**GRADES - 1
    for name, k in (("ndcg_at_2", 2), ("ndcg_at_k", None)):
        expected = ndcg_score(gains, -np.tile(np.arange(4.0), (3, 1)), k=k)
        assert scores[name] == pytest.approx(expected)
    assert scores.num_queries == 3


def grades_of(value):
    return lambda x, y: jnp.where(x[:, None] == y[None, :], value, 0)


def degrees(value, *names, **options):
    calculator = AccuracyCalculator(names, match=grades_of(value), **options)
    return calculator.get_accuracy(X, np.zeros(3, int))


@pytest.mark.parametrize("metric", ["mean_average_precision", "r_precision", "recall_at_k"])
@pytest.mark.parametrize(
    "value", [1.5, *(pytest.param(x, marks=pytest.mark.slow) for x in (-0.5, np.nan))]
)
def test_degrees_that_make_nonsense_raise(metric, value):
    matches, relevant = np.array([[1.0, value, 0.0]]), np.array([2])
    for kind in (np.float64, np.float16):
        with pytest.raises(ValueError, match=rf"{metric}: `matches` must be .* 0 to 1, got"):
            getattr(evaluation, metric)(matches.astype(kind), relevant)
    getattr(evaluation, metric)(jnp.asarray(matches, jnp.float32), relevant)  # not looked at
    with pytest.raises(ValueError, match=r"get_accuracy: `match` must be degrees from 0 to"):
        degrees(value, metric)
    with pytest.raises(ValueError, match="`match` must be degrees from 0 to 1"):
        degrees(value, metric, "ndcg_at_k")
    if not value > 1:
        with pytest.raises(ValueError, match="`match` must be degrees from 0 to inf"):
            degrees(value, "ndcg_at_k")


@pytest.mark.slow
def test_degrees_that_are_welcome():
    assert degrees(7.0, "ndcg_at_k") == {"ndcg_at_k": 1}
    with pytest.raises(ValueError, match="`match` must be degrees from 0 to 100, got 101"):
        degrees(101.0, "ndcg_at_k", gain="exponential")
    sevenths = relations.hierarchical((0.1, 0.2, 0.4))  # whose sum may be a little above 1
    levels = np.zeros((3, 3), np.int32)
    AccuracyCalculator(match=sevenths).get_accuracy(X, levels)
    with pytest.raises(ValueError, match="ndcg_at_k: `ideal` must be given for degrees other"):
        ndcg_at_k(np.array([[0.5, 1.0]]), np.array([1.5]))
    with pytest.raises(
        ValueError, match="ndcg_at_k: `ideal` must be degrees from 0 to inf, got -1"
    ):
        ndcg_at_k(np.ones((1, 2)), np.ones(1), ideal=np.array([[1, -1]]))
    with pytest.raises(ValueError, match="r_precision: `relevant` must be degrees from 0 to inf"):
        evaluation.r_precision(np.ones((1, 2)), np.array([np.nan]))
    with pytest.raises(ValueError, match="`gain` must be one of 'linear', 'exponential'"):
        AccuracyCalculator(gain="log")


# Labels.

CODES = np.array([0, 0, 1, 1, 2, 2, 3, 3])
ALIKE = (
    CODES.astype(np.int64) * 2**32 + 1,
    CODES.astype(np.uint64) * np.uint64(2**60) + np.uint64(2**63),
    CODES.tolist(),
    np.array(["ant", "bee", "cat", "dog"])[CODES],
    [f"class {code}" for code in CODES],
    np.array([f"class {code}" for code in CODES], object),
    CODES.astype(np.float32),
)


@pytest.mark.parametrize("labels", ALIKE, ids=lambda x: f"{getattr(x, 'dtype', 'list')}")
def test_labels_of_any_kind_do_not_collide(labels):
    x = normal(8, 5)
    check(retrieval_metrics(x, labels), *(retrieval_metrics(x, CODES)[name] for name in NAMES))
    half = retrieval_metrics(x[:4], labels[:4], x, labels)
    check(half, *(retrieval_metrics(x[:4], CODES[:4], x, CODES)[name] for name in NAMES))
    calculator = AccuracyCalculator(
        (*NAMES, "AMI"), metrics={"label": lambda inputs: inputs.labels.astype(jnp.float32)}
    )
    scores = calculator.get_accuracy(x, labels)
    assert scores == calculator.get_accuracy(x, CODES)
    per_class = AccuracyCalculator(("precision_at_1",), return_per_class=True)
    assert per_class.get_accuracy(x, labels).classes.tolist() == np.unique(labels).tolist()
    assert evaluation.nmi(x, labels) == evaluation.nmi(x, CODES)


def test_signed_and_unsigned_labels_do_not_collide():
    """Together they would be float64, where 2**53 and the next integer are the same."""
    x, large = normal(8, 5), CODES + 2**53
    scores = retrieval_metrics(x, large.astype(np.uint64), x, large)
    check(scores, *(retrieval_metrics(x, CODES, x, CODES)[name] for name in NAMES))


def test_custom_metrics_see_labels_that_do_not_collide():
    metrics = {"label": lambda inputs: inputs.labels.astype(jnp.float32)}
    calculator = AccuracyCalculator(("label",), metrics=metrics, return_per_class=True)
    for labels in (ALIKE[0], ALIKE[3]):
        values = calculator.get_accuracy(normal(8, 5), labels)["label"]
        assert values.tolist() == [0, 1, 2, 3]


def test_parents_of_any_kind():
    x, parents = normal(8, 5), np.array(["a", "b"])[[0, 0, 0, 0, 1, 1, 1, 1]]
    labels = np.stack([np.array(["u", "v"])[CODES % 2], parents], 1)
    calculator = AccuracyCalculator(("precision_at_1",))
    found = evaluate_within_parents(calculator, {"test": (x, labels)})["test"]["test"]
    codes = np.stack([CODES % 2, CODES // 2], 1)
    expected = evaluate_within_parents(calculator, {"test": (x, codes)})["test"]["test"]
    assert list(found) == ["a", "b"] and list(found.values()) == list(expected.values())


def test_integer_embeddings_are_cast():
    x = np.round(normal(8, 5) * 9)
    calculator = AccuracyCalculator(("precision_at_1", "AMI"))
    expected = calculator.get_accuracy(x, CODES)
    assert calculator.get_accuracy(x.astype(np.int64), CODES) == expected
    assert calculator.get_accuracy(jnp.asarray(x, jnp.int32), CODES) == expected


equal = grades_of(1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: retrieval_metrics(x, ALIKE[0], x, jnp.asarray(CODES)),
            ValueError,
            "`query_labels` must fit int32, got 1 to .* Code them",
        ),
        (
            lambda x: retrieval_metrics(x, jnp.asarray(CODES), x, ALIKE[3]),
            TypeError,
            "`reference_labels` must be numbers, got <U3",
        ),
        (
            lambda x: retrieval_metrics(x, CODES, x, ALIKE[3]),
            TypeError,
            "`reference_labels` must be of the kind of `query_labels`, int64, got <U3",
        ),
        (lambda x: retrieval_metrics(x, [1, "a"] * 4), TypeError, "class ids or strings, got <U21"),
        (lambda x: retrieval_metrics(x, CODES * 0.5), TypeError, "class ids or strings, got float"),
        (
            lambda x: retrieval_metrics(x, np.float32(CODES + 2.0**24)),  # rounded before
            TypeError,
            "`query_labels` must be integer class ids or strings, got float32",
        ),
        (lambda x: retrieval_metrics(x, CODES > 0), TypeError, "got bool"),
        (lambda x: retrieval_metrics(x, None), ValueError, "`query_labels` are needed"),
        (lambda x: retrieval_metrics(x, [[1], [2, 3]]), ValueError, "got a ragged list"),
        (
            lambda x: AccuracyCalculator(match=equal).get_accuracy(x, ALIKE[0]),
            ValueError,
            "get_accuracy: `query_labels` must fit int32, got 1 to",
        ),
        (
            lambda x: AccuracyCalculator(match=equal).get_accuracy(x, {"a": CODES, "b": ALIKE[3]}),
            TypeError,
            "`query_labels` must be numbers, got <U3",
        ),
    ],
)
def test_labels_that_cannot_be_compared_raise(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(normal(8, 5))
    assert len(str(caught.value)) <= 400


def test_a_relation_takes_a_list_of_labels():
    scores = AccuracyCalculator(NAMES, match=equal).get_accuracy(normal(8, 5), CODES.tolist())
    assert scores == AccuracyCalculator(NAMES).get_accuracy(normal(8, 5), CODES)


# What is put together by hand.


def test_mean_over_queries_leaves_lone_ones_out():
    values, relevant = np.array([1.0, 0.5, np.nan, 0.0]), jnp.array([2, 1, 0, 1])
    assert mean_over_queries(values, relevant) == 0.5
    labels = ["a", "a", "b", "b"]
    assert mean_over_queries(values, relevant, labels) == 0.375
    per_class = mean_over_queries(values, relevant, ["a", "a", "b", "a"], per_class=True)
    np.testing.assert_array_equal(per_class, [0.5, np.nan])
    assert np.isnan(mean_over_queries(values, np.zeros(4)))
    with pytest.raises(ValueError, match="`labels` must be given for `per_class`"):
        mean_over_queries(values, relevant, per_class=True)
    with pytest.raises(ValueError, match=r"`relevant` must have shape \[4\]"):
        mean_over_queries(values, relevant[:3])


@pytest.mark.parametrize("included", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_search_of_ones_own(included):
    x, y = normal(20, 3), np.arange(20) % 4
    names = ("precision_at_1", "mean_average_precision", "ndcg_at_3")
    sets = (x, y) if included else (x[:8], y[:8], x[8:], y[8:])
    expected = AccuracyCalculator(names, k=5).get_accuracy(*sets)
    scores = AccuracyCalculator(names, k=5, search=knn, block_size=3).get_accuracy(*sets)
    assert dict(scores) == pytest.approx(dict(expected))
    if included:  # a search that misses the query, and all but two of its neighbors
        found = knn(x, x, 2, self_index=np.arange(20))
        rest = lambda x, value: np.pad(x, ((0, 0), (0, 4)), constant_values=value)
        few = lambda query, reference, k: (rest(found[0], np.inf), rest(found[1], -1))
        scores = AccuracyCalculator(("precision_at_5",), k=5, search=few).get_accuracy(x, y)
        two = AccuracyCalculator(("precision_at_k",), k=2).get_accuracy(x, y)
        assert scores["precision_at_5"] == pytest.approx(two["precision_at_k"] * 2 / 5)


def test_a_clustering_of_ones_own():
    x, y = normal(20, 3), np.arange(20) % 4
    seen = []
    cluster = lambda points, count: seen.append((points, count)) or y
    scores = AccuracyCalculator(("AMI", "NMI"), cluster=cluster).get_accuracy(9 * x, y)
    assert scores == pytest.approx({"AMI": 1, "NMI": 1})
    [(points, count)] = seen
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-6)
    assert count == 4


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((np.ones((8, 2)), np.zeros((8, 2), int)), r"distances and indices \[8, 4\], .* got"),
        ((np.ones((8, 4)), np.full((8, 4), 8)), "rows of the 8 references, or -1 for none, got"),
    ],
)
def test_a_search_that_goes_wrong(found, message):
    calculator = AccuracyCalculator(NAMES, k=3, search=lambda query, reference, k: found)
    with pytest.raises(ValueError, match=f"`search` must give {message}"):
        calculator.get_accuracy(normal(8, 5), CODES)
    with pytest.raises(ValueError, match="`calculator` must not have a `search`"):
        evaluate_within_parents(calculator, {"test": (normal(8, 5), np.stack([CODES, CODES], 1))})
