"""Miners that draw: their distributions, by chi-square tests with fixed keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from metricjax import Refs, losses, miners, reduce
from metricjax.distances import CosineSimilarity, LpDistance

LINE = LpDistance(normalize_embeddings=False)
KEYS = jax.random.split(jax.random.key(0), 500)
RARE = 1e-4


def circle(*degrees):
    angle = np.deg2rad(np.array(degrees, np.float32))
    return jnp.array(np.stack([np.cos(angle), np.sin(angle)], 1))


@functools.partial(jax.jit, static_argnames="triplets_per_anchor")
def weighted(x, y, refs=None, keys=KEYS, triplets_per_anchor=None, **numbers):
    """Triplets ``[keys, T]``."""
    mine = functools.partial(
        miners.distance_weighted, refs=refs, triplets_per_anchor=triplets_per_anchor, **numbers
    )
    return jax.vmap(lambda key: mine(x, y, key=key))(keys)


def counts(mined, n, m):
    """How often each (anchor, positive, negative) was drawn, ``[N, M, M]``."""
    out = np.zeros((n, m, m), int)
    kept = np.asarray(mined.weights) > 0
    np.add.at(out, tuple(np.asarray(index)[kept] for index in mined[:3]), 1)
    return out


def negative_probability(x, r, y, ry, cutoff, beyond):
    """By the formula of the paper."""
    x, r = (np.asarray(v, float) / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, r))
    d = np.maximum(np.linalg.norm(x[:, None] - r, axis=-1), cutoff)
    size = x.shape[1]
    weights = d ** (2.0 - size) * np.maximum(1 - d**2 / 4, 1e-300) ** ((3.0 - size) / 2)
    weights *= (np.asarray(y)[:, None] != np.asarray(ry)) & (d < beyond)
    return weights


@pytest.mark.slow
def test_distance_weighted_on_the_circle():
    """In two dimensions the weight is cos(angle / 2); 100 degrees are beyond 1.4."""
    x, y = circle(0, 10, 40, 60, 80, 100), jnp.array([0, 0, 1, 1, 1, 1])
    drawn = counts(weighted(x, y), 6, 6)
    assert drawn[0].sum() == 500 * 2 and drawn[0, 1].sum() == 500 * 2  # n_p is 2
    negatives = drawn[0].sum(0)
    assert negatives[5] == 0 and np.all(negatives[:2] == 0)
    expected = np.array([0.3654, 0.3367, 0.2979])
    assert chisquare(negatives[2:5], expected / expected.sum() * 1000).pvalue > RARE
    assert drawn[2].sum() == 500 * 4


@pytest.mark.parametrize("mode", ["self", pytest.param("refs", marks=pytest.mark.slow)])
def test_distance_weighted_is_the_stated_distribution(mode):
    x, r = (np.array(v) for v in jax.random.normal(jax.random.key(3), (2, 8, 4)))
    y = ry = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    if mode == "self":
        refs, r = None, x
    else:
        ry = ry[::-1].copy()
        refs = Refs(jnp.array(r), jnp.array(ry))
    p_negative = negative_probability(x, r, y, ry, 0.5, 1.4)
    drawn = counts(weighted(x, jnp.array(y), refs), 8, 8)
    for a in range(8):
        members = np.flatnonzero(y[a] == ry)
        positives = members[members != a] if mode == "self" else members
        size = len(members) * (len(positives) > 0 and p_negative[a].sum() > 0)
        assert drawn[a].sum() == 500 * size
        if size == 0:
            continue
        for got, p in (
            (drawn[a].sum(1), np.isin(np.arange(8), positives) / len(positives)),
            (drawn[a].sum(0), p_negative[a] / p_negative[a].sum()),
        ):
            assert not np.any(got[p == 0])
            if np.sum(p > 0) > 1:
                assert chisquare(got[p > 0], 500 * size * p[p > 0]).pvalue > RARE
        joint = drawn[a][drawn[a].sum(1) > 0][:, drawn[a].sum(0) > 0]
        if min(joint.shape) > 1:
            assert chi2_contingency(joint).pvalue > RARE


def test_distance_weighted_draws_are_independent():
    x, y = circle(0, 10, 20, 40, 60, 80), jnp.array([0, 0, 0, 1, 1, 1])
    mined = weighted(x, y, triplets_per_anchor=2)
    for index in mined.positive, mined.negative:
        first, second = index.reshape(500, 6, 2)[:, 0].T
        values, (first, second) = np.unique([first, second], return_inverse=True)
        table = np.zeros((len(values),) * 2)
        np.add.at(table, (first, second), 1)
        assert chi2_contingency(table).pvalue > RARE


def test_triplets_per_anchor_is_the_same_for_all_classes():
    x, y = circle(0, 10, 20, 40, 60, 80), jnp.array([0, 0, 0, 1, 1, 2])
    mined = weighted(x, y, triplets_per_anchor=4)
    assert mined.weights.shape == (500, 24)
    assert counts(mined, 6, 6).sum((1, 2)).tolist() == [2000] * 5 + [0]


@pytest.mark.slow
def test_a_near_pair_does_not_silence_the_other_anchors():
    x = jax.random.normal(jax.random.key(0), (64, 256)).at[63].set(0)
    x = x.at[63].set(x[0] + 1e-4)  # of another class
    y = jnp.arange(64) // 4
    mined = jax.device_get(weighted(x, y, keys=KEYS[:1]))
    assert mined.weights.sum() == 64 * 4
    at = (mined.anchor == 0) & (mined.weights > 0)
    assert np.all(mined.negative[at] == 63)


@pytest.mark.parametrize(
    ("numbers", "anchors"),
    [
        ({"cutoff": 2.0, "nonzero_loss_cutoff": 3.0}, 0),
        ({"cutoff": 1.5}, 0),
        ({"cutoff": 0.0, "nonzero_loss_cutoff": 2.0}, 4),
    ],
)
def test_distance_weighted_at_its_limits(numbers, anchors):
    x = jnp.array([[1.0, 0, 0, 0], [1.0, 0.1, 0, 0], [-1.0, 0, 0, 0], [-1.0, 0.1, 0, 0]])
    numbers = jax.tree.map(jnp.float32, {"nonzero_loss_cutoff": 1.4} | numbers)
    mined = weighted(x, jnp.array([0, 0, 1, 1]), **numbers)
    drawn = counts(mined, 4, 4).sum((1, 2))
    assert np.count_nonzero(drawn) == anchors
    assert drawn.sum() == 500 * 2 * anchors  # opposite points are never drawn
    assert counts(mined, 4, 4)[0, :, 2].sum() == 0


def test_a_weight_of_zero_is_never_drawn():
    """Whatever is rounded in a long cumulative sum."""
    m = 4096
    kept = jax.random.bernoulli(jax.random.key(1), 0.3, (m,))
    x = jax.random.normal(jax.random.key(0), (m, 3))
    refs = Refs(x, jnp.arange(m) % 2, where=kept.astype(jnp.float32))
    some = weighted(x[:2], jnp.array([0, 1]), refs, KEYS[:4], triplets_per_anchor=2000)
    mined, kept = jax.device_get((some, kept))
    assert np.all(mined.weights == 1)
    assert np.all(kept[mined.positive]) and np.all(kept[mined.negative])
    assert np.all(mined.positive % 2 == mined.anchor % 2)
    assert np.all(mined.negative % 2 != mined.anchor % 2)


@functools.partial(jax.jit, static_argnames=("num_bins", "pos_per_bin", "neg_per_bin", "distance"))
def histogram(x, y, refs=None, keys=KEYS, num_bins=2, distance=LINE, **static):
    """Pairs ``[keys, N, M]``."""
    mine = functools.partial(
        miners.uniform_histogram, refs=refs, num_bins=num_bins, distance=distance, **static
    )
    return jax.vmap(lambda key: mine(x, y, key=key))(keys)


@pytest.mark.slow
def test_uniform_histogram_on_the_line():
    """Edges 1, 4, 7: six ordered pairs in each bin, distance 4 in the second."""
    x, y = jnp.array([[0.0], [1], [3], [7]]), jnp.zeros(4, int)
    mined = histogram(x, y, pos_per_bin=8)
    far = np.isin(np.abs(x - x.T), (4, 6, 7))
    near = ~far & ~np.eye(4, dtype=bool)
    for cells in near, far:
        drawn = np.asarray(mined.positive)[:, cells]
        assert cells.sum() == 6 and np.all(drawn.sum(1) == 8)
        assert chisquare(drawn.sum(0)).pvalue > RARE
        # with replacement: how often a pair is drawn is binomial
        times = np.bincount(drawn.ravel().astype(int), minlength=9)[:4]
        p = [0.2326, 0.3721, 0.2605, 0.1042]
        np.testing.assert_allclose(times / drawn.size, p, atol=0.03)
    assert not np.any(mined.negative)


@pytest.mark.parametrize(
    "distance",
    [LINE, pytest.param(CosineSimilarity(), marks=pytest.mark.slow)],
    ids=["line", "cosine"],
)
def test_uniform_histogram_is_uniform_in_each_bin(distance):
    x, r = jax.random.normal(jax.random.key(0), (2, 8, 3))
    y, ry = jnp.array([0, 0, 0, 0, 0, 1, 1, 2]), jnp.array([0, 0, 0, 0, 1, 1, 2, 4])
    mined = histogram(
        x, y, Refs(r, ry), num_bins=4, pos_per_bin=3, neg_per_bin=5, distance=distance
    )
    mat = np.asarray(jax.jit(distance)(x, r), float)
    same = np.asarray(y)[:, None] == np.asarray(ry)
    for drawn, exists, per_bin in ((mined.positive, same, 3), (mined.negative, ~same, 5)):
        edges = np.linspace(mat[exists].min(), mat[exists].max(), 5)
        bins = np.clip(np.searchsorted(edges, mat, "right") - 1, 0, 3)
        bins[mat == mat[exists].max()] = 3
        drawn = np.asarray(drawn)
        assert not np.any(drawn[:, ~exists])
        for b in np.unique(bins[exists]):
            cells = drawn[:, exists & (bins == b)]
            assert np.all(cells.sum(1) == per_bin)
            if cells.shape[1] > 1:
                assert chisquare(cells.sum(0)).pvalue > RARE


def test_equal_distances_are_in_the_last_bin():
    x, y = jnp.eye(4), jnp.array([0, 0, 1, 1])
    mined = jax.device_get(histogram(x, y, num_bins=5, pos_per_bin=3, neg_per_bin=4))
    assert np.all(mined.positive.sum((1, 2)) == 3) and np.all(mined.negative.sum((1, 2)) == 4)


def test_a_nan_pair_is_always_drawn_and_bins_are_of_the_others():
    x, y = jnp.array([[0.0], [1], [3], [7], [jnp.nan]]), jnp.array([0, 0, 0, 0, 0])
    mined = jax.device_get(histogram(x, y, pos_per_bin=8))
    assert np.all(mined.positive[:, 4, :4] == 1) and np.all(mined.positive[:, :4, 4] == 1)
    assert np.all(mined.positive[:, :4, :4].sum((1, 2)) == 16)


def test_soft_weights_decide_how_much_is_drawn():
    soft = jnp.array([[1.0, 1.0, 0.25, 0.0, 0.0]] * 5)
    x, labels = circle(0, 1, 2, 50, 51), jnp.arange(5)
    run = lambda key: miners.distance_weighted(
        x, labels, key=key, match=lambda x, y: soft, triplets_per_anchor=4
    )
    positives = counts(jax.jit(jax.vmap(run))(KEYS), 5, 5)[0].sum(1)
    assert positives[0] == 0 and chisquare(positives[1:3], [1600, 400]).pvalue > RARE


@pytest.mark.parametrize(
    ("miner", "option", "value"),
    [
        (miners.distance_weighted, "triplets_per_anchor", 0),
        (miners.uniform_histogram, "num_bins", 0),
        (miners.uniform_histogram, "pos_per_bin", -1),
        (miners.uniform_histogram, "neg_per_bin", 2.0),
    ],
)
def test_wrong_counts(miner, option, value):
    with pytest.raises(ValueError, match=f"{miner.__name__}: `{option}` must be an integer"):
        miner(jnp.eye(2), jnp.arange(2), key=KEYS[0], **{option: value})


@pytest.mark.parametrize("miner", [miners.distance_weighted, miners.uniform_histogram])
def test_a_key_is_needed(miner):
    with pytest.raises(TypeError, match="key"):
        miner(jnp.eye(2), jnp.arange(2))


@pytest.mark.slow
def test_drawn_triplets_are_those_of_the_loss():
    """The padded list and its triplets alone give the same loss."""
    x, y = circle(0, 10, 40, 60, 80, 100), jnp.array([0, 0, 1, 1, 1, 1])
    mined = jax.tree.map(lambda v: v[0], jax.device_get(weighted(x, y, keys=KEYS[:1])))
    short = jax.tree.map(lambda v: v[mined.weights > 0], mined)
    assert len(mined.anchor) == 36 and len(short.anchor) == 2 * 2 + 3 * 4  # 100 has no negative
    total = jax.jit(lambda mined: reduce(losses.triplet_margin(x, mined=mined, margin=0.7))[0])
    assert float(total(mined)) == pytest.approx(float(total(short)), rel=1e-6)
    assert total(mined) > 0
