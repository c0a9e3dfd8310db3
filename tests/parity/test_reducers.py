"""Reducers on real losses against PyTorch Metric Learning: value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.reducers as pml
import torch
from cases import CASES
from pml_side import NO_GRADIENT, SINGLE, draw, make_pml, run_pml

from metricjax import reduce, reducers

CLASS_WEIGHTS = np.array([1.0, 0.5, 3.0, 0.25, 2.0])


class ByClass(pml.ClassWeightedReducer):
    """Theirs, less a slip: the values of some losses are ``[N, 1]``, which made them ``[N, N]``."""

    def element_reduction_helper(self, losses, indices, labels):
        return super().element_reduction_helper(losses.flatten(), indices, labels)


ours_by_class = lambda labels: reducers.class_weighted(jnp.array(CLASS_WEIGHTS)[labels])
always = lambda reducer: lambda labels: reducer
REDUCERS = {  # given the labels: ours; theirs
    "default": (always(None), lambda: None),
    "mean": (always(reducers.mean), pml.MeanReducer),
    "sum": (always(reducers.sum), pml.SumReducer),
    "avg_non_zero": (always(reducers.avg_non_zero), pml.AvgNonZeroReducer),
    "low": (always(reducers.threshold(low=0.4)), lambda: pml.ThresholdReducer(low=0.4)),
    "high": (always(reducers.threshold(high=0.7)), lambda: pml.ThresholdReducer(high=0.7)),
    "low_high": (
        always(reducers.threshold(low=0.2, high=0.8)),
        lambda: pml.ThresholdReducer(low=0.2, high=0.8),
    ),
    "nothing": (always(reducers.threshold(low=99)), lambda: pml.ThresholdReducer(low=99)),
    "class_weighted": (ours_by_class, lambda: ByClass(torch.tensor(CLASS_WEIGHTS))),
    "per_anchor": (always(reducers.per_anchor()), pml.PerAnchorReducer),
    "per_anchor_sum": (
        always(reducers.per_anchor(then=reducers.sum)),
        lambda: pml.PerAnchorReducer(pml.SumReducer()),
    ),
    "per_anchor_high": (
        always(reducers.per_anchor(then=reducers.threshold(low=0.1, high=0.5))),
        lambda: pml.PerAnchorReducer(pml.ThresholdReducer(low=0.1, high=0.5)),
    ),
    "by_term": (
        always({"pos_loss": reducers.sum, "neg_loss": reducers.threshold(high=0.5)}),
        lambda: pml.MultipleReducers(
            {"pos_loss": pml.SumReducer(), "neg_loss": pml.ThresholdReducer(high=0.5)}
        ),
    ),
}
STREAMED = "triplet_margin margin".split()  # triplets come by positives, not by anchors
COLUMNS = "angular lifted_structure tuplet_margin".split()  # PML's values [n, 1] make it fail
NO_LABELS = "vicreg manifold proxy_anchor".split()  # their values are not of samples with labels


def applies(case, reducer):
    if "per_anchor" in reducer:
        return str(case) not in STREAMED + COLUMNS
    if reducer == "class_weighted":
        return str(case) not in NO_LABELS
    return reducer != "by_term" or str(case) in ("contrastive", "intra_pair_variance")


@functools.cache
def ours(case):
    """``(embeddings, labels, weights) -> gradients, values`` under each reducer that applies."""
    chosen = {name: make for name, (make, _) in REDUCERS.items() if applies(case, name)}

    def all_of_them(e, y, weights):
        def values(e):
            terms = case.fn(e, y, *weights, **case.pml_options)
            found = {name: reduce(terms, make(y))[0] for name, make in chosen.items()}
            return found, found

        return jax.jacrev(values, has_aux=True)(e)  # compiles the backward pass once

    return jax.jit(all_of_them)


@functools.cache
def settings(case):
    """A few random batches, and what ours gives on them."""
    out = []
    with jax.enable_x64(True):
        for seed in range(2):
            e, y, _, index, weights = draw(case, np.random.default_rng(seed), "self")
            if str(case) == "angular":
                e = e / np.linalg.norm(e, axis=1, keepdims=True)
            got = jax.tree.map(np.asarray, ours(case)(e, y, weights))
            out.append((e, y, index, weights, got))
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case, reducer",
    [
        pytest.param(case, reducer, id=f"{case}-{reducer}")
        for case in CASES
        for reducer in REDUCERS
        if case.pml and applies(case, reducer)
    ],
)
def test_value_and_gradient_are_those_of_pml(case, reducer):
    tolerance = SINGLE.get(str(case), 1e-9)
    for e, y, index, weights, (grads_of, values) in settings(case):
        theirs = make_pml(case, {}, weights, reducer=REDUCERS[reducer][1]())
        value, grads = run_pml(case, theirs, "self", e, y, (e, y), index)
        np.testing.assert_allclose(values[reducer], value, rtol=tolerance, atol=tolerance)
        if str(case) not in (*NO_GRADIENT, "angular"):
            atol = tolerance * max(1, abs(grads[0]).max())
            np.testing.assert_allclose(grads_of[reducer], grads[0], rtol=tolerance, atol=atol)
