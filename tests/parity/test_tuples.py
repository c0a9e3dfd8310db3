"""Conversions of tuples against PyTorch Metric Learning, as multisets; draws, by distribution."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils import loss_and_miner_utils as pml
from scipy.stats import chi2_contingency

from metricjax import Refs, tuples

N, M, T = 9, 11, 25
SHAPES = {"self": (N, N), "refs": (N, M)}
both_modes = pytest.mark.parametrize("mode", SHAPES)
every_seed = pytest.mark.parametrize("seed", range(6))


def multiset(*index):
    return collections.Counter(zip(*(np.asarray(x).tolist() for x in index), strict=True))


def counted(index, weights):
    """Index lists with whole weights as a multiset."""
    out = collections.Counter()
    for *row, weight in zip(*(np.asarray(x).tolist() for x in (*index, weights)), strict=True):
        if weight:
            assert weight == int(weight)
            out[tuple(row)] += int(weight)
    return out


def draw(seed, mode):
    """Labels for us and for them, and an anchor, a positive and a negative list."""
    rng = np.random.default_rng(seed)
    classes = (2, 4, 30)[seed % 3]
    labels, others = rng.integers(0, classes, N), rng.integers(0, classes, M)
    refs = Refs(None, jnp.array(others)) if mode == "refs" else None
    theirs = [torch.tensor(labels)] + ([torch.tensor(others)] if mode == "refs" else [])
    lists = [rng.integers(0, end, T) for end in (N, SHAPES[mode][1], N, SHAPES[mode][1])]
    return jnp.array(labels), refs, theirs, lists


as_pair_lists = jax.jit(tuples.as_pair_lists, static_argnums=(1, 2))
as_triplets = jax.jit(tuples.as_triplets, static_argnums=1)
sample_weights = jax.jit(tuples.sample_weights, static_argnums=1, static_argnames="self_refs")
PAIRS, TRIPLETS = N * M, N * M * M


def our_pairs(mined, shape):
    lists, left_out = as_pair_lists(mined, PAIRS, shape)
    assert left_out == (0, 0)
    return counted((lists.a1, lists.p), lists.where_positive), counted(
        (lists.a2, lists.n), lists.where_negative
    )


def our_triplets(mined):
    listed, left_out = as_triplets(mined, TRIPLETS)
    assert left_out == 0
    return counted(listed[:3], listed.weights)


def their_pairs(a1, p, a2, n):
    return multiset(a1, p), multiset(a2, n)


@every_seed
@both_modes
def test_all_pairs_and_triplets(mode, seed):
    labels, refs, theirs, _ = draw(seed, mode)
    mined = tuples.all_pairs(labels, refs)
    assert our_pairs(mined, SHAPES[mode]) == their_pairs(*pml.convert_to_pairs(None, *theirs))
    expected = pml.convert_to_triplets(None, *theirs, t_per_anchor="all")
    assert our_triplets(mined) == multiset(*expected)
    listed, _ = as_triplets(mined, TRIPLETS)  # in the same order, too
    for got, want in zip(listed, expected, strict=False):
        np.testing.assert_array_equal(got[: len(want)], want)


@every_seed
@both_modes
def test_lists_of_pairs_and_of_triplets(mode, seed):
    _, _, theirs, (a1, p, a2, n) = draw(seed, mode)
    shape = SHAPES[mode]
    pairs = tuple(torch.tensor(x) for x in (a1, p, a2, n))
    mined = tuples.from_pairs(a1, p, a2, n, shape=shape)
    assert our_pairs(mined, shape) == their_pairs(*pml.convert_to_pairs(pairs, *theirs))
    assert our_triplets(mined) == multiset(*pml.convert_to_triplets(pairs, *theirs))
    triplets = pairs[0], pairs[1], pairs[3]
    mined = tuples.from_triplets(a1, p, n)
    assert our_pairs(mined, shape) == their_pairs(*pml.convert_to_pairs(triplets, *theirs))
    assert our_triplets(mined) == multiset(*pml.convert_to_triplets(triplets, *theirs))


@every_seed
@both_modes
def test_weights_of_samples(mode, seed):
    _, _, theirs, (a1, p, a2, n) = draw(seed, mode)
    pairs = tuple(torch.tensor(x) for x in (a1, p, a2, n))
    for mined, index in (
        (tuples.from_pairs(a1, p, a2, n, shape=SHAPES[mode]), pairs),
        (tuples.from_triplets(a1, p, n), (pairs[0], pairs[1], pairs[3])),
        (tuples.from_triplets(a1[:0], p[:0], n[:0]), (pairs[0][:0],) * 3),
    ):
        got = sample_weights(mined, N, self_refs=mode == "self")
        want = pml.convert_to_weights(index, theirs[0], torch.float32, using_ref=mode == "refs")
        np.testing.assert_allclose(got, want, rtol=1e-6)


LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3])
OTHERS = np.array([0, 3, 0, 1, 5, 0, 1, 2])


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("given", [True, False])
@both_modes
def test_random_triplets_are_drawn_alike(mode, given, weighed):
    """Their draws and ours look like draws of one distribution.

    Without a given count PML draws, for each anchor, as many triplets as its class has samples
    among the references. Shapes are static here: draw for the largest class, weigh what is beyond.
    """
    torch.manual_seed(0)
    repeats, k = 400, 5
    refs = Refs(None, jnp.array(OTHERS)) if mode == "refs" else None
    others = LABELS if refs is None else OTHERS
    negative_weights = None
    if weighed:
        negative_weights = np.random.default_rng(0).random((len(LABELS), 8)).astype(np.float32)
    size = k if given else 3
    per_anchor = jnp.array(np.full(8, k) if given else np.sum(LABELS[:, None] == others, 1))

    @jax.jit
    def draw(key):
        listed = tuples.random_triplets(
            key, jnp.array(LABELS), size, refs=refs, negative_weights=negative_weights
        )
        nth = jnp.arange(len(listed.anchor)) % size
        return listed._replace(
            weights=jnp.where(nth < per_anchor[listed.anchor], listed.weights, 0)
        )

    ours = jax.vmap(draw)(jax.random.split(jax.random.key(0), repeats))
    ours = counted((x.ravel() for x in ours[:3]), ours.weights.ravel())
    labels = torch.tensor(LABELS)
    theirs = collections.Counter()
    for _ in range(repeats):
        theirs += multiset(
            *pml.get_random_triplet_indices(
                labels,
                None if refs is None else torch.tensor(OTHERS),
                t_per_anchor=k if given else None,
                weights=None if negative_weights is None else torch.tensor(negative_weights),
            )
        )
    by_anchor = [collections.Counter(a for a, _, _ in x.elements()) for x in (ours, theirs)]
    assert by_anchor[0] == by_anchor[1]
    cells = sorted(ours | theirs)
    table = np.array([[x[cell] for cell in cells] for x in (ours, theirs)])
    often = table.sum(0) >= 10
    table = np.column_stack([table[:, often], table[:, ~often].sum(1) + 1])
    assert table.shape[1] > 50
    assert chi2_contingency(table).pvalue > 1e-4
