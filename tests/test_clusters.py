"""Clusters of an unknown number, gains of grades, lone queries, thresholds against scikit-learn."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn import metrics

from metricjax import evaluation, inference
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from metricjax.evaluation import Neighbors, connected_components, knn, mean_over_queries, ndcg_at_k

EUCLIDEAN = LpDistance(normalize_embeddings=False)
NAMES = "homogeneity", "completeness", "v_measure"


def drawn(n, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def same(clusters, others):
    """Whether two clusterings are equal but for the numbers of the clusters."""
    return metrics.adjusted_rand_score(clusters, others) == 1


# Connected components.


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_components_of_all_neighbors_are_single_linkage(seed):
    x = drawn(60, seed=seed)
    tree = linkage(x.astype(np.float64), "single")
    neighbors = knn(x, x, 59, distance=EUCLIDEAN, self_index=np.arange(60))
    counts = set()
    for threshold in (0.01, 0.3, 0.5, 0.8, 9.0):
        clusters = connected_components(neighbors, threshold, distance=EUCLIDEAN)
        assert same(clusters, fcluster(tree, threshold, "distance"))
        counts.add(len(np.unique(clusters)))
        assert set(clusters) == set(range(clusters.max() + 1))
    assert len(counts) > 3 and {1, 60} <= counts
    of_negative = Neighbors(-neighbors.distances, neighbors.indices)
    similar = connected_components(of_negative, -0.5, distance=DotProductSimilarity())
    assert same(similar, fcluster(tree, 0.5, "distance"))


def test_few_neighbors_leave_links_out():
    """Two pairs, each closest to the other one: with one neighbor, nothing links the pairs."""
    neighbors = Neighbors(np.full((4, 1), 0.5), np.array([[1], [0], [3], [2]]))
    assert connected_components(neighbors, 0.5).tolist() == [0, 0, 1, 1]
    asymmetric = Neighbors(np.full((4, 1), 0.5), np.array([[1], [2], [3], [2]]))
    assert connected_components(asymmetric, 0.5).tolist() == [0, 0, 0, 0]


def test_what_is_no_neighbor_is_no_link():
    distances = np.array([[0.1, np.nan], [0.1, np.inf], [np.nan, np.inf]], np.float32)
    neighbors = Neighbors(distances, np.array([[1, 2], [0, -1], [0, -1]]))
    assert connected_components(neighbors, np.inf).tolist() == [0, 0, 1]
    # the float32 of 0.1 is above 0.1
    assert connected_components(neighbors, 0.1).tolist() == [0, 0, 1]
    assert connected_components(neighbors, 0.09).tolist() == [0, 1, 2]
    empty = Neighbors(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert connected_components(empty, 1.0).shape == (0,)
    alone = Neighbors(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.int32))
    assert connected_components(alone, 1.0).tolist() == [0, 1]


def test_a_threshold_from_pairs_finds_the_classes():
    """The number of classes is not given, and is found on other classes than the threshold."""
    rng = np.random.default_rng(0)
    centers, labels = rng.normal(size=(40, 16)), np.arange(400) % 40
    x = (centers[labels] + 0.15 * rng.normal(size=(400, 16))).astype(np.float32)
    known = labels < 20
    pairs = inference.pair_distances(x[known], labels[known])
    point = inference.threshold(*pairs, by=("fmr", 0.0))
    x, labels = x[~known], labels[~known]
    neighbors = knn(x, x, 12, self_index=np.arange(len(x)))
    clusters = connected_components(neighbors, point.threshold)
    assert evaluation.ari(x, labels, clusters=clusters) > 0.95
    assert evaluation.ami(x, labels, clusters=clusters) > 0.95


@pytest.mark.slow
def test_many_embeddings_take_no_matrix():
    """A matrix of 200,000 by 200,000 booleans would take 37 GiB."""
    n = 200_000
    chain = np.arange(n)[:, None] + np.array([1, 2])
    indices = np.where(chain // 100 == np.arange(n)[:, None] // 100, chain, -1)
    clusters = connected_components(Neighbors(np.zeros(indices.shape), indices), 0.0)
    np.testing.assert_array_equal(clusters, np.arange(n) // 100)


@pytest.mark.parametrize(
    ("neighbors", "threshold", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 1), int)), 1, r"distances and indices \[N, K\], as `knn`"),
        ((np.zeros(3), np.zeros(3, int)), 1, r"distances and indices \[N, K\]"),
        ((np.zeros((3, 1)), np.array([[0], [1], [3]])), 1, "of the 3 embeddings themselves, .* 3"),
        ((np.zeros((3, 1)), np.zeros((3, 1))), 1, "indices of the 3 embeddings .* got float64"),
        ((np.zeros((3, 1)), np.zeros((3, 1), int)), [1, 2], "`threshold` must be one number, got"),
        (
            (np.zeros((3, 1)), np.zeros((3, 1), int)),
            np.nan,
            "`threshold` must be one number, got n",
        ),
        ((np.zeros((3, 1)), np.zeros((3, 1), int)), "1", "`threshold` must be one number"),
    ],
)
def test_errors_of_components(neighbors, threshold, message):
    with pytest.raises(ValueError, match=f"evaluation.connected_components: .*{message}"):
        connected_components(neighbors, threshold)
    with pytest.raises(TypeError, match="connected_components: `distance` must be a distance"):
        connected_components(neighbors, threshold, distance=LpDistance)


# Scores of clusters.


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels, clusters = rng.integers(0, 5, 40), rng.integers(0, 3 + 5 * seed, 40)
    x = np.zeros((40, 1), np.float32)
    ari = evaluation.ari(x, labels, clusters=clusters)
    assert ari == pytest.approx(metrics.adjusted_rand_score(labels, clusters), abs=1e-12)
    scores = evaluation.v_measure(x, labels, clusters=clusters)
    theirs = metrics.homogeneity_completeness_v_measure(labels, clusters)
    assert scores == pytest.approx(theirs, abs=1e-12)
    assert scores.v_measure == pytest.approx(evaluation.nmi(x, labels, clusters=clusters))
    assert scores._fields == NAMES
    same_pair = lambda x: (x[:, None] == x[None, :])[np.triu_indices(40, 1)]  # the formula
    by_label, by_cluster = same_pair(labels), same_pair(clusters)
    chance = by_label.sum() * by_cluster.sum() / (40 * 39 / 2)
    most = (by_label.sum() + by_cluster.sum()) / 2
    assert ari == pytest.approx(((by_label & by_cluster).sum() - chance) / (most - chance))


def test_scores_of_k_means_and_of_nothing():
    x, labels = np.array([[0], [0.1], [9], [9.1]], np.float32), ["a", "a", "b", "b"]
    assert evaluation.ari(x, labels, distance=EUCLIDEAN) == 1
    assert evaluation.v_measure(x, labels, distance=EUCLIDEAN) == pytest.approx((1, 1, 1))
    assert np.isnan(evaluation.ari(x * np.nan, labels))
    scores = evaluation.v_measure(x * np.nan, labels)
    assert isinstance(scores, evaluation.VMeasure) and np.isnan(scores).all()
    with pytest.raises(ValueError, match=r"evaluation.ari: `clusters` must have shape \[4\]"):
        evaluation.ari(x, labels, clusters=np.zeros(3, int))


@pytest.mark.parametrize("name", ["ari", "v_measure"])
def test_missing_scikit_learn_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=rf"evaluation.{name}: .*pip install 'metricjax\[eval\]'"):
        getattr(evaluation, name)(np.zeros((2, 1), np.float32), [0, 1])


# Gains of grades.

GRADES = np.array([[3, 2, 0, 1], [0, 0, 3, 2], [1, 0, 0, 0]])  # of the references, nearest first
IDEAL = -np.sort(-GRADES, 1)
WORTH = np.array([0, 0.5, 4, 5], np.float32)


def by_table(grades):
    return jnp.asarray(WORTH)[grades.astype(int)]


@pytest.mark.slow
def test_a_gain_of_ones_own():
    order = -np.tile(np.arange(4.0), (3, 1))
    relevant = GRADES.sum(1)
    ours = ndcg_at_k(GRADES, relevant, k=2, ideal=IDEAL, gain=by_table)
    assert np.mean(ours) == pytest.approx(metrics.ndcg_score(WORTH[GRADES], order, k=2))
    named = ndcg_at_k(GRADES, relevant, k=2, ideal=IDEAL, gain="exponential")
    own = ndcg_at_k(GRADES, relevant, k=2, ideal=IDEAL, gain=lambda m: jnp.exp2(m) - 1)
    np.testing.assert_array_equal(named, own)
    # a grade of 0 gains nothing, though this function is -inf there
    ours = ndcg_at_k(GRADES, relevant, k=2, ideal=IDEAL, gain=jnp.log2)
    theirs = metrics.ndcg_score(np.log2(np.maximum(GRADES, 1)), order, k=2)
    assert np.mean(ours) == pytest.approx(theirs)
    found = GRADES > 0
    binary = ndcg_at_k(found, found.sum(1), k=2)
    own = ndcg_at_k(found, found.sum(1), k=2, gain=lambda m: 7 * m)
    np.testing.assert_allclose(binary, own, rtol=1e-6)


def test_a_gain_under_jit_and_its_errors():
    matches, ideal = jnp.asarray(GRADES, jnp.float32), jnp.asarray(IDEAL, jnp.float32)
    call = lambda matches, ideal, gain: ndcg_at_k(matches, matches.sum(1), ideal=ideal, gain=gain)
    compiled = jax.jit(call, static_argnums=2)(matches, ideal, by_table)
    np.testing.assert_allclose(compiled, call(matches, ideal, by_table), rtol=1e-6)
    relation = lambda a, b: 2 * (a[:, None] == b[None]).astype(int)
    graded = evaluation.AccuracyCalculator(("ndcg_at_2",), match=relation, gain=lambda m: 4 - m)
    with pytest.raises(ValueError, match="`gain` must be at least 0 and must not decrease"):
        graded.get_accuracy(np.eye(4, dtype=np.float32), np.arange(4) // 2)
    assert np.isnan(call(matches.at[0, 0].set(jnp.nan), ideal, jnp.sqrt)[0])  # stays visible
    for gain in (lambda m: -m, lambda m: 4 - m, lambda m: m * jnp.nan):
        with pytest.raises(ValueError, match="`gain` must be at least 0 and must not decrease"):
            call(GRADES, IDEAL, gain)
    with pytest.raises(ValueError, match="`gain` must be one of 'linear', .*, or a function .*'l"):
        call(GRADES, IDEAL, "log")


def test_lists_and_distances_that_are_integers():
    x, labels = [[0.0], [0.1], [5.0], [5.1]], [0, 0, 1, 1]
    assert evaluation.ari(x, labels, clusters=[3, 3, 2, 2]) == 1
    assert mean_over_queries([1.0, 0.5], [2, 0]) == 1
    bits = np.array([[1], [1], [1]]), np.array([[1], [0], [1]])  # Hamming distances of 1
    assert connected_components(bits, 1.5).max() == 0
    similar = DotProductSimilarity()
    assert connected_components(bits, 1.5, distance=similar).tolist() == [0, 1, 2]


# Lone queries.


def test_lone_queries_count_without_relevant():
    matches = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    relevant, labels = np.array([2, 0, 1, 1]), ["a", "a", "b", "b"]
    for metric in (
        evaluation.precision_at_1,
        evaluation.recall_at_k,
        evaluation.precision_at_k,
        evaluation.r_precision,
        evaluation.mean_average_precision,
        evaluation.mean_average_precision_at_r,
        evaluation.mean_reciprocal_rank,
        evaluation.ndcg_at_k,
    ):
        values = np.asarray(metric(matches, relevant), np.float64)
        assert values[1] == 0  # the lone query
        assert mean_over_queries(values) == pytest.approx(values.mean())
        assert mean_over_queries(values, relevant) == pytest.approx(values[[0, 2, 3]].mean())
    per_class = mean_over_queries([1.0, 0.0, 0.5, 0.5], None, labels, per_class=True)
    assert per_class.tolist() == [0.5, 0.5]
    assert np.isnan(mean_over_queries([]))


# Thresholds.


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
@pytest.mark.parametrize("distance", [EUCLIDEAN, CosineSimilarity()])
def test_operating_points_equal_scikit_learn(seed, distance):
    rng = np.random.default_rng(seed)
    is_match, weights = rng.random(80) < 0.4, rng.integers(1, 4, 80).astype(float)
    d = np.round(rng.random(80) + ~is_match * 0.4, 1 + seed % 2).astype(np.float32)  # with ties
    d = -d if distance.is_similarity else d
    sign = 1 if distance.is_similarity else -1
    pairs = (d, is_match, weights)
    area = metrics.roc_auc_score(is_match, sign * d, sample_weight=weights)
    assert inference.roc_auc(*pairs, distance=distance) == pytest.approx(area)
    for by in ("accuracy", "balanced_accuracy", "f1", ("precision", 0.8), ("fmr", 0.2)):
        point = inference.threshold(*pairs, by=by, distance=distance)
        accepted = sign * d >= sign * np.float32(point.threshold)
        options = {"sample_weight": weights, "zero_division": 1}
        theirs = {
            "precision": metrics.precision_score(is_match, accepted, **options),
            "tmr": metrics.recall_score(is_match, accepted, sample_weight=weights),
            "f1": metrics.f1_score(is_match, accepted, sample_weight=weights),
            "accuracy": metrics.accuracy_score(is_match, accepted, sample_weight=weights),
            "balanced_accuracy": metrics.balanced_accuracy_score(
                is_match, accepted, sample_weight=weights
            ),
            "fmr": 1 - metrics.recall_score(~is_match, ~accepted, sample_weight=weights),
        }
        ours = point._asdict()
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs)
    precision, recall, _ = metrics.precision_recall_curve(is_match, sign * d, sample_weight=weights)
    point = inference.threshold(*pairs, by=("precision", 0.8), distance=distance)
    assert point.tmr == pytest.approx(recall[precision >= 0.8].max())


@pytest.mark.parametrize("distance", [EUCLIDEAN, CosineSimilarity()])
def test_tar_equals_the_curve_of_scikit_learn(distance):
    """`tar_at_far` looks at all pairs, and scikit-learn's curve at the same pairs."""
    x, labels = drawn(40), np.arange(40) % 5
    pairs = inference.pair_distances(x, labels, distance=distance)
    score = pairs.distances if distance.is_similarity else -pairs.distances
    far, tar, _ = metrics.roc_curve(pairs.is_match, score, drop_intermediate=False)
    rates = (0.01, 0.1, 0.5)
    result = evaluation.tar_at_far(x, labels, far=rates, distance=distance)
    np.testing.assert_allclose(result.tar, [tar[far <= rate].max() for rate in rates])


def test_pairs_of_another_distance_are_refused():
    pairs = inference.pair_distances(drawn(12), np.arange(12) % 3, distance=CosineSimilarity())
    for function in (inference.threshold, inference.best_threshold, inference.det_curve):
        function(*pairs)
        function(*pairs, distance=CosineSimilarity())
        for other in (LpDistance(), DotProductSimilarity()):
            with pytest.raises(ValueError, match="`distance` must be the one of the pairs, Cosine"):
                function(*pairs, distance=other)
