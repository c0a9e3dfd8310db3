"""The other miners that decide: worked numbers, and plain numpy definitions, ties included."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricjax import Pairs, Refs, losses, miners, reduce, tuples
from metricjax.distances import DotProductSimilarity, LpDistance

LINE = LpDistance(normalize_embeddings=False)
L1 = LpDistance(p=1, normalize_embeddings=False)
DOT = DotProductSimilarity(normalize_embeddings=False)
X = np.array([[0], [1], [2], [3], [5]], np.float32)
LABELS = np.array([0, 0, 1, 1, 0])
STRATEGIES = [
    pair
    for pair in itertools.product(("hard", "semihard", "easy", "all"), repeat=2)
    if pair not in [("semihard", "semihard"), ("semihard", "all"), ("all", "semihard")]
]
TABLE = {  # anchor -> positive | negative, of the line above
    ("hard", "hard"): "0>4|2 1>4|2 2>3|1 3>2|1 4>0|3",
    ("hard", "easy"): "0>4|3 1>4|3 2>3|4 3>2|0 4>0|2",
    ("hard", "semihard"): "2>3|0 3>2|1",
    ("easy", "hard"): "0>1|2 1>0|2 2>3|1 3>2|1 4>1|3",
    ("easy", "easy"): "0>1|3 1>0|3 2>3|4 3>2|0 4>1|2",
    ("easy", "semihard"): "0>1|2 1>0|3 2>3|0 3>2|1",
    ("semihard", "hard"): "0>1|2 3>2|1",
    ("semihard", "easy"): "0>1|3 1>0|3 2>3|4 3>2|0",
}


def listed(mat):
    """The entries above 0, as "ij"."""
    return sorted(f"{i}{j}" for i, j in np.argwhere(np.asarray(mat)))


@functools.partial(jax.jit, static_argnames="distance")
def mine(x, y, refs=None, options=None, distance=LINE):
    """What the miners here keep, with the numbers of `options`."""
    given = {"refs": refs, "distance": distance}
    o = {"pos": 0.2, "neg": 0.8, "ranges": {}} | (options or {})
    some = {"pos_margin": o["pos"], "neg_margin": o["neg"]}
    return {
        "easy_hard": {
            (p, n): miners.batch_easy_hard(
                x, y, pos_strategy=p, neg_strategy=n, **o["ranges"], **given
            )
            for p, n in STRATEGIES
        },
        "batch_hard": miners.batch_hard(x, y, **o["ranges"], **given),
        "pair_margin": miners.pair_margin(x, y, **some, **given),
    }


@functools.partial(jax.jit, static_argnames="distance")
def hdc(x, y, fraction, pool=None, refs=None, distance=LINE):
    return miners.hdc(x, y, filter_percentage=fraction, mined=pool, refs=refs, distance=distance)


def test_worked_table():
    mined = jax.device_get(mine(X, LABELS))["easy_hard"]
    for strategies, want in TABLE.items():
        rows = [(row[0], row[2], row[4]) for row in want.split()]
        assert listed(mined[strategies].positive) == [a + p for a, p, _ in rows]
        assert listed(mined[strategies].negative) == [a + n for a, _, n in rows]
    every = jax.device_get(jax.jit(tuples.all_pairs)(LABELS))
    assert listed(mined["all", "hard"].positive) == listed(every.positive)
    assert listed(mined["all", "hard"].negative) == ["02", "12", "21", "31", "43"]
    assert listed(mined["easy", "all"].negative) == listed(every.negative)
    jax.tree.map(np.testing.assert_array_equal, mined["all", "all"], every)


def test_worked_lists():
    mined = jax.device_get(mine(X, LABELS, options={"pos": 2.0, "neg": 3.0}))
    assert listed(mined["pair_margin"].positive) == "04 14 40 41".split()
    assert listed(mined["pair_margin"].negative) == "02 12 13 20 21 31 34 43".split()
    hard = mined["batch_hard"]
    rows = [f"{a}>{p}|{n}" for a, p, n in zip(*hard[:3], strict=True)]
    assert " ".join(rows) == TABLE["hard", "hard"] and np.all(hard.weights == 1)
    half, fewer = hdc(X, LABELS, 0.5), hdc(X, LABELS, 0.25)
    assert listed(half.positive) == "04 14 40 41".split()
    assert listed(half.negative) == "02 12 13 20 21 31".split()  # of equals the first
    assert listed(fewer.positive) == ["04", "40"] and listed(fewer.negative) == "02 12 21".split()


def test_hdc_counts_repeats_and_cascades():
    pool = tuples.from_pairs(
        *map(jnp.array, ([0, 0, 1, 1], [4, 4, 0, 4], [0], [2])), shape=(5, 5)
    )  # fmt: skip
    once = jax.device_get(hdc(X, LABELS, 0.25, pool))
    assert once.positive[0, 4] == 1 == once.positive.sum()  # one of two entries
    most = jax.device_get(hdc(X, LABELS, 0.75, pool))
    assert most.positive[0, 4] == 2 and most.positive[1, 4] == 1 and most.positive[1, 0] == 0
    for fraction, count in ((1.0, 4), (0.0, 0), (0.74, 3), (2.0, 4), (-1.0, 0)):
        kept = jax.device_get(hdc(X, LABELS, fraction, pool))
        assert kept.positive.sum() == count
    first = hdc(X, LABELS, 0.5)
    second = hdc(X, None, 0.5, first)  # labels are in the pairs
    third = hdc(X, None, 0.5, second)
    sizes = [(int(p.positive.sum()), int(p.negative.sum())) for p in (first, second, third)]
    assert sizes == [(4, 6), (2, 3), (1, 2)]


@pytest.mark.slow
def test_hdc_takes_every_form():
    @jax.jit
    def both():
        pools = miners.batch_hard(X, LABELS), miners.triplet_margin(X, LABELS)
        return [(hdc(X, LABELS, 1.0, pool), tuples.as_pairs(pool, (5, 5))) for pool in pools]

    for kept, pool in both():
        assert np.any(pool.negative)
        jax.tree.map(np.testing.assert_array_equal, kept, pool)
    with pytest.raises(TypeError, match="miners.hdc: `mined` .*tuple"):
        miners.hdc(X, LABELS, mined=(1, 2))
    with pytest.raises(ValueError, match=r"miners.hdc: `mined` must have shape \(5, 5\)"):
        miners.hdc(X, LABELS, mined=Pairs(jnp.ones((5, 4)), jnp.ones((5, 4))))


def test_ranges_include_their_bounds_and_all_ignores_them():
    ranges = {"allowed_pos_range": (1.0, 4.0), "allowed_neg_range": (2.0, 3.0)}
    mined = jax.device_get(mine(X, LABELS, options={"ranges": ranges}))
    kept = mined["easy_hard"]["hard", "hard"]
    assert listed(kept.positive) == "01 14 23 32 41".split()
    assert listed(kept.negative) == "02 13 20 31 43".split()
    assert np.all(mined["batch_hard"].weights == 1)
    kept = mined["easy_hard"]["all", "hard"]
    assert listed(kept.positive) == listed(tuples.all_pairs(LABELS).positive)
    # without a candidate on one side an anchor drops out
    ranges = {"allowed_pos_range": (5.0, 5.0), "allowed_neg_range": (2.0, 2.0)}
    hard = mine(X, LABELS, options={"ranges": ranges})["batch_hard"]
    assert hard.weights.tolist() == [1, 0, 0, 0, 1] and hard.negative[4] == 3


@pytest.mark.parametrize("distance", [L1, DOT], ids=["L1", "dot"])
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("self", marks=pytest.mark.slow),
        "refs",
        pytest.param("inside", marks=pytest.mark.slow),
    ],
)
def test_equals_definition(distance, mode):
    some = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, r = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (7, 9))
        y, ry = rng.integers(0, 3, 7), rng.integers(0, 3, 9)
        if mode == "inside":
            r[2:], ry[2:] = x, y
        own = None if mode == "refs" else np.arange(7) + 2 * (mode == "inside")
        refs = None if mode == "self" else Refs(r, ry, own)
        r, ry = (x, y) if mode == "self" else (r, ry)
        exists = np.ones((7, len(r)), bool) if own is None else np.arange(len(r)) != own[:, None]
        positive, negative = (y[:, None] == ry) & exists, (y[:, None] != ry) & exists
        mat = x @ r.T if distance is DOT else np.abs(x[:, None] - r).sum(-1)
        cost = -mat if distance is DOT else mat
        low = np.float32(rng.integers(-3, 3))
        ranges = {"allowed_pos_range": (low, low + 4), "allowed_neg_range": (low, low + 3)}
        pool = Pairs(*(rng.integers(0, 3, m.shape) * m for m in (positive, negative)))
        pool = jax.tree.map(np.float32, pool)
        options = {"pos": low, "neg": low + 1, "ranges": ranges}
        mined = mine(x, y, refs, options, distance=distance)
        some += sum(float(mat.sum()) for mat in jax.tree.leaves(mined["easy_hard"]))
        for strategies, got in mined["easy_hard"].items():
            want = easy_hard(mat, cost, positive, negative, *strategies, *ranges.values())
            jax.tree.map(np.testing.assert_array_equal, got, want)
        hard = tuples.as_pairs(mined["batch_hard"], mat.shape)
        want = mined["easy_hard"]["hard", "hard"]
        jax.tree.map(np.testing.assert_array_equal, hard, want)
        kept = mined["pair_margin"]
        np.testing.assert_array_equal(kept.positive, positive & (cost > farther(low, distance)))
        np.testing.assert_array_equal(kept.negative, negative & (cost < farther(low + 1, distance)))
        fraction = np.float32(seed / 7)
        kept = hdc(x, y, fraction, pool, refs, distance=distance)
        np.testing.assert_array_equal(kept.positive, hardest(fraction, pool[0], -cost))
        np.testing.assert_array_equal(kept.negative, hardest(fraction, pool[1], cost))
    assert some > 500


def farther(margin, distance):
    return -margin if distance.is_similarity else margin


def easy_hard(mat, cost, positive, negative, pos_strategy, neg_strategy, pos_range, neg_range):
    """One anchor at a time; Python's `min` and `max` take the first of equals."""
    out = Pairs(np.zeros(mat.shape), np.zeros(mat.shape))
    for a, row in enumerate(cost):
        inside = lambda j, r, s: s == "all" or r[0] <= mat[a, j] <= r[1]  # noqa: B023
        p = [j for j in np.flatnonzero(positive[a]) if inside(j, pos_range, pos_strategy)]
        n = [j for j in np.flatnonzero(negative[a]) if inside(j, neg_range, neg_strategy)]
        best = lambda some, of: [of(some, key=row.__getitem__)] if some else []  # noqa: B023
        p_of, n_of = (
            (min if pos_strategy == "easy" else max),
            (max if neg_strategy == "easy" else min),
        )
        if pos_strategy == "semihard":
            n = best(n, n_of)
            p = [j for j in p if n and row[j] < row[n[0]]]
        p = p if pos_strategy == "all" else best(p, p_of)
        if neg_strategy == "semihard":
            n = [j for j in n if p and row[j] > row[p[0]]]
        n = n if neg_strategy == "all" else best(n, n_of)
        if "all" in (pos_strategy, neg_strategy) or (p and n):
            out.positive[a, p] = out.negative[a, n] = 1
    return out


