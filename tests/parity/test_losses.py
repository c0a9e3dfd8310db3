"""Every option set of every loss against PyTorch Metric Learning: value and gradients.

Over random batches in self mode, with references, with mined pairs and with mined triplets, in
float64, so that a difference is one of mathematics.
"""

import inspect

import jax
import numpy as np
import pytest
import pytorch_metric_learning as pml
import pytorch_metric_learning.distances
import pytorch_metric_learning.losses
import torch
from cases import CASES, C, D

import metricjax as mj
from metricjax import distances

N, M, T = 14, 19, 30
SEEDS = range(3)


def as_pml(option):
    """A distance of ours as one of theirs; anything else as it is."""
    theirs = pml.distances
    if isinstance(option, distances.LpDistance):
        normal = option.normalize_embeddings
        return theirs.LpDistance(p=option.p, power=option.power, normalize_embeddings=normal)
    if isinstance(option, distances.SNRDistance):
        return theirs.SNRDistance(normalize_embeddings=option.normalize_embeddings)
    if isinstance(option, distances.CosineSimilarity):
        return theirs.CosineSimilarity()
    return option


def settings():
    for case in CASES:
        refs = "refs" in inspect.signature(case.loss).parameters
        for options in ({}, *case.options):
            for mode in ("self", "refs", "pairs", "triplets") if refs else ("self", "triplets"):
                if mode == "refs" and options.get("swap"):
                    continue  # PML looks up reference-to-reference distances in the wrong matrix
                words = "-".join(f"{k}={v}" for k, v in options.items())
                yield pytest.param(case, options, mode, id=f"{case}-{words}-{mode}")


def draw(rng, mode):
    """Random embeddings, labels, references and index lists, as numpy arrays."""
    e, y = rng.normal(size=(N, D)), rng.integers(0, C, N)
    r, z = rng.normal(size=(M, D)), rng.integers(0, C, M)
    other = (r, z) if mode == "refs" else (e, y)
    a, p, n = (rng.integers(0, k, T) for k in (N, N, N))
    return e, y, other, (a, p, n)


def of_ours(case, options, mode):
    """``(embeddings, labels, other, index, weights) -> value, gradients``, compiled once."""

    def total(inputs, y, other, index):
        e, *weights = inputs
        a, p, n = index
        given = {
            "self": {},
            "refs": {"refs": mj.Refs(*other)},
            "pairs": {"mined": mj.tuples.from_pairs(a, p, a[::2], n[::2], shape=(N, N))},
            "triplets": {"mined": mj.tuples.from_triplets(a, p, n)},
        }[mode]
        return mj.reduce(case.loss(e, y, *weights, **given, **options))[0]

    run = jax.jit(jax.value_and_grad(total))
    return lambda e, y, other, index, weights: run((e, *weights), y, other, index)


def run_pml(case, options, mode, e, y, other, index, weights):
    make = getattr(pml.losses, case.pml)
    loss = make(*([C, D] if weights else []), **{k: as_pml(v) for k, v in options.items()})
    inputs = [torch.tensor(e, requires_grad=True)]
    if weights:
        column = case.pml_weights == "W"
        given = torch.tensor(weights[0].T.copy() if column else weights[0])
        setattr(loss, case.pml_weights, torch.nn.Parameter(given))
        inputs.append(getattr(loss, case.pml_weights))
    a, p, n = (torch.tensor(i) for i in index)
    mined = {"pairs": (a, p, a[::2], n[::2]), "triplets": (a, p, n)}.get(mode)
    refs = [torch.tensor(x) for x in other] if mode == "refs" else []
    value = loss(inputs[0], torch.tensor(y), mined, *refs)
    value.backward()
    grads = [x.grad.numpy() for x in inputs]
    if weights and case.pml_weights == "W":
        grads[1] = grads[1].T
    return value.item(), tuple(grads)


@pytest.mark.parametrize("case, options, mode", list(settings()))
def test_value_and_gradients_are_those_of_pml(case, options, mode):
    ours = of_ours(case, options, mode)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        e, y, other, index = draw(rng, mode)
        weights = [rng.normal(size=(C, D))] if case.module else []
        if mode in ("pairs", "triplets") and "refs" in inspect.signature(case.loss).parameters:
            index = separate(index)
        with jax.enable_x64(True):
            got = ours(e, y, other, index, weights)
            want = run_pml(case, options, mode, e, y, other, index, weights)
            jax.tree.map(
                lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-9), got, want
            )
        assert want[0] > 0


def separate(index):
    """No pair both positive and negative, which PML forbids: positives low, negatives high."""
    a, p, n = index
    return a, p % (N // 2), N // 2 + n % (N // 2)
