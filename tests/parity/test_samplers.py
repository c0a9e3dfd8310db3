"""Samplers against PyTorch Metric Learning: the same distributions; batches for torch's loader."""

import itertools
from collections import Counter

import numpy as np
import pytest
import pytorch_metric_learning.samplers as pml
import pytorch_metric_learning.utils.common_functions as pml_functions
import torch
from scipy.stats import chi2_contingency

from metricjax import samplers

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3])
TREE = np.array([[c, c // 3] for c in range(9) for _ in range(4)])


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    monkeypatch.setattr(pml_functions, "NUMPY_RANDOM", np.random.default_rng(0))


def same_distribution(ours, theirs):
    """Chi-square of two samples of hashable values, at a level of 1 in 10,000."""
    counts = Counter(ours), Counter(theirs)
    table = [[count[value] for value in counts[0] | counts[1]] for count in counts]
    return chi2_contingency(table).pvalue > 1e-4


def test_m_per_class():
    """Batches of ours follow from each other within an epoch: one of each seed is compared."""
    sampler = pml.MPerClassSampler(LABELS, 2, batch_size=4, length_before_new_iter=16000)
    theirs = np.reshape(list(sampler), (-1, 4))
    ours = [samplers.m_per_class(LABELS, 2, batch_size=4, seed=s, step=s % 7) for s in range(4000)]
    for value in (lambda batch: tuple(LABELS[batch]), lambda batch: tuple(batch[:2])):
        assert same_distribution(map(value, ours), map(value, theirs))


def test_hierarchical():
    options = {"batch_size": 8, "samples_per_class": 2}
    theirs = [b for _ in range(200) for b in pml.HierarchicalSampler(TREE, **options)]
    assert {len(batch) for batch in theirs} == {8}
    ours = samplers.hierarchical(TREE, **options, seed=0, step=range(len(theirs)))
    classes = lambda batch: tuple(sorted(TREE[batch, 0].tolist()))
    assert same_distribution(map(classes, ours), map(classes, theirs))
    in_classes = lambda batches: [
        tuple(sorted(x % 4 for x in batch if x // 4 == c))
        for batch in np.asarray(batches)
        for c in set(TREE[batch, 0])
    ]
    assert same_distribution(in_classes(ours), in_classes(theirs))


def test_fixed_triplets():
    theirs = np.reshape(list(pml.FixedSetOfTriplets(LABELS, 6000)), (-1, 3))
    ours = samplers.fixed_triplets(LABELS, 6000, seed=0)
    assert same_distribution(map(tuple, ours), map(tuple, theirs))


DATA = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_loader(workers):
    options = {"m": 2, "batch_size": 4, "seed": 0}
    expected = samplers.m_per_class(LABELS, step=range(30), **options)
    batches = samplers.Batches(samplers.m_per_class, LABELS, steps=6, start=8, **options)
    loader = torch.utils.data.DataLoader(
        DATA,
        batch_sampler=batches,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    assert len(loader) == 6
    epochs = [[batch.numpy() for (batch,) in loader] for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [4, 6, 6]
    np.testing.assert_array_equal(list(itertools.chain(*epochs)), expected[8:24])
