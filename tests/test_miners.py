"""Multi-similarity and triplet margin miners: worked numbers, plain numpy, ties, NaN."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricjax import Pairs, Refs, losses, miners, reduce, tuples
from metricjax.distances import (
    DotProductSimilarity,
    LpDistance,
)

TYPES = "all", "hard", "semihard", "easy"
LINE = LpDistance(normalize_embeddings=False)
DOT = DotProductSimilarity(normalize_embeddings=False)
X = np.array([[0], [1], [2], [3], [5]], np.float32)
LABELS = np.array([0, 0, 1, 1, 0])


def listed(mat):
    """The entries above 0, as "ij"."""
    return sorted(f"{i}{j}" for i, j in np.argwhere(np.asarray(mat)))


@functools.partial(jax.jit, static_argnames=("distance", "match"))
def multi_similarity(x, y, refs=None, where=None, epsilon=0.1, **static):
    return miners.multi_similarity(x, y, refs=refs, where=where, epsilon=epsilon, **static)


@functools.partial(jax.jit, static_argnames=("distance", "match"))
def triplets(x, y, refs=None, where=None, margin=0.2, **static):
    """For each type which triplets are kept, ``[N, M, M]`` weights, and the rule's pairs."""

    def one(kind):
        rule = miners.triplet_margin(
            x, y, refs=refs, where=where, margin=margin, type_of_triplets=kind, **static
        )
        n, m = rule.positive.shape
        keep = jax.vmap(lambda j: rule.keep(rule.rows, jnp.full(n, j)), out_axes=1)(jnp.arange(m))
        weights = rule.positive[:, :, None] * rule.negative[:, None, :]
        return jnp.where(keep, weights, 0), tuples.as_pairs(rule)

    return {kind: one(kind) for kind in TYPES}


@pytest.mark.parametrize(
    ("epsilon", "positive", "negative"),
    [
        (0.5, "04 10 14 23 40 41", "02 03 12 13 21 42 43"),
        (0.0, "04 14 40 41", "02 03 12 13 42 43"),
        (-2.5, "04 14 40", "02 12 43"),
        (-3.0, "", ""),  # 5 - 3 is not above 2
        (9.0, "01 04 10 14 23 32 40 41", "02 03 12 13 20 21 24 30 31 34 42 43"),
    ],
)
def test_worked_pairs(epsilon, positive, negative):
    pairs = multi_similarity(X, LABELS, epsilon=epsilon, distance=LINE)
    assert listed(pairs.positive) == positive.split()
    assert listed(pairs.negative) == negative.split()


@pytest.mark.parametrize(
    ("margin", "counts"),
    [(0.2, (10, 10, 0, 8)), (1.0, (15, 10, 5, 3)), (0.0, (10, 10, 0, 8)), (-1.0, (8, 8, 0, 10))],
)
def test_worked_triplets(margin, counts):
    kept = triplets(X, LABELS, margin=margin, distance=LINE)
    assert tuple(int(kept[kind][0].sum()) for kind in TYPES) == counts


def test_ties_are_decided_as_stated():
    # anchor 0: its positive at distance 2, its negatives at 1, 2, 3 and 4
    x, y = jnp.array([[0.0], [2], [-1], [-2], [-3], [-4]]), jnp.array([0, 0, 1, 1, 1, 1])
    kept = {
        kind: listed(weights[0])
        for kind, (weights, _) in triplets(x, y, margin=1.0, distance=LINE).items()
    }
    assert kept == {
        "all": ["12", "13", "14"],
        "hard": ["12", "13"],
        "semihard": ["14"],
        "easy": ["15"],
    }
    # strict: a negative at the distance of the farthest positive, plus epsilon, is not kept
    pairs = multi_similarity(x, y, epsilon=1.0, distance=LINE)
    assert listed(pairs.negative[:1]) == ["02", "03"]
    assert listed(pairs.positive[:1]) == ["01"]
    assert listed(multi_similarity(x, y, epsilon=-1.0, distance=LINE).positive[:1]) == []


def brute_force(cost, positive, negative, epsilon, margin):
    """Both miners by their definitions, one tuple at a time, on float32 costs."""
    n, m = cost.shape
    pairs = Pairs(np.zeros((n, m)), np.zeros((n, m)))
    kept = {kind: np.zeros((n, m, m)) for kind in TYPES}
    for a in range(n):
        p, q = np.flatnonzero(positive[a]), np.flatnonzero(negative[a])
        for i in p if len(q) else []:
            pairs.positive[a, i] = cost[a, i] + epsilon > cost[a, q].min()
        for j in q if len(p) else []:
            pairs.negative[a, j] = cost[a, j] - epsilon < cost[a, p].max()
        for i, j in itertools.product(p, q):
            gap = cost[a, j] - cost[a, i]
            kept["all"][a, i, j] = gap <= margin
            kept["hard"][a, i, j] = gap <= margin and gap <= 0
            kept["semihard"][a, i, j] = gap <= margin and gap > 0
            kept["easy"][a, i, j] = gap > margin
    return pairs, kept


