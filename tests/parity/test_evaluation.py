"""Retrieval metrics against PyTorch Metric Learning's AccuracyCalculator."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance as TorchLpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from metricjax.distances import LpDistance
from metricjax.evaluation import retrieval_metrics

NAMES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["self", "separate", "inside"])
@pytest.mark.parametrize(("q", "m", "k"), [(25, 30, None), (25, 30, 4), (31, 9, None)])
def test_equals_accuracy_calculator(mode, q, m, k):
    calculator = AccuracyCalculator(
        include=NAMES,
        k=k,
        device=torch.device("cpu"),
        knn_func=CustomKNN(TorchLpDistance(normalize_embeddings=False)),
    )
    for seed in range(8):
        rng = np.random.default_rng(seed)
        query = rng.normal(size=(q, 8)).astype(np.float32)
        reference = rng.normal(size=(m, 8)).astype(np.float32)
        query_labels = rng.permutation(np.arange(q) ** 2 // 64)  # small, large and lone classes
        reference_labels = rng.permutation(np.arange(m) ** 2 // 64)
        if mode == "inside":
            reference = np.concatenate([query, reference])
            reference_labels = np.concatenate([query_labels, reference_labels])
        references = () if mode == "self" else (reference, reference_labels)
        theirs = calculator.get_accuracy(
            query, query_labels, *references, ref_includes_query=mode == "inside"
        )
        ours = retrieval_metrics(
            query,
            query_labels,
            *references,
            ref_includes_query=mode == "inside",
            k=k,
            distance=LpDistance(normalize_embeddings=False),
            block_size=7,
        )
        for name in NAMES:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, err_msg=name)
