"""Distances against PyTorch Metric Learning: value and gradients, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.distances as pml
import torch

from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)

N, M, D = 9, 30, 5  # above and below the size where torch.cdist changes its algorithm
LP = [
    (p, power, normalize)
    for p in (0, 0.5, 1, 2, 3, float("inf"))
    for power in (1, 2, 0.5)
    for normalize in (True, False)
]
CASES = {
    "cosine": (CosineSimilarity(), pml.CosineSimilarity()),
    "dot": (DotProductSimilarity(), pml.DotProductSimilarity()),
    "dot_plain": (
        DotProductSimilarity(normalize_embeddings=False),
        pml.DotProductSimilarity(normalize_embeddings=False),
    ),
    "snr": (SNRDistance(), pml.SNRDistance()),
    "snr_plain": (
        SNRDistance(normalize_embeddings=False),
        pml.SNRDistance(normalize_embeddings=False),
    ),
} | {
    f"lp-{p}-{power}-{normalize}": (
        LpDistance(p=p, power=power, normalize_embeddings=normalize),
        pml.LpDistance(p=p, power=power, normalize_embeddings=normalize),
    )
    for p, power, normalize in LP
}


@jax.jit
def ours(x, y, scale):
    def one(distance):
        value, pullback = jax.vjp(distance, x, y)
        return value, *pullback(scale)

    return {name: one(distance) for name, (distance, _) in CASES.items()}


@functools.cache
def settings():
    """A few random batches, and what ours gives on them."""
    out = []
    with jax.enable_x64(True):
        for seed in range(3):
            rng = np.random.default_rng(seed)
            x, y = rng.normal(size=(N, D)), rng.normal(size=(M, D))
            x[0], y[1] = x[0] * 100, y[1] / 100
            scale = rng.normal(size=(N, M))
            out.append((x, y, scale, jax.tree.map(np.asarray, ours(x, y, scale))))
    return out


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_pml(name):
    distance, theirs = CASES[name]
    assert distance.is_similarity == theirs.is_inverted
    for x, y, scale, got in settings():
        for part in (slice(None), slice(3)):
            a, b = (torch.tensor(z, requires_grad=True) for z in (x, y[part]))
            mat = theirs(a, b)
            np.testing.assert_allclose(got[name][0][:, part], mat.detach(), rtol=1e-9, atol=1e-9)
        if name.startswith("lp-0-"):  # constant
            assert not np.any(got[name][1]) and not np.any(got[name][2])
            continue
        a, b = (torch.tensor(z, requires_grad=True) for z in (x, y))
        theirs(a, b).backward(torch.tensor(scale))
        np.testing.assert_allclose(got[name][1], a.grad, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(got[name][2], b.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["cosine", "snr", "lp-2-1-True", "lp-1-1-False"])
def test_batch_against_itself_is_that_of_pml(name):
    distance, theirs = CASES[name]
    x = np.random.default_rng(0).normal(size=(12, D)).astype(np.float32)
    expected = theirs(torch.tensor(x)).numpy()
    np.testing.assert_allclose(jax.jit(distance)(jnp.array(x)), expected, rtol=1e-4, atol=1e-6)
