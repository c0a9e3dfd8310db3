"""Regularizers against PyTorch Metric Learning: value and gradient, in double precision."""

import functools

import jax
import numpy as np
import pytest
import pytorch_metric_learning.reducers as pml_reducers
import pytorch_metric_learning.regularizers as pml
import torch
from pytorch_metric_learning import distances as pml_distances

from metricjax import reduce, reducers, regularizers
from metricjax.distances import DotProductSimilarity

partial = functools.partial
C, K, D = 6, 3, 5
plain = partial(pml_distances.LpDistance, normalize_embeddings=False)
dot = pml_distances.DotProductSimilarity(normalize_embeddings=False)
CASES = {
    "lp": (regularizers.lp, pml.LpRegularizer()),
    "zero_mean": (regularizers.zero_mean, pml.ZeroMeanRegularizer()),
    "center_invariant": (regularizers.center_invariant, pml.CenterInvariantRegularizer()),
    "center_invariant_1": (
        partial(regularizers.center_invariant, p=1),
        pml.CenterInvariantRegularizer(distance=plain(p=1)),
    ),
    "regular_face": (regularizers.regular_face, pml.RegularFaceRegularizer()),
    "regular_face_dot": (
        partial(
            regularizers.regular_face, distance=DotProductSimilarity(normalize_embeddings=False)
        ),
        pml.RegularFaceRegularizer(distance=dot),
    ),
    "sparse_centers": (
        partial(regularizers.sparse_centers, centers_per_class=K),
        pml.SparseCentersRegularizer(C, K),
    ),
    "sparse_centers_mean": (
        partial(regularizers.sparse_centers, centers_per_class=K, reducer=reducers.mean),
        pml.SparseCentersRegularizer(C, K, reducer=pml_reducers.MeanReducer()),
    ),
    "zero_mean_threshold": (
        partial(regularizers.zero_mean, reducer=reducers.threshold(low=0.5, high=2)),
        pml.ZeroMeanRegularizer(reducer=pml_reducers.ThresholdReducer(low=0.5, high=2)),
    ),
} | {
    f"lp-{p}-{power}": (
        partial(regularizers.lp, p=p, power=power),
        pml.LpRegularizer(p=p, power=power),
    )
    for p in (1, 2, 3)
    for power in (0.5, 1, 2)
}


@jax.jit
def ours(x):
    losses = {name: lambda x, f=f: reduce(f(x))[0] for name, (f, _) in CASES.items()}
    return {name: jax.value_and_grad(loss)(x) for name, loss in losses.items()}


@functools.cache
def settings():
    """A few random matrices, and what ours gives on them."""
    with jax.enable_x64(True):
        rows = [np.random.default_rng(seed).normal(size=(C * K, D)) for seed in range(5)]
        return [(x, jax.tree.map(np.asarray, ours(x))) for x in rows]


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_pml(name):
    for x, got in settings():
        given = torch.tensor(x, requires_grad=True)
        loss = CASES[name][1](given)
        loss.backward()
        np.testing.assert_allclose(got[name][0], loss.item(), rtol=1e-9)
        np.testing.assert_allclose(got[name][1], given.grad, rtol=1e-9, atol=1e-9)
