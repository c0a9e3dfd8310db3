"""Reducers on real losses against PyTorch Metric Learning: value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.losses as pml_losses
import pytorch_metric_learning.reducers as pml
import torch

from metricjax import Refs, losses, reduce, reducers

N, M, D, C = 12, 10, 4, 5  # some classes are missing, some have one member
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
LOSSES = {
    "contrastive": (losses.contrastive, pml_losses.ContrastiveLoss),
    "multi_similarity": (losses.multi_similarity, pml_losses.MultiSimilarityLoss),
    "triplet_margin": (
        functools.partial(losses.triplet_margin, margin=0.5),
        functools.partial(pml_losses.TripletMarginLoss, margin=0.5),
    ),
}
CASES = [
    (loss, reducer)
    for loss in LOSSES
    for reducer in REDUCERS
    if (loss != "triplet_margin" or "per_anchor" not in reducer)
    and (loss == "contrastive" or reducer != "by_term")
]


@functools.partial(jax.jit, static_argnums=0)
def ours(loss, x, labels, refs):
    """The value and the gradient of one loss under each reducer."""

    def one(make):
        run = lambda x: reduce(LOSSES[loss][0](x, labels, refs=refs), make(labels))[0]
        return jax.value_and_grad(run)(x)

    return {name: one(REDUCERS[name][0]) for of, name in CASES if of == loss}


def draw(seed, mode):
    """Random embeddings, labels, references; the second batch has no positives at all."""
    rng = np.random.default_rng(seed)
    x, r = rng.normal(size=(N, D)), rng.normal(size=(M, D))
    labels, ref_labels = rng.integers(0, C - 1, N), rng.integers(1, C, M)
    if seed == 1:
        labels, ref_labels = np.arange(N) % C, np.full(M, C)
        labels = labels if mode == "refs" else np.zeros(N, int)
    return x, labels, r, ref_labels


@functools.cache
def settings(loss, mode):
    """A few random batches, and what ours gives on them."""
    out = []
    with jax.enable_x64(True):
        for seed in range(3):
            x, labels, r, ref_labels = draw(seed, mode)
            refs = Refs(r, ref_labels) if mode == "refs" else None
            got = jax.tree.map(np.asarray, ours(loss, x, labels, refs))
            out.append((x, labels, r, ref_labels, got))
    return out


@pytest.mark.parametrize("mode", ["self", "refs"])
@pytest.mark.parametrize(("loss", "reducer"), CASES)
def test_value_and_gradient_are_those_of_pml(loss, reducer, mode):
    values = []
    for x, labels, r, ref_labels, got in settings(loss, mode):
        given = torch.tensor(x, requires_grad=True)
        refs = (None, torch.tensor(r), torch.tensor(ref_labels)) if mode == "refs" else ()
        theirs = LOSSES[loss][1](reducer=REDUCERS[reducer][1]())
        value = theirs(given, torch.tensor(labels), *refs)
        value.backward()
        np.testing.assert_allclose(got[reducer][0], value.item(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got[reducer][1], given.grad, rtol=1e-8, atol=1e-9)
        values.append(value.item())
    assert (values[0] > 0) == (reducer != "nothing")
