"""Evaluation against PyTorch Metric Learning's AccuracyCalculator and scikit-learn."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance as TorchLpDistance
from pytorch_metric_learning.utils import accuracy_calculator as pml
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from metricjax import evaluation
from metricjax.distances import LpDistance
from metricjax.evaluation import AccuracyCalculator, k_means, retrieval_metrics

Q, M, D = 25, 30, 8
PLAIN = LpDistance(normalize_embeddings=False)  # PML's own default in evaluation
RANKED = (
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "precision_at_1",
    "r_precision",
)
MODES = ("self", "separate", "inside")
AVERAGES = ({}, {"avg_of_avgs": True}, {"return_per_class": True})
KS = (None, "max_bin_count", 1, 4, 24)


def random_sets(rng, mode):
    """Embeddings without ties; small, large and lone classes."""
    query = rng.normal(size=(Q, D)).astype(np.float32)
    reference = rng.normal(size=(M, D)).astype(np.float32)
    spread = rng.choice([16, 64, 300])
    labels = rng.permutation(np.arange(Q) ** 2 // spread)
    ref_labels = rng.permutation(np.arange(M) ** 2 // spread)
    if mode == "inside":
        reference = np.concatenate([query, reference])
        ref_labels = np.concatenate([labels, ref_labels])
    return query, labels, *(() if mode == "self" else (reference, ref_labels))


def theirs(k, clusters=None, **options):
    include = RANKED if clusters is None else (*RANKED, "AMI", "NMI")
    cluster = clusters and (lambda x, n: clusters(x.numpy(), n))
    return pml.AccuracyCalculator(
        include=include, k=k, device=torch.device("cpu"), kmeans_func=cluster or (lambda *_: None),
        knn_func=CustomKNN(TorchLpDistance(normalize_embeddings=False)), **options,
    )  # fmt: skip


def check(ours, expected):
    """Per class, PML leaves lone classes out, and has NaN for each if all are lone."""
    assert set(ours) == set(expected)
    for name, value in expected.items():
        got, value = np.array(ours[name]), np.array(value)
        if got.ndim and not np.isnan(value).any():
            got = got[~np.isnan(got)]
        np.testing.assert_allclose(got, value, atol=1e-6, err_msg=name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_accuracy_calculator(mode, k):
    """67 random settings of each; over a thousand in all."""
    rng = np.random.default_rng([MODES.index(mode), KS.index(k)])
    for setting in range(67):
        options = AVERAGES[setting % 3]
        sets = random_sets(rng, mode)
        inside = {"ref_includes_query": mode == "inside"}
        ours = AccuracyCalculator(include=RANKED, k=k, block_size=7, distance=PLAIN, **options)
        check(
            ours.get_accuracy(*sets, **inside), theirs(k, **options).get_accuracy(*sets, **inside)
        )


@pytest.mark.filterwarnings("ignore")
def test_clustering_equals_accuracy_calculator():
    rng = np.random.default_rng(0)
    for _ in range(10):
        sets = random_sets(rng, "separate")
        ours = AccuracyCalculator(k=4, distance=PLAIN).get_accuracy(*sets)
        clusters = functools.partial(k_means, distance=PLAIN)
        check(ours, theirs(4, clusters=clusters).get_accuracy(*sets))


@pytest.mark.filterwarnings("ignore")
def test_casts_as_accuracy_calculator():
    query, labels, reference, ref_labels = random_sets(np.random.default_rng(0), "separate")
    whole = lambda x: np.round(1000 * x).astype(np.int64)
    sets = whole(query), labels.astype(np.float32), whole(reference), ref_labels.astype(np.float32)
    ours = AccuracyCalculator(include=RANKED, distance=PLAIN).get_accuracy(*sets)
    check(ours, theirs(None).get_accuracy(*sets))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["self", "separate"])
def test_relation_equals_accuracy_calculator(mode):
    """Labels match that differ by at most 1: not transitive."""
    rng = np.random.default_rng(0)
    near = lambda x, y: jnp.abs(x[:, None] - y[None, :]) <= 1
    for _ in range(10):
        sets = random_sets(rng, mode)
        ours = AccuracyCalculator(include=RANKED, match=near, distance=PLAIN)
        pml = theirs(None, label_comparison_fn=lambda x, y: torch.abs(x - y) <= 1)
        check(ours.get_accuracy(*sets), pml.get_accuracy(*sets))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [None, 4])
def test_retrieval_metrics_equal_accuracy_calculator(mode, k):
    rng = np.random.default_rng(0)
    for _ in range(8):
        sets = random_sets(rng, mode)
        inside = {"ref_includes_query": mode == "inside"}
        ours = retrieval_metrics(*sets, **inside, k=k, block_size=7, distance=PLAIN)
        expected = theirs(k).get_accuracy(*sets, **inside)
        check(ours, {name: expected[name] for name in ours})


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.normal(size=(Q, M))
        relevant = rng.random((Q, M)) < rng.choice([0.05, 0.3, 0.9])
        relevant[:, 0] = True
        matches = np.take_along_axis(relevant, np.argsort(-scores, 1), 1)
        ours = evaluation.mean_average_precision(matches, relevant.sum(1))
        expected = label_ranking_average_precision_score(relevant, scores)
        np.testing.assert_allclose(np.mean(ours), expected, rtol=1e-5)
        for k in (1, 5, M):
            ours = evaluation.ndcg_at_k(matches, relevant.sum(1), k=k)
            np.testing.assert_allclose(np.mean(ours), ndcg_score(relevant, scores, k=k), rtol=1e-5)
        degrees = rng.random((Q, M)) * relevant
        found = np.take_along_axis(degrees, np.argsort(-scores, 1), 1)
        ideal = -np.sort(-degrees, 1)
        ours = evaluation.ndcg_at_k(found, degrees.sum(1), k=5, ideal=ideal)
        np.testing.assert_allclose(np.mean(ours), ndcg_score(degrees, scores, k=5), rtol=1e-5)
        grades = rng.integers(0, 5, (Q, M)) * relevant
        found = np.take_along_axis(grades, np.argsort(-scores, 1), 1)
        for gain, gains in (("linear", grades), ("exponential", 2**grades - 1)):
            options = {"k": 5, "ideal": -np.sort(-grades, 1), "gain": gain}
            ours = evaluation.ndcg_at_k(found, grades.sum(1), **options)
            np.testing.assert_allclose(np.mean(ours), ndcg_score(gains, scores, k=5), rtol=1e-5)