def hardest(fraction, counts, ease):
    """The list entries sorted by ease, and by place among equals."""
    places = np.repeat(np.arange(counts.size), counts.ravel().astype(int))
    order = sorted(places, key=lambda i: (ease.flat[i], i))
    kept = order[: math.ceil(fraction * np.float32(len(places)))]
    return np.bincount(np.array(kept, int), minlength=counts.size).reshape(counts.shape)


@functools.partial(jax.jit, static_argnames="shape")
def angular(x, y, refs, angle, shape):
    rule = miners.angular(x, y, refs=refs, angle=angle)
    n, m = shape
    keep = jax.vmap(lambda j: rule.keep(rule.rows, jnp.full(n, j)), out_axes=1)(jnp.arange(m))
    return jnp.where(keep, rule.positive[:, :, None] * rule.negative[:, None, :], 0)


@pytest.mark.parametrize("angle", [-1.0, 0.0, 20.0, 45.0, 70.0, 89.9, 90.0, 120.0])
def test_angular_equals_definition(angle):
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=(7, 3)), rng.normal(size=(9, 3))
    y, ry = rng.integers(0, 3, 7), rng.integers(0, 3, 9)
    got = angular(np.float32(x), y, Refs(np.float32(r), ry), angle, (7, 9))
    center = (x[:, None] + r) / 2
    opposite = np.linalg.norm(x[:, None] - r, axis=-1)[:, :, None]
    adjacent = 2 * np.linalg.norm(center[:, :, None] - r, axis=-1)
    wide = np.degrees(np.arctan2(opposite, adjacent)) > angle
    exists = (y[:, None] == ry)[:, :, None] & (y[:, None] != ry)[:, None]
    np.testing.assert_array_equal(got, exists & wide)
    assert np.any(got) == (angle < 80) or angle == 89.9


