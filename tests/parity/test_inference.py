"""Matches and neighbors against PyTorch Metric Learning's MatchFinder and InferenceModel."""

import numpy as np
import pytest
import torch
from pml_side import as_pml
from pytorch_metric_learning.utils.inference import FaissKNN, InferenceModel, MatchFinder

from metricjax import inference
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance


def drawn(seed, n=30):
    return np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("distance", "threshold"),
    [
        (CosineSimilarity(), 0.2),
        (DotProductSimilarity(normalize_embeddings=False), 1.0),
        (LpDistance(), 1.3),
        (LpDistance(power=2), 1.5),
        (LpDistance(normalize_embeddings=False), 3.8),
        (SNRDistance(), 1.9),
    ],
)
def test_matching_pairs(distance, threshold):
    x, y = drawn(0), drawn(1)
    finder = MatchFinder(as_pml(distance), threshold)
    index = inference.Index(y, distance=distance)
    ours = index.matches(x, threshold)
    theirs = finder.get_matching_pairs(torch.tensor(x), torch.tensor(y))
    np.testing.assert_array_equal(ours, theirs)
    assert 0.1 < ours.mean() < 0.9
    tuples = finder.get_matching_pairs(torch.tensor(x), torch.tensor(y), return_tuples=True)
    assert [list(map(int, pair)) for pair in tuples] == np.argwhere(ours).tolist()
    if not getattr(distance, "normalize_embeddings", True):
        rows = finder.is_match(torch.tensor(x), torch.tensor(y))
        np.testing.assert_array_equal(index.match(x, y, threshold), rows)


def test_row_by_row_theirs_does_not_normalize():
    x, y = np.array([[2.0, 0]], np.float32), np.array([[0.1, 0]], np.float32)
    finder = MatchFinder(as_pml(CosineSimilarity()), 0.9)
    assert not finder.is_match(torch.tensor(x), torch.tensor(y))
    assert finder.get_matching_pairs(torch.tensor(x), torch.tensor(y))
    assert inference.match(x, y, 0.9, distance=CosineSimilarity())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["jax", "faiss"])
def test_nearest_neighbors_of_a_model(backend):
    """PML's model normalizes, and its distances are squared."""
    x, more, query = drawn(0), drawn(1), drawn(2)
    model = InferenceModel(
        torch.nn.Identity(), knn_func=FaissKNN(reset_before=False, reset_after=False)
    )
    model.train_knn(torch.tensor(x))
    model.add_to_knn(torch.tensor(more))
    theirs = model.get_nearest_neighbors(torch.tensor(query), 6)
    index = inference.Index(x, distance=LpDistance(power=2), backend=backend).add(more)
    ours = index.nearest(query, 6)
    np.testing.assert_array_equal(ours.ids, theirs[1])
    np.testing.assert_allclose(ours.distances, theirs[0], atol=1e-5)
    match = model.get_matches(torch.tensor(query), threshold=0.2)
    cosine = inference.Index(query, distance=CosineSimilarity())
    np.testing.assert_array_equal(cosine.matches(query, 0.2), match)
    rows = model.is_match(torch.tensor(query), torch.tensor(x), threshold=0.2)
    np.testing.assert_array_equal(cosine.match(query, x, 0.2), rows)
