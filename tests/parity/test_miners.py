"""Miners against PyTorch Metric Learning: the same pairs and triplets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.distances as pml
import pytorch_metric_learning.miners as pml_miners
import torch

from metricjax import Refs, miners
from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)

N, M, D = 11, 13, 4
TYPES = "all", "hard", "semihard", "easy"
DISTANCES = {  # ours, theirs, whether to draw integers: exact values, many ties
    "euclidean": (LpDistance(), pml.LpDistance(), False),
    "cosine": (CosineSimilarity(), pml.CosineSimilarity(), False),
    "snr": (SNRDistance(), pml.SNRDistance(), False),
    "l1_ties": (
        LpDistance(p=1, normalize_embeddings=False),
        pml.LpDistance(p=1, normalize_embeddings=False),
        True,
    ),
    "dot_ties": (
        DotProductSimilarity(normalize_embeddings=False),
        pml.DotProductSimilarity(normalize_embeddings=False),
        True,
    ),
}
OPTIONS = [-1.0, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0]


@functools.partial(jax.jit, static_argnums=0)
def ours(distance, x, y, refs, option):
    """The pairs that are kept, and by type the triplets, ``[N, M, M]``."""

    def triplets(kind):
        rule = miners.triplet_margin(
            x, y, refs=refs, margin=option, type_of_triplets=kind, distance=distance
        )
        n, m = rule.positive.shape
        keep = jax.vmap(lambda j: rule.keep(rule.rows, jnp.full(n, j)), out_axes=1)(jnp.arange(m))
        return jnp.where(keep, rule.positive[:, :, None] * rule.negative[:, None, :], 0)

    pairs = miners.multi_similarity(x, y, refs=refs, epsilon=option, distance=distance)
    return pairs, {kind: triplets(kind) for kind in TYPES}


def draw(seed, integers, mode):
    rng = np.random.default_rng(seed)
    classes = (2, 4, 30)[seed % 3]

    def some(n):
        x = rng.integers(-2, 3, (n, D)).astype(float) if integers else rng.normal(size=(n, D))
        return x, rng.integers(0, classes, n)

    batch, refs = some(N), some(M)
    return batch, refs if mode == "refs" else None, OPTIONS[seed % 8]


def indices(tuples):
    return {tuple(map(int, row)) for row in zip(*tuples, strict=True)}


def kept(weights):
    assert set(np.unique(weights)) <= {0, 1}
    return {tuple(map(int, row)) for row in np.argwhere(weights)}


@pytest.mark.parametrize("seeds", [range(0, 12), range(12, 24)], ids=["first", "second"])
@pytest.mark.parametrize("mode", ["self", "refs"])
@pytest.mark.parametrize("name", DISTANCES)
def test_the_same_tuples_are_mined(name, mode, seeds):
    distance, theirs, integers = DISTANCES[name]
    some = dict.fromkeys(("pairs", *TYPES), 0)
    for seed in seeds:
        (x, y), refs, option = draw(seed, integers, mode)
        with jax.enable_x64(True):
            mined = ours(distance, x, y, refs and Refs(*refs), option)
            pairs, triplets = jax.tree.map(np.asarray, mined)
        arguments = [torch.tensor(z) for z in (x, y, *(refs or ()))]
        a1, p, a2, n = pml_miners.MultiSimilarityMiner(option, distance=theirs)(*arguments)
        assert kept(pairs.positive) == indices((a1, p))
        assert kept(pairs.negative) == indices((a2, n))
        some["pairs"] += len(p)
        for kind in TYPES:
            miner = pml_miners.TripletMarginMiner(option, kind, distance=theirs)
            expected = indices(miner(*arguments))
            assert kept(triplets[kind]) == expected
            some[kind] += len(expected)
    assert all(some.values())