def test_angular_of_collapsed_triplets():
    y = jnp.array([0, 0, 1])
    kept = lambda x, angle: float(angular(jnp.array(x), y, None, angle, (3, 3)).sum())
    same, pair = [[1.0, 2.0]] * 3, [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]
    for angle in (0.0, 20.0, 89.0, 90.0, 100.0):
        assert kept(same, angle) == kept(pair, angle) == 0
    assert kept(same, -1.0) == kept(pair, -1.0) == 2
    corner = [[0.0, 0.0], [2.0, 0.0], [1.0, 0.0]]  # the negative in the middle: 90 degrees
    assert kept(corner, 89.9) == 2 and kept(corner, 90.0) == 0
    end = [[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]]  # the negative is the positive: 45 degrees
    assert kept(end, 44.9) == 2 and kept(end, 45.1) == 0


@pytest.mark.slow
def test_nan_is_chosen():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    x[1, 1] = np.nan
    mined = jax.device_get(mine(x, LABELS))
    for strategies, pairs in mined["easy_hard"].items():
        # 1 is a positive of 0 and 4, and a negative of 2 and 3
        assert pairs.positive[0, 1] and pairs.positive[4, 1], strategies
        assert pairs.negative[2, 1] and pairs.negative[3, 1], strategies
        assert np.any(pairs.positive[1]) and np.any(pairs.negative[1])
    assert mined["batch_hard"].positive[0] == 1 and np.all(mined["batch_hard"].weights)
    few = hdc(x, LABELS, 0.01)
    assert listed(few.positive) == ["01"] and listed(few.negative) == ["12"]
    few = mine(x, LABELS, options={"pos": 9.0, "neg": -9.0})
    assert listed(few["pair_margin"].positive) == ["01", "10", "14", "41"]
    assert listed(few["pair_margin"].negative) == ["12", "13", "21", "31"]