def grid(n, seed):
    """Integers, so that distances are exact and ties abound."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (n, 3)).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("self", marks=pytest.mark.slow),
        "refs",
        pytest.param("inside", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "distance",
    [LpDistance(p=1, normalize_embeddings=False), pytest.param(DOT, marks=pytest.mark.slow)],
    ids=["L1", "dot"],
)
def test_equals_definition(distance, mode):
    sizes = set()
    for seed in range(8):
        (x, y), (r, ry), refs = grid(7, seed), grid(9, seed + 100), None
        if mode == "inside":
            r[2:], ry[2:] = x, y
        refs = None if mode == "self" else Refs(r, ry)
        refs = refs._replace(self_index=jnp.arange(2, 9)) if mode == "inside" else refs
        r, ry = (x, y) if mode == "self" else (r, ry)
        own = None if mode == "refs" else np.arange(7) + 2 * (mode == "inside")
        match = y[:, None] == ry[None]
        exists = np.ones(match.shape) if own is None else np.arange(len(r)) != own[:, None]
        mat = x @ r.T if distance is DOT else np.abs(x[:, None] - r[None]).sum(-1)
        cost = -mat if distance is DOT else mat
        epsilon, margin = (-1, 0, 1, 2)[seed % 4], (2, 1, 0, -1)[seed % 4]
        pairs, kept = brute_force(cost, match * exists, ~match * exists, epsilon, margin)
        got = multi_similarity(x, y, refs, epsilon=float(epsilon), distance=distance)
        for a, b in zip(got, pairs, strict=True):
            np.testing.assert_array_equal(a, b)
        for kind, (weights, as_pairs) in triplets(
            x, y, refs, margin=float(margin), distance=distance
        ).items():
            np.testing.assert_array_equal(weights, kept[kind])
            np.testing.assert_array_equal(as_pairs.positive, kept[kind].sum(2))
            np.testing.assert_array_equal(as_pairs.negative, kept[kind].sum(1))
            sizes.add((kind, kept[kind].sum() > 0))
        sizes.add(("pairs", pairs.positive.sum() > 0, pairs.negative.sum() < np.sum(~match)))
    assert {(kind, True) for kind in TYPES} | {("pairs", True, True)} <= sizes


@pytest.mark.parametrize(
    "labels", [[0] * 5, [0, 1, 2, 3, 4], [-7] * 5], ids=["no_negative", "no_positive", "one_class"]
)
def test_anchors_that_lack_one_kind_keep_nothing(labels):
    labels = jnp.array(labels)
    for mat in multi_similarity(X, labels, epsilon=100.0, distance=LINE):
        assert not np.any(mat)
    for weights, pairs in triplets(X, labels, margin=100.0, distance=LINE).values():
        assert not np.any(weights) and not np.any(pairs.positive) and not np.any(pairs.negative)


def test_padding_equals_the_shorter_batch():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    y = np.array([0, 1, 2, 0, 1, 2, 1, 0, 2])
    rows = np.array([0, 1, 3, 4, 6, 8])
    where = np.isin(np.arange(9), rows) * np.float32(0.25)  # any weight above 0 exists
    long = np.where(where[:, None] > 0, x, np.nan)
    block = np.ix_(rows, rows)
    for got, expected in zip(
        multi_similarity(long, y, where=where), multi_similarity(x[rows], y[rows]), strict=True
    ):
        assert np.any(expected) and np.sum(got) == np.sum(expected)
        np.testing.assert_array_equal(got[block], expected)
    got, expected = triplets(long, y, where=where), triplets(x[rows], y[rows])
    for kind in TYPES:
        assert np.any(expected[kind][0]) and np.sum(got[kind][0]) == np.sum(expected[kind][0])
        np.testing.assert_array_equal(got[kind][0][np.ix_(rows, rows, rows)], expected[kind][0])


@pytest.mark.slow
def test_double_precision_decides_finely():
    with jax.enable_x64(True):
        x, y = jnp.array([[0.0], [1], [-1 - 1e-12]]), jnp.array([0, 0, 1])
        kept = triplets(x, y, margin=0.0, distance=LINE)
        assert {kind: int(weights[0].sum()) for kind, (weights, _) in kept.items()} == {
            "all": 0, "hard": 0, "semihard": 0, "easy": 1
        }  # fmt: skip
        pairs = multi_similarity(x, y, epsilon=0.0, distance=LINE)
        assert pairs.negative.dtype == "float64" and not np.any(pairs.negative[0])


@pytest.mark.slow
def test_nan_is_never_sorted_out():
    x = jax.random.normal(jax.random.key(0), (5, 3)).at[1, 1].set(jnp.nan)
    for got, every in zip(multi_similarity(x, LABELS), tuples.all_pairs(LABELS), strict=True):
        np.testing.assert_array_equal(got[1], every[1])
        np.testing.assert_array_equal(got[:, 1], every[:, 1])
    for kind, (weights, _) in triplets(x, LABELS).items():
        assert np.sum(weights[1]) == 2 * 2, kind  # its positives times its negatives
        assert np.sum(weights[:, 1]) == 2 * 2, kind  # as the positive of 0 and 4


def test_nan_reaches_the_loss():
    x = jax.random.normal(jax.random.key(0), (5, 3))

    @jax.jit
    def run(x):
        pairs = miners.multi_similarity(x, LABELS)
        rules = [miners.triplet_margin(x, LABELS, type_of_triplets=kind) for kind in TYPES]
        terms = [losses.multi_similarity(x, mined=pairs)]
        terms += [losses.triplet_margin(x, mined=rule) for rule in rules]
        return jnp.array([reduce(term)[0] for term in terms])

    assert np.all(np.isfinite(run(x))) and np.all(np.isnan(run(x.at[1, 1].set(jnp.nan))))


def test_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="miners.triplet_margin: `type_of_triplets` .*'soft'"):
        miners.triplet_margin(X, LABELS, type_of_triplets="soft")
