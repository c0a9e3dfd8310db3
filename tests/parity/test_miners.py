"""Miners against PyTorch Metric Learning: the same pairs and triplets in random settings.

Our batches are padded to one shape and masked by `where`; theirs are as long as they are. Integer
embeddings under distances without rounding give exact ties. All of it is in double precision.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.distances as pml
import pytorch_metric_learning.miners as pml_miners
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miner_cases import CASES

from metricjax import Pairs, Refs, miners, tuples
from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)

N, M, D = 9, 10, 4
TYPES = "all", "hard", "semihard", "easy"
STRATEGIES = [
    pair
    for pair in itertools.product(("hard", "semihard", "easy", "all"), repeat=2)
    if pair not in [("semihard", "semihard"), ("semihard", "all"), ("all", "semihard")]
]
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
SEEDS = st.integers(0, 2**32 - 1)
MODES = pytest.mark.parametrize("mode", ["self", "refs"])
COVERED = set()  # the miners that a test of this file compares


def compares(pml_name, examples=1000):
    """Runs a test in that many random settings for each mode: of the batch, and with references."""
    COVERED.add(pml_name)

    def mark(test):
        run = given(seed=SEEDS, sizes=st.tuples(st.integers(1, N), st.integers(1, M)))(test)
        limits = dict(max_examples=examples, derandomize=True, deadline=None, database=None)
        return MODES(settings(**limits)(run))

    return mark


class Setting:
    """One random batch: padded for ours, as tensors of the right length for theirs."""

    def __init__(self, mode, seed, sizes, integers):
        rng = np.random.default_rng(seed)
        self.n, self.m = sizes[0], sizes[0] if mode == "self" else sizes[1]
        classes = rng.choice([1, 2, 3, 30])

        def some(size, count):
            x = rng.integers(-2, 3, (size, D)) if integers else rng.normal(size=(size, D))
            x = x.astype(float)
            x[count:] = np.nan
            return x, rng.integers(0, classes, size), (np.arange(size) < count).astype(float)

        self.x, self.y, self.where = some(N, self.n)
        self.refs, theirs = None, ()
        if mode == "refs":
            r, ry, where = some(M, self.m)
            self.refs, theirs = Refs(r, ry, where=where), (r[: self.m], ry[: self.m])
        arrays = (self.x[: self.n], self.y[: self.n], *theirs)
        self.theirs = [torch.tensor(v) for v in arrays]
        self.rng = rng

    def ours(self, run, *args):
        with jax.enable_x64(True):
            mined = run(*args, self.x, self.y, self.refs, self.where)
            return jax.tree.map(np.asarray, mined)

    def count(self, *indices):
        """How often each tuple is in their list, in the shape of ours."""
        m = N if self.refs is None else M
        out = np.zeros((N, *[m] * (len(indices) - 1)))
        np.add.at(out, tuple(np.asarray(v) for v in indices), 1)
        return out


def jitted(run):
    """``run(distance, numbers, given, x, y)`` with `given` for the miner, compiled once a shape."""

    def fn(distance, numbers, x, y, refs, where):
        given = {"refs": refs, "where": where}
        if distance is not None:
            given["distance"] = distance
        return run(given, numbers, x, y)

    return jax.jit(fn, static_argnums=0)


def all_triplets(rule):
    """Weights ``[N, M, M]`` of the triplets that a rule keeps."""
    n, m = rule.positive.shape
    keep = jax.vmap(lambda j: rule.keep(rule.rows, jnp.full(n, j)), out_axes=1)(jnp.arange(m))
    return jnp.where(keep, rule.positive[:, :, None] * rule.negative[:, None, :], 0)


def same_pairs(ours, theirs, setting):
    a1, p, a2, n = theirs
    np.testing.assert_array_equal(ours.positive, setting.count(a1, p))
    np.testing.assert_array_equal(ours.negative, setting.count(a2, n))


pair_margin = jitted(
    lambda given, m, x, y: miners.pair_margin(x, y, pos_margin=m[0], neg_margin=m[1], **given)
)
multi_similarity = jitted(
    lambda given, m, x, y: miners.multi_similarity(x, y, epsilon=m[0], **given)
)
triplet_margin = jitted(
    lambda given, m, x, y: {
        kind: all_triplets(miners.triplet_margin(x, y, margin=m[0], type_of_triplets=kind, **given))
        for kind in TYPES
    }
)
angular = jitted(lambda given, m, x, y: all_triplets(miners.angular(x, y, angle=m[0], **given)))
hdc = jitted(lambda given, m, x, y: miners.hdc(x, y, filter_percentage=m[0], mined=m[1], **given))
batch_hard = jitted(
    lambda given, m, x, y: miners.batch_hard(
        x, y, allowed_pos_range=m[0], allowed_neg_range=m[1], **given
    )
)
batch_easy_hard = jitted(
    lambda given, m, x, y: {
        (p, n): miners.batch_easy_hard(
            x, y, pos_strategy=p, neg_strategy=n,
            allowed_pos_range=m[0], allowed_neg_range=m[1], **given
        )
        for p, n in STRATEGIES
    }
)  # fmt: skip


def drawn(mode, seed, sizes):
    """A setting, its distance on both sides, and an index that follows from the seed."""
    name = list(DISTANCES)[seed % len(DISTANCES)]
    ours, theirs, integers = DISTANCES[name]
    return Setting(mode, seed, sizes, integers), ours, theirs


def numbers(setting, count):
    return [float(v) for v in setting.rng.choice([-2, -1, -0.5, 0, 0.1, 0.2, 0.8, 1, 2, 4], count)]


@compares("PairMarginMiner")
def test_pair_margin(mode, seed, sizes):
    s, distance, theirs = drawn(mode, seed, sizes)
    margins = numbers(s, 2)
    want = pml_miners.PairMarginMiner(*margins, distance=theirs)(*s.theirs)
    same_pairs(s.ours(pair_margin, distance, margins), want, s)


@compares("MultiSimilarityMiner")
def test_multi_similarity(mode, seed, sizes):
    s, distance, theirs = drawn(mode, seed, sizes)
    (epsilon,) = numbers(s, 1)
    want = pml_miners.MultiSimilarityMiner(epsilon, distance=theirs)(*s.theirs)
    same_pairs(s.ours(multi_similarity, distance, [epsilon]), want, s)


@compares("TripletMarginMiner")
def test_triplet_margin(mode, seed, sizes):
    s, distance, theirs = drawn(mode, seed, sizes)
    (margin,) = numbers(s, 1)
    got = s.ours(triplet_margin, distance, [margin])
    for kind in TYPES:
        want = pml_miners.TripletMarginMiner(margin, kind, distance=theirs)(*s.theirs)
        np.testing.assert_array_equal(got[kind], s.count(*want))


def ranges(setting):
    """For both kinds, as numbers for ours and as PML takes them."""
    ours, theirs = [], []
    for _ in range(2):
        low, high = sorted(numbers(setting, 2))
        free = setting.rng.random() < 0.5
        ours.append((-np.inf, np.inf) if free else (low, high))
        theirs.append(None if free else (low, high))
    return ours, dict(zip(("allowed_pos_range", "allowed_neg_range"), theirs, strict=True))


@compares("BatchEasyHardMiner")
def test_batch_easy_hard(mode, seed, sizes):
    s, distance, theirs = drawn(mode, seed, sizes)
    ours, options = ranges(s)
    got = s.ours(batch_easy_hard, distance, ours)
    for i in s.rng.choice(len(STRATEGIES), 4, replace=False):
        pos, neg = STRATEGIES[i]
        miner = pml_miners.BatchEasyHardMiner(pos, neg, distance=theirs, **options)
        same_pairs(got[pos, neg], miner(*s.theirs), s)


@compares("BatchHardMiner")
def test_batch_hard(mode, seed, sizes):
    s, distance, theirs = drawn(mode, seed, sizes)
    ours, options = ranges(s)
    *indices, weights = s.ours(batch_hard, distance, ours)
    kept = weights > 0
    want = pml_miners.BatchHardMiner(distance=theirs, **options)(*s.theirs)
    np.testing.assert_array_equal(s.count(*(v[kept] for v in indices)), s.count(*want))


@compares("HDCMiner")
def test_hdc(mode, seed, sizes):
    """A pool with repeats. Of equally hard pairs PML takes any, so there only the number counts."""
    s, distance, theirs = drawn(mode, seed, sizes)
    fraction = float(s.rng.choice([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0]))
    m = N if s.refs is None else M
    with jax.enable_x64(True):
        every = jax.tree.map(np.asarray, tuples.all_pairs(s.y, s.refs, None))
    inside = np.outer(np.arange(N) < s.n, np.arange(m) < s.m)
    whole = s.rng.random() < 0.3
    repeats = 1 if whole else s.rng.integers(0, 3, (N, m))
    pool = Pairs(*(v.astype(float) * inside * repeats for v in every))
    miner = pml_miners.HDCMiner(fraction, distance=theirs)
    if not whole:
        entries = [np.repeat(np.argwhere(v), v[v > 0].astype(int), 0).T for v in pool]
        entries = [torch.tensor(v) for pair in entries for v in pair]
        miner.set_idx_externally(tuple(entries), s.theirs[1])
    a1, p, a2, n = miner(*s.theirs)
    got = s.ours(hdc, distance, (fraction, pool))
    mat = np.full((N, m), np.nan)
    r = s.theirs[2] if s.refs is not None else None
    mat[: s.n, : s.m] = theirs(s.theirs[0], r).numpy()
    for ours, want in ((got.positive, s.count(a1, p)), (got.negative, s.count(a2, n))):
        assert ours.sum() == want.sum()
        if want.sum():
            sign = -1 if distance.is_similarity else 1
            sign *= 1 if ours is got.positive else -1
            hard = sign * mat
            last = hard[want > 0].min()
            clear = ~(np.abs(hard - last) < 1e-9)
            np.testing.assert_array_equal(ours[clear], want[clear])


@compares("AngularMiner")
def test_angular(mode, seed, sizes):
    """PML moves each difference by 1e-6: what is that near to the angle may differ.

    So may triplets whose three points coincide; see `test_angular_of_a_collapsed_batch`.
    """
    s = Setting(mode, seed, sizes, integers=seed % 2 == 0)
    angle = float(s.rng.choice([-5, 0, 1, 10, 20, 30, 45, 60, 80, 90, 100]))
    got = s.ours(angular, None, [angle])
    want = s.count(*pml_miners.AngularMiner(angle)(*s.theirs))
    r = s.x if s.refs is None else s.refs.embeddings
    center = (s.x[:, None] + r) / 2
    opposite = np.linalg.norm(s.x[:, None] - r, axis=-1)[:, :, None]
    adjacent = 2 * np.linalg.norm(center[:, :, None] - r, axis=-1)
    clear = np.abs(np.degrees(np.arctan2(opposite, adjacent)) - angle) > 1e-3
    clear &= opposite + adjacent > 0
    np.testing.assert_array_equal(got[clear], want[clear])
    assert angle >= 0 or np.array_equal(got, want)


def test_angular_of_a_collapsed_batch():
    """The one difference: they keep all of its triplets, from an angle made of 1e-6 alone."""
    x, y = np.ones((4, D)), np.array([0, 0, 1, 1])
    theirs = pml_miners.AngularMiner()(torch.tensor(x), torch.tensor(y))
    assert len(theirs[0]) == 8
    assert not np.any(tuples.as_pairs(miners.angular(x, y)).negative)


@functools.partial(jax.jit, static_argnums=0)
def random_miner(miner, x, y, refs, where, key):
    if miner is miners.distance_weighted:
        return miner(x, y, refs=refs, where=where, key=key)
    return miner(x, y, refs=refs, where=where, key=key, num_bins=5, pos_per_bin=3, neg_per_bin=2)


@compares("DistanceWeightedMiner", examples=300)
def test_distance_weighted_draws_as_many_for_each_anchor(mode, seed, sizes):
    """How they are distributed is in `test_miners_random.py`."""
    s = Setting(mode, seed, sizes, integers=False)
    a, p, n, weights = s.ours(
        lambda *args: random_miner(miners.distance_weighted, *args, jax.random.key(seed % 1000))
    )
    try:
        want = pml_miners.DistanceWeightedMiner()(*s.theirs)
    except RuntimeError:  # theirs needs a finite weight somewhere
        assert not np.any(weights)
        return
    kept = weights > 0
    got = s.count(a[kept], p[kept], n[kept])
    np.testing.assert_array_equal(got.sum((1, 2)), s.count(*want).sum((1, 2)))


@compares("UniformHistogramMiner", examples=300)
def test_uniform_histogram_draws_as_many(mode, seed, sizes):
    s = Setting(mode, seed, sizes, integers=False)
    got = s.ours(
        lambda *args: random_miner(miners.uniform_histogram, *args, jax.random.key(seed % 1000))
    )
    a1, p, a2, n = pml_miners.UniformHistogramMiner(5, 3, 2)(*s.theirs)
    assert got.positive.sum() == len(p) and got.negative.sum() == len(n)
    for ours, theirs in ((got.positive, s.count(a1, p)), (got.negative, s.count(a2, n))):
        assert (ours.sum() > 0) == (theirs.sum() > 0)


def test_every_miner_is_compared():
    assert {case.pml for case in CASES if case.pml} == COVERED


@pytest.mark.parametrize("case", [case for case in CASES if case.pml], ids=str)
def test_options_and_defaults(case):
    theirs = inspect.signature(getattr(pml_miners, case.pml).__init__).parameters
    ours = inspect.signature(case.miner).parameters
    options = {k: p.default for k, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD}
    del options["self"]
    assert options == {name: ours[name].default for name in options}