@pytest.mark.slow
def test_losses_of_one_triplet_for_each_anchor():
    """Mined as pairs or as triplets, the hardest of each anchor is the same loss."""
    x = jax.random.normal(jax.random.key(0), (5, 3))
    hard = {"pos_strategy": "hard", "neg_strategy": "hard"}

    def total(x, as_triplets):
        if as_triplets:
            mined = miners.batch_hard(x, LABELS)
        else:
            mined = miners.batch_easy_hard(x, LABELS, **hard)
        return reduce(losses.triplet_margin(x, mined=mined, margin=0.5))[0]

    run = jax.jit(jax.value_and_grad(total), static_argnums=1)
    for a, b in zip(run(x, True), run(x, False), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("pos", "neg", "message"),
    [
        ("soft", "hard", "batch_easy_hard: `pos_strategy` must be one of 'hard', .*'soft'"),
        ("hard", "soft", "batch_easy_hard: `neg_strategy` must be one of 'hard', .*'soft'"),
        ("semihard", "semihard", "pos_strategy='semihard': `neg_strategy` .*'hard', 'easy', got"),
        ("semihard", "all", "pos_strategy='semihard': `neg_strategy` .* got 'all'"),
        ("all", "semihard", "neg_strategy='semihard': `pos_strategy` .* got 'all'"),
    ],
)
def test_wrong_strategies(pos, neg, message):
    with pytest.raises(ValueError, match=f"miners.*{message}"):
        miners.batch_easy_hard(X, LABELS, pos_strategy=pos, neg_strategy=neg)
