"""`AccuracyCalculator` and the functions under it against worked examples and plain loops."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from metricjax import evaluation, relations
from metricjax.distances import LpDistance
from metricjax.evaluation import AccuracyCalculator
from metricjax.evaluation._aggregate import average

EUCLIDEAN = LpDistance(normalize_embeddings=False)
RANKED = (
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "precision_at_1",
    "r_precision",
)


def column(*values):
    return np.array(values, np.float32)[:, None]


A = column(0, 1, 3, 7, 12), np.array([0, 0, 1, 0, 1])
B = column(1, 2, 3, 9, 12), np.array([1, 0, 0, 1, 0])


def accuracies(*sets, include=RANKED, ref_includes_query=False, distance=EUCLIDEAN, **options):
    calculator = AccuracyCalculator(include=include, distance=distance, **options)
    return calculator.get_accuracy(*sets, ref_includes_query=ref_includes_query)


def check(scores, *expected):
    """Precision@1, R-precision, MAP, MAP@R, MRR."""
    order = (RANKED[3], RANKED[4], RANKED[0], RANKED[1], RANKED[2])
    for name, value in zip(order, expected, strict=True):
        np.testing.assert_allclose(scores[name], value, atol=1e-6, err_msg=name)


# Worked by hand.


@pytest.mark.filterwarnings("ignore:.*is less than")
@pytest.mark.parametrize(
    ("options", "expected", "k"),
    [
        ({}, (0.4, 0.2, 0.566667, 0.2, 0.616667), 4),
        ({"k": 1}, (0.4, 0.4, 0.2, 0.2, 0.4), 1),
        ({"k": 2}, (0.4, 0.2, 0.3, 0.2, 0.5), 2),
        ({"k": "max_bin_count"}, (0.4, 0.2, 0.3, 0.2, 0.5), 2),
        ({"k": 3}, (0.4, 0.2, 0.466667, 0.2, 0.566667), 3),
        ({"k": 50}, (0.4, 0.2, 0.566667, 0.2, 0.616667), 4),
        ({"avg_of_avgs": True}, (0.333333, 0.166667, 0.534722, 0.166667, 0.576389), 4),
        (
            {"return_per_class": True},
            ((2 / 3, 0), (1 / 3, 0), (0.694444, 0.375), (1 / 3, 0), (0.777778, 0.375)),
            4,
        ),
    ],
)
def test_self_search(options, expected, k):
    scores = accuracies(*A, **options)
    check(scores, *expected)
    assert (scores.k, scores.num_queries, scores.num_lone) == (k, 5, 0)


@pytest.mark.filterwarnings("ignore:.*is less than")
@pytest.mark.parametrize(
    ("labels", "k", "expected", "lone"),
    [
        ((0, 1), None, (0.5, 0.583333, 0.644444, 0.444444, 0.75), 0),
        ((0, 1), 1, (0.5, 0.5, 0.25, 0.25, 0.5), 0),
        ((0, 1), 2, (0.5, 0.5, 0.333333, 0.333333, 0.75), 0),
        ((0, 1), "max_bin_count", (0.5, 0.583333, 0.444444, 0.444444, 0.75), 0),
        ((0, 9), None, (0, 0.666667, 0.588889, 0.388889, 0.5), 1),
        ((8, 9), None, (np.nan,) * 5, 2),
        ((8, 9), "max_bin_count", (np.nan,) * 5, 2),
    ],
)
def test_separate_references(labels, k, expected, lone):
    scores = accuracies(column(0, 10), np.array(labels), *B, k=k)
    check(scores, *expected)
    assert (scores.num_queries, scores.num_lone) == (2 - lone, lone)


def test_queries_among_the_references():
    reference = np.concatenate([A[0], column(2.4, 6.3)]), np.concatenate([A[1], [1, 0]])
    inside = accuracies(*A, *reference, ref_includes_query=True)
    check(inside, 0.8, 0.3, 0.623333, 0.3, 0.866667)
    check(accuracies(*A, *reference), 1.0, 0.5, 0.782143, 0.5, 1.0)
    with pytest.raises(ValueError, match="must start with the 5 queries"):
        accuracies(*A, reference[0][::-1], reference[1], ref_includes_query=True)


def test_lone_classes_are_nan_in_a_vector_of_fixed_length():
    for labels in ((0, 9), (8, 9)):
        scores = accuracies(column(0, 10), np.array(labels), *B, return_per_class=True)
        assert scores.classes.tolist() == list(labels)
        for values in scores.values():
            assert np.isnan(values).tolist() == [labels[0] == 8, True]
    scores = accuracies(column(0, 10), np.array([0, 9]), *B, avg_of_avgs=True)
    check(scores, 0, 0.666667, 0.588889, 0.388889, 0.5)


def test_mutual_information():
    labels, clusters = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    x = np.zeros((6, 1), np.float32)
    assert round(evaluation.nmi(x, labels, clusters=clusters), 6) == 0.478704
    assert round(evaluation.ami(x, labels, clusters=clusters), 6) == 0.355245
    assert evaluation.nmi(column(0, 0, 0, 9, 9, 9), labels) == pytest.approx(1)
    scores = accuracies(x, labels, include=("AMI", "NMI"))  # a model that has collapsed
    assert scores == {"AMI": 0, "NMI": 0}
    scores = accuracies(x * np.nan, labels, include=("AMI", "NMI"))
    assert np.isnan(list(scores.values())).all()


# Names.


def test_names():
    every = set(RANKED) | {"AMI", "NMI"}
    assert set(AccuracyCalculator().get_accuracy(*A)) == every
    assert set(AccuracyCalculator(exclude=("NMI",)).get_accuracy(*A)) == every - {"NMI"}
    same = lambda x, y: x[:, None] == y[None, :]
    assert set(AccuracyCalculator(match=same).get_accuracy(*A)) == set(RANKED)
    narrow = AccuracyCalculator().get_accuracy(*A, include=("AMI", "r_precision"), exclude=["AMI"])
    assert set(narrow) == {"r_precision"}
    assert set(accuracies(*A, include=("mean_reciprocal_rank",))) == {"mean_reciprocal_rank"}


def test_cuts():
    names = ("recall_at_1", "recall_at_3", "recall_at_k", "precision_at_3", "recall_at_1000")
    scores = accuracies(*A, include=names)
    np.testing.assert_allclose([scores[x] for x in names], [0.4, 0.8, 1, 0.4, 1], 1e-6)
    ndcg = accuracies(*A, include=("ndcg_at_2",))["ndcg_at_2"]
    log3 = 1 / np.log2(3)
    np.testing.assert_allclose(ndcg, (2 / (1 + log3) + log3) / 5, rtol=1e-6)
    with pytest.raises(ValueError, match="`k` must be at least 3 for recall_at_3, got 2"):
        accuracies(*A, include=("recall_at_3",), k=2)


def test_a_metric_of_ones_own():
    def nearest_label_gap(inputs):
        return jnp.abs(inputs.indices[:, 0] - inputs.labels).astype(jnp.float32)

    scores = accuracies(*A, include=("gap", "precision_at_1"), metrics={"gap": nearest_label_gap})
    assert scores["gap"] == pytest.approx(np.mean([1, 0, 0, 2, 2]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AccuracyCalculator("NMI"), TypeError, "`include` must be a tuple of names"),
        (lambda: AccuracyCalculator(("map",)), ValueError, "`include` has 'map', .* There are AMI"),
        (lambda: AccuracyCalculator(exclude=("recall_at_0",)), ValueError, "'recall_at_0'"),
        (lambda: accuracies(*A, k=0), ValueError, "`k` must be an integer >= 1, None or"),
        (lambda: accuracies(*A, k=True), ValueError, "got True"),
        (lambda: accuracies(*A, k="all"), ValueError, "got 'all'"),
        (
            lambda: AccuracyCalculator(avg_of_avgs=True, return_per_class=True),
            ValueError,
            "`avg_of_avgs` or `return_per_class`, not both",
        ),
        (
            lambda: AccuracyCalculator(("NMI",), match=relations.intersects),
            ValueError,
            "AMI and NMI do not support `match`",
        ),
        (
            lambda: AccuracyCalculator().get_accuracy(*A, include="NMI"),
            TypeError,
            "get_accuracy: `include` must be a tuple",
        ),
        (
            lambda: AccuracyCalculator(("NMI",)).get_accuracy(*A, include=("AMI",)),
            ValueError,
            "get_accuracy: `include` has 'AMI'",
        ),
        (lambda: accuracies(A[0], A[1][:3]), ValueError, r"`query_labels` must have shape \[5\]"),
        (lambda: accuracies(*A, A[0]), ValueError, "both `reference` and `reference_labels`"),
        (lambda: accuracies(A[0], A[1] * 1.5), TypeError, "must be integer class ids"),
        (
            lambda: accuracies(A[0], {"y": A[1]}, avg_of_avgs=True, match=match_dicts),
            ValueError,
            "averages of classes need labels in one array",
        ),
    ],
)
def test_errors_name_function_argument_and_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


def match_dicts(x, y):
    return x["y"][:, None] == y["y"][None, :]


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[eval\]'"):
        accuracies(*A, include=("NMI",))
    accuracies(*A)  # does not need it


def test_a_small_k_warns():
    with pytest.warns(UserWarning, match="`k` = 1 is less than the 2 references .* r_precision"):
        accuracies(*A, include=("r_precision",), k=1)
    accuracies(*A, include=("mean_average_precision",), k=1)
    accuracies(*A, k=2)  # the query itself is not to be found


# Labels.


@pytest.mark.parametrize("large", [2**24, 2**40])
def test_large_labels_do_not_collide(large):
    labels = np.array([0, 1, 1, 0]) + large
    check(accuracies(column(0, 1, 10, 11), labels, k="max_bin_count"), 0, 0, 0, 0, 0)


def test_a_relation_without_reflexivity():
    """The same first column, and another second one."""
    other = lambda x, y: (x[:, None, 0] == y[None, :, 0]) & (x[:, None, 1] != y[None, :, 1])
    x = column(0, 1, 3, 6.1)
    scores = accuracies(x, np.array([[0, 1], [0, 2], [0, 3], [1, 1]]), match=other)
    check(scores, 1, 1, 1, 1, 1)
    assert scores.num_lone == 1
    scores = accuracies(x, np.array([[0, 1], [0, 2], [1, 3], [1, 1]]), match=other)
    check(scores, 0.75, 0.75, 0.833333, 0.75, 0.833333)


def test_degrees_of_match():
    tags = np.array([[1, 1], [1, 0], [1, 1]])
    scores = accuracies(
        column(0, 1, 3), tags, include=("ndcg_at_k", "precision_at_k"), match=relations.overlap
    )
    log3 = 1 / np.log2(3)
    expected = np.mean([(0.5 + log3) / (1 + 0.5 * log3), 1, (0.5 + log3) / (1 + 0.5 * log3)])
    assert scores["ndcg_at_k"] == pytest.approx(expected)
    assert scores["precision_at_k"] == pytest.approx(np.mean([0.75, 0.5, 0.75]))


# How sure the averages are.


def test_averages_are_weighted():
    values, weights, classes = np.array([1, 0, 1.0]), np.array([2, 1, 0.0]), np.array([0, 0, 1])
    assert average(values, weights) == average(values, weights, classes) == 2 / 3
    np.testing.assert_array_equal(
        average(values, weights, classes, per_class=True), [2 / 3, np.nan]
    )


def test_intervals():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(3, size=60)
    options = {"k": 5, "include": ("recall_at_1", "precision_at_1"), "bootstrap": 400}
    scores = accuracies(x, labels, **options)
    low, high = scores.intervals["precision_at_1"]
    error = np.sqrt(scores["precision_at_1"] * (1 - scores["precision_at_1"]) / 60)
    assert low < scores["precision_at_1"] < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.15)
    assert scores.intervals["recall_at_1"] == (low, high)  # the same resamples
    assert accuracies(x, labels, **options).intervals == scores.intervals
    assert accuracies(x, labels, seed=1, **options).intervals != scores.intervals
    narrow = accuracies(x, labels, confidence=0.5, **options).intervals["recall_at_1"]
    assert low < narrow[0] < narrow[1] < high
    per_class = accuracies(x, labels, return_per_class=True, **options)
    lows, highs = per_class.intervals["recall_at_1"]
    assert lows.shape == (3,) and ((lows < per_class["recall_at_1"]) & (highs <= 1)).all()
    assert (per_class["recall_at_1"] < highs).all()
    assert np.isnan(accuracies(x, np.arange(60), **options).intervals["recall_at_1"]).all()


# Degenerate and unusual input.


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("k", [None, 3, "max_bin_count"])
def test_no_neighbors_at_all(n, k):
    scores = accuracies(np.ones((n, 2), np.float32), np.zeros(n, int), k=k)
    check(scores, *[np.nan] * 5)
    assert (scores.k, scores.num_queries, scores.num_lone) == (0, 0, n)


def test_duplicates_find_each_other():
    x = np.zeros((6, 2), np.float32)
    check(accuracies(x, np.zeros(6, int)), 1, 1, 1, 1, 1)
    check(accuracies(x * np.nan, np.zeros(6, int)), 0, 0, 0, 0, 0)


@pytest.mark.slow
def test_jax_arrays_on_a_mesh():
    mesh = jax.make_mesh((8,), ("data",))
    x = jax.random.normal(jax.random.key(0), (64, 3))
    y = np.arange(64) % 9
    sharded = jax.device_put(x, NamedSharding(mesh, jax.P("data")))
    assert accuracies(sharded, jnp.asarray(y)) == pytest.approx(accuracies(x, y))


@pytest.mark.slow
def test_metrics_take_any_kind_of_matches():
    matches = np.array([[1, 0, 1], [0, 0, 0]])
    for kind in (bool, np.int32, np.float32):
        values = evaluation.mean_average_precision(matches.astype(kind), np.array([2, 0]))
        np.testing.assert_allclose(values, [5 / 6, 0], rtol=1e-6)
    for metric in (*RANKED, "recall_at_k", "precision_at_k", "ndcg_at_k"):
        empty = getattr(evaluation, metric)(jnp.zeros((2, 0), bool), jnp.array([1, 0]))
        assert empty.tolist() == [0, 0] and empty.dtype == jnp.float32
        with pytest.raises(ValueError, match=rf"{metric}: `matches` must have shape \[Q, K\]"):
            getattr(evaluation, metric)(jnp.zeros(3, bool), jnp.zeros(3))
    with pytest.raises(ValueError, match="`k` must be at most the 3 neighbors"):
        evaluation.recall_at_k(matches, k=4)
    with pytest.raises(ValueError, match="`relevant` must have shape"):
        evaluation.r_precision(matches, jnp.ones(3))
