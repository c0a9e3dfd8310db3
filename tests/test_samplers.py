"""Samplers: what each batch and each epoch holds, shards, resuming, distributions, loaders."""

import dataclasses
import functools
import itertools
from collections import Counter

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import metricjax as mj
from metricjax import samplers
from metricjax._core.tuning import CPU
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from metricjax.samplers._random import epoch_order, fractions, integers, words

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3])
TREE = np.array([[c, c // 3] for c in range(9) for _ in range(2 + c % 3)])  # class, super class
DOT = DotProductSimilarity(normalize_embeddings=False)
TABLE = np.array([np.roll(np.flatnonzero(LABELS != c), i)[:4] for i, c in enumerate(LABELS)])
TABLE[[0, 7], 1:] = -1  # of which one is left
TABLE[3, ::2] = -1
DRAWS = {  # every sampler with its arguments, all but `step`; the same number of samples
    "m_per_class": functools.partial(samplers.m_per_class, LABELS, 2, batch_size=6, seed=3),
    "hierarchical": functools.partial(
        samplers.hierarchical, TREE, batch_size=12, samples_per_class=2, seed=3
    ),
    "hierarchical_all": functools.partial(
        samplers.hierarchical, TREE, batch_size=12, samples_per_class="all", seed=3
    ),
    "fixed_triplets": functools.partial(samplers.fixed_triplets, LABELS, 10, batch_size=12, seed=3),
    "fixed_pairs": functools.partial(samplers.fixed_pairs, LABELS, 10, batch_size=16, seed=3),
    "by_weight": functools.partial(samplers.by_weight, LABELS, batch_size=12, seed=3),
    "with_negatives": functools.partial(
        samplers.with_negatives, TABLE, LABELS, batch_size=6, num_negatives=2, seed=3
    ),
}
every_sampler = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
properties = settings(derandomize=True, deadline=None, max_examples=150, database=None)


@st.composite
def class_problems(draw):
    """Labels (of classes not in order, not consecutive), m, classes a batch, seed."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    labels = np.repeat(7 * np.arange(len(sizes)) - 20, sizes)
    labels = draw(st.permutations(list(labels)))
    per_batch = draw(st.integers(1, len(sizes)))
    return np.array(labels), draw(st.integers(1, 6)), per_batch, draw(st.integers(0, 2**64 - 1))


def evenly(drawn, of):
    """Each of `of` as often as any other, or once more."""
    counts = np.bincount(np.searchsorted(of, drawn), minlength=len(of))
    return np.isin(drawn, of).all() and counts.max() - counts.min() <= 1


@given(class_problems(), st.integers(0, 40))
@properties
def test_m_per_class(problem, first):
    labels, m, per_batch, seed = problem
    classes = np.unique(labels)
    steps = np.arange(60)
    batches = samplers.m_per_class(labels, m, batch_size=m * per_batch, seed=seed, step=steps)
    assert batches.shape == (60, m * per_batch) and batches.dtype == np.int64
    visits = batches.reshape(60, per_batch, m)
    visited = labels[visits][..., 0]
    assert (labels[visits] == visited[..., None]).all()  # m samples of a class
    assert all(len(set(batch)) == per_batch for batch in visited)  # of different classes
    for epoch in range(60 * per_batch // len(classes)):  # each class before any comes again
        start = epoch * len(classes)
        assert sorted(visited.ravel()[start : start + len(classes)]) == list(classes)
    for c in classes:
        of_class = np.flatnonzero(labels == c)
        own = visits[visited == c]
        assert all(evenly(visit, of_class) for visit in own)  # no repeats where m <= size
        flat = own.ravel()
        for start in range(0, len(flat) - len(of_class) + 1, len(of_class)):
            assert sorted(flat[start : start + len(of_class)]) == list(of_class)
    one = samplers.m_per_class(labels, m, batch_size=m * per_batch, seed=seed, step=first)
    np.testing.assert_array_equal(one, batches[first])


@given(st.integers(1, 30), st.data())
@properties
def test_an_order_for_each_epoch_without_repeats_in_a_batch(n, data):
    per_batch = data.draw(st.integers(1, n))
    orders = [epoch_order(n, per_batch, 5, epoch) for epoch in range(2 * per_batch + 3)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    flat = np.concatenate(orders)
    batches = flat[: len(flat) // per_batch * per_batch].reshape(-1, per_batch)
    assert all(len(set(batch)) == per_batch for batch in batches)


def test_orders_and_groups_change_from_epoch_to_epoch():
    labels = np.repeat(np.arange(100), 12)
    draw = functools.partial(samplers.m_per_class, labels, 4, batch_size=400, seed=0)
    epochs = draw(step=np.arange(9)).reshape(9, 100, 4)
    for earlier, later in itertools.combinations(epochs, 2):
        same_place = (labels[earlier[:, 0]] == labels[later[:, 0]]).sum()
        assert same_place < 10
        assert len({*map(frozenset, earlier)} & {*map(frozenset, later)}) < 10  # of 100 groups
    other = samplers.m_per_class(labels, 4, batch_size=400, seed=1, step=0)
    assert (other != epochs[0].ravel()).mean() > 0.9


@st.composite
def trees(draw):
    """Labels of two levels, one row a sample, in any order."""
    tree = draw(
        st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=2, max_size=4)
    )
    rows = [
        (10 * i + j, i)
        for i, sizes in enumerate(tree)
        for j, n in enumerate(sizes)
        for _ in range(n)
    ]
    return np.array(draw(st.permutations(rows)))


@given(trees(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.data())
@properties
def test_hierarchical(labels, per_class, count, repeats, data):
    supers = np.unique(labels[:, 1])
    x = data.draw(st.integers(1, len(supers)))
    sets = list(itertools.combinations(supers, x))
    steps = np.arange(2 * len(sets) * repeats).reshape(2, -1)
    batches = samplers.hierarchical(
        labels, batch_size=x * count * per_class, samples_per_class=per_class, seed=0, step=steps,
        super_classes_per_batch=x, batches_per_super_tuple=repeats,
    )  # fmt: skip
    assert batches.shape == (*steps.shape, x * count * per_class)
    grouped = batches.reshape(*steps.shape, count, x, per_class)
    outer, inner = labels[grouped, 1], labels[grouped, 0]
    assert (outer == outer[..., :1, :, :1]).all()  # the super classes take turns
    assert (inner == inner[..., :1]).all()  # the samples of a class are next to each other
    for epoch in outer[..., 0, :, 0]:  # each set of super classes equally often
        assert Counter(map(tuple, np.sort(epoch))) == dict.fromkeys(sets, repeats)
    for batch in grouped.reshape(-1, count, x, per_class):
        for i in range(x):
            s = labels[batch[0, i, 0], 1]
            visited = labels[batch[:, i, 0], 0]
            assert evenly(visited, np.unique(labels[labels[:, 1] == s, 0]))
            for c in set(visited):
                assert evenly(batch[:, i][visited == c].ravel(), np.flatnonzero(labels[:, 0] == c))


@pytest.mark.slow
@given(trees(), st.integers(1, 12))
@properties
def test_hierarchical_with_whole_classes(labels, size):
    batches = samplers.hierarchical(
        labels, batch_size=2 * size, samples_per_class="all", seed=0, step=np.arange(20)
    )
    assert batches.shape == (20, 2 * size)
    for part in batches.reshape(-1, size):
        (s,) = set(labels[part, 1].tolist())
        members = np.flatnonzero(labels[:, 1] == s)
        assert evenly(part, members)  # no repeats as long as there are others
        sizes, here = (Counter(labels[rows, 0].tolist()) for rows in (members, part))
        partial = [c for c, n in here.items() if n < sizes[c]]
        assert len(partial) <= 1 or len(part) > len(members)
        left = [n for c, n in sizes.items() if c not in here]
        whole = sum(n for c, n in here.items() if n == sizes[c])  # in classes that are there whole
        assert not partial or all(n > size - whole for n in left)


def test_hierarchical_columns():
    swapped = functools.partial(DRAWS["hierarchical"], step=range(9))
    expected = swapped()
    flipped = samplers.hierarchical(
        TREE[:, ::-1], batch_size=12, samples_per_class=2, seed=3, step=range(9),
        inner_label=1, outer_label=0,
    )  # fmt: skip
    np.testing.assert_array_equal(flipped, expected)
    renamed = TREE % [3, 99]  # the same names in every super class: still different classes
    again = samplers.hierarchical(
        renamed, batch_size=12, samples_per_class=2, seed=3, step=range(9)
    )
    np.testing.assert_array_equal(again, expected)


@given(class_problems(), st.integers(1, 20))
@properties
def test_fixed_triplets(problem, total):
    labels, _, _, seed = problem
    sizes = np.unique(labels, return_counts=True)[1]
    if len(sizes) < 2 or sizes.max() < 2:
        return
    triplets = samplers.fixed_triplets(labels, total, seed=seed)
    a, p, n = triplets.T
    assert triplets.shape == (total, 3)
    assert (labels[a] == labels[p]).all() and (a != p).all() and (labels[a] != labels[n]).all()
    draw = functools.partial(samplers.fixed_triplets, labels, total, seed=seed)
    batches = draw(step=range(2 * total), batch_size=3 * max(1, total // 2)).reshape(-1, 3)
    as_set = Counter(map(tuple, triplets))
    for epoch in range(len(batches) // total):
        assert Counter(map(tuple, batches[epoch * total : (epoch + 1) * total])) == as_set


@given(class_problems(), st.integers(1, 10))
@properties
def test_fixed_pairs(problem, half):
    labels, _, _, seed = problem
    sizes = np.unique(labels, return_counts=True)[1]
    if len(sizes) < 2 or sizes.max() < 2:
        return
    pairs = samplers.fixed_pairs(labels, 2 * half, seed=seed)
    (a, p), (b, n) = pairs[0::2].T, pairs[1::2].T
    assert pairs.shape == (2 * half, 2) and len(a) == len(b)
    assert (labels[a] == labels[p]).all() and (a != p).all() and (labels[b] != labels[n]).all()
    draw = functools.partial(samplers.fixed_pairs, labels, 2 * half, seed=seed)
    batches = draw(step=range(2 * half), batch_size=4 * max(1, half // 2)).reshape(-1, 4)
    as_set = Counter(map(tuple, pairs.reshape(-1, 4)))
    for epoch in range(len(batches) // half):
        assert Counter(map(tuple, batches[epoch * half : (epoch + 1) * half])) == as_set


def test_labels_may_be_strings():
    names = np.array(["ant", "bee", "cat", "dog"])[LABELS]
    for labels in (names, names.tolist(), names.astype(object)):
        got = samplers.m_per_class(labels, 2, batch_size=6, seed=3, step=range(5))
        np.testing.assert_array_equal(got, DRAWS["m_per_class"](step=range(5)))
    tree = TREE.astype(str)
    got = samplers.hierarchical(tree, batch_size=12, samples_per_class=2, seed=3, step=range(5))
    np.testing.assert_array_equal(got, DRAWS["hierarchical"](step=range(5)))


@every_sampler
def test_shards_are_the_batch_and_steps_come_alone_or_together(draw):
    together = draw(step=np.arange(24).reshape(4, 6))
    for step in range(24):
        batch = draw(step=step)
        np.testing.assert_array_equal(batch, together.reshape(24, *batch.shape)[step])
        for count in (1, 2, 3) if len(batch) == 6 else (1, 2, 4):
            parts = [draw(step=step, shard_index=i, shard_count=count) for i in range(count)]
            np.testing.assert_array_equal(np.concatenate(parts), batch)
            assert {len(part) for part in parts} == {len(batch) // count}
    assert draw(step=[]).shape == (0, *batch.shape)
    assert (draw(step=10**15) >= 0).all()


def test_classes_stay_whole_in_a_shard():
    parts = [DRAWS["m_per_class"](step=range(9), shard_index=i, shard_count=3) for i in range(3)]
    for part in parts:
        assert (LABELS[part][:, 0] == LABELS[part][:, 1]).all()


GOLDEN = {
    "m_per_class": "12 12 1 3 6 5 / 12 12 7 5 10 11",
    "hierarchical": "3 2 13 11 1 0 9 10 6 8 15 17 / 12 13 20 21 16 15 26 24 10 9 19 18",
    "hierarchical_all": "3 2 4 1 0 6 13 11 12 9 10 15 / 12 13 11 10 9 16 20 21 22 19 18 26",
    "fixed_triplets": "0 4 12 7 5 12 8 10 6 1 4 10 / 0 4 12 0 4 12 8 10 6 0 3 5",
    "fixed_pairs": "4 2 12 5 6 7 3 5 9 8 3 9 6 7 12 0 / 6 7 12 0 6 7 3 5 4 2 12 5 9 8 3 9",
    "by_weight": "5 12 5 8 12 5 8 9 12 10 7 7 / 11 11 7 8 7 7 9 6 11 8 5 11",
    "with_negatives": "4 1 10 9 5 6 8 10 11 10 12 0 9 10 0 2 1 4 7 5 2 3 6 5 / "
    "3 2 11 5 8 10 3 1 4 0 12 10 10 11 12 1 1 0 12 7 2 4 6 5",
}


@pytest.mark.parametrize("name", DRAWS)
def test_golden(name):
    """Runs that are resumed with another version must go on as they began."""
    early, late = DRAWS[name](step=0), DRAWS[name](step=1000)
    shown = [" ".join(map(str, batch.ravel())) for batch in (early, late)]
    assert " / ".join(shown) == GOLDEN[name]


def test_words_are_those_of_splitmix64():
    """Its published test vector, seed 0, and 1234567 through a second part."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert words(np.arange(4)).tolist() == expected
    assert int(words(2**64 - 1)) == 0  # 0 stays 0
    assert words(2**64 - 1, np.arange(4)).tolist() == expected


def uniform(counts, categories, expected=None):
    """Chi-square, at a level of 1 in 10,000."""
    observed = [counts[c] for c in categories]
    assert sum(observed) == sum(counts.values()), "something else was drawn"
    return chisquare(observed, expected).pvalue > 1e-4


def test_numbers_are_uniform_and_independent():
    drawn = integers(8, 0, np.arange(100)[:, None], np.arange(100))
    assert uniform(Counter(drawn.ravel().tolist()), range(8))
    pairs = zip(drawn[:, :-1].ravel().tolist(), drawn[:, 1:].ravel().tolist(), strict=True)
    assert uniform(Counter(pairs), itertools.product(range(8), repeat=2))
    across = zip(drawn[:-1].ravel().tolist(), drawn[1:].ravel().tolist(), strict=True)
    assert uniform(Counter(across), itertools.product(range(8), repeat=2))
    real = fractions(1, np.arange(10000))
    assert uniform(Counter((real * 10).astype(int).tolist()), range(10))
    assert 0 <= real.min() and real.max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2], ids=["in_an_epoch", "across_epochs"])
def test_every_order_of_classes_is_as_likely(step):
    """The second of five classes, two a batch, is half of one epoch and half of the next."""
    labels = np.arange(5)
    draws = [samplers.m_per_class(labels, 1, batch_size=2, seed=s, step=step) for s in range(4000)]
    assert uniform(Counter(map(tuple, draws)), itertools.permutations(range(5), 2))


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 5])
def test_every_order_of_samples_is_as_likely(step):
    """Large or small, classes are as likely; of three samples each ordered pair is."""
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    draws = [samplers.m_per_class(labels, 2, batch_size=2, seed=s, step=step) for s in range(4000)]
    assert uniform(Counter((labels[d[0]],) for d in draws), [(0,), (1,)])
    small = [tuple(d) for d in draws if labels[d[0]] == 0]
    assert uniform(Counter(small), itertools.permutations(range(3), 2))


def test_classes_meet_evenly():
    """Over many epochs of one seed: seven classes, three a batch."""
    batches = samplers.m_per_class(np.arange(7), 1, batch_size=3, seed=0, step=range(7000))
    met = Counter(pair for b in batches for pair in itertools.combinations(sorted(b.tolist()), 2))
    # Not independent, but more even than independent draws.
    assert uniform(met, itertools.combinations(range(7), 2))


def test_hierarchical_draws_evenly():
    """A third of the classes of each super class: every one as likely, every sample of it."""
    batches = samplers.hierarchical(
        TREE, batch_size=4, samples_per_class=2, seed=0, step=range(6000)
    )
    for s in range(3):
        here = batches[TREE[batches, 1] == s].reshape(-1, 2)
        classes = range(3 * s, 3 * s + 3)
        assert uniform(Counter(TREE[here[:, 0], 0].tolist()), classes)
        for c in classes:
            members = np.flatnonzero(TREE[:, 0] == c).tolist()
            pairs = map(tuple, here[TREE[here[:, 0], 0] == c].tolist())
            assert uniform(Counter(pairs), itertools.permutations(members, 2))


def test_fixed_triplets_draw_evenly():
    """Class sizes play no role; a class of one sample is only ever the negative."""
    drawn = samplers.fixed_triplets(LABELS, 20000, seed=0)
    pairs = Counter(zip(*LABELS[drawn[:, [0, 2]]].T.tolist(), strict=True))
    assert uniform(pairs, [(i, j) for i in range(3) for j in range(4) if i != j])
    of_class = drawn[LABELS[drawn[:, 0]] == 1]
    assert uniform(
        Counter(map(tuple, of_class[:, :2].tolist())), itertools.permutations(range(5, 8), 2)
    )
    negatives = drawn[LABELS[drawn[:, 2]] == 0][:, 2]
    assert uniform(Counter(negatives.tolist()), range(5))


def test_by_weight_draws_in_proportion():
    weights = np.array([0, 1, 0, 2.5, 4, 0])
    drawn = samplers.by_weight(weights, batch_size=100, seed=0, step=range(100))
    expected = 10000 * weights[weights > 0] / weights.sum()
    assert uniform(Counter(drawn.ravel().tolist()), [1, 3, 4], expected)
    pairs = Counter(zip(drawn[:, :-1].ravel().tolist(), drawn[:, 1:].ravel().tolist(), strict=True))
    outer = np.outer(expected, expected).ravel() * 9900 / 10000**2
    assert uniform(pairs, itertools.product([1, 3, 4], repeat=2), outer)


def test_by_weight_takes_extreme_weights(monkeypatch):
    for weights in ([0, 1e-300, 0], [0, 3e307, 0], [0, 5e-324, 0]):
        drawn = samplers.by_weight(weights, batch_size=50, seed=0, step=0)
        assert set(drawn) == {1}
    largest = lambda *parts: np.full(1, 1 - 2.0**-53)
    monkeypatch.setattr("metricjax.samplers._by_weight.fractions", largest)
    for total in np.linspace(1, 2, 100):
        assert samplers.by_weight([0, total, 0], batch_size=1, seed=0, step=0) == 1


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_effective_number_weights(beta):
    weights = samplers.effective_number_weights(LABELS, beta)
    effective = {c: sum(beta**i for i in range(n)) for c, n in Counter(LABELS.tolist()).items()}
    formula = np.array([1 / effective[c] for c in LABELS.tolist()])
    np.testing.assert_allclose(weights, formula / formula.mean())
    np.testing.assert_array_equal(
        samplers.effective_number_weights(LABELS.astype(str).tolist(), beta), weights
    )
    per_class = np.bincount(LABELS, weights)  # in proportion to how often by_weight draws a class
    even = {0.0: np.bincount(LABELS), 0.9999: np.full(4, 13 / 4)}
    np.testing.assert_allclose(per_class, even.get(beta, per_class), rtol=1e-3)


def by_hand(mat, own, positive, k, similar, *, skip=0, nearest=None, farthest=None, **margins):
    """The table of `hard_negatives`, one anchor after the other; similarities are negated."""
    sign, table = -1 if similar else 1, []
    for i, row in enumerate(sign * mat.astype(np.float64)):
        others = positive[i] & (np.arange(len(row)) != own[i])
        low = -np.inf if nearest is None else sign * nearest
        if others.any():
            last = row[others].max()
            low = max(low, last + margins.get("margin", -np.inf))
            low = max(low, last + abs(last) * margins.get("relative_margin", -np.inf))
        high = np.inf if farthest is None else sign * farthest
        order = [j for j in np.argsort(row) if not positive[i, j] and low <= row[j] <= high]
        table.append((order[skip:] + [-1] * k)[:k])
    return np.array(table)


@pytest.mark.parametrize(
    ("options", "separate"),
    [
        ({"skip": 2}, False),
        pytest.param(
            {"margin": 0.05, "relative_margin": 0.1, "nearest": 0.7, "skip": 1}, False,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"margin": 0.1, "farthest": 1.2, "distance": LpDistance()}, True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"relative_margin": 0.5, "nearest": 1.0, "farthest": -0.5, "distance": DOT}, True,
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_hard_negatives_equal_a_search_by_hand(options, separate, monkeypatch):
    sizes = dataclasses.replace(CPU, search=(64, 48))  # some blocks of each side
    monkeypatch.setattr("metricjax.evaluation._knn.block_sizes", lambda: sizes)
    rng = np.random.default_rng(0)
    centers, names = rng.normal(size=(40, 4)), np.array([f"class {c}" for c in range(40)])
    codes, ref_codes = rng.integers(0, 40, 120), rng.integers(9, 40, 130)  # some have no positive
    x, y = (rng.normal(centers[c], 0.4).astype(np.float32) for c in (codes, ref_codes))
    if not separate:
        y, ref_codes = x, codes
    distance = options.get("distance", CosineSimilarity())
    reference = (y, names[ref_codes]) if separate else ()
    table = samplers.hard_negatives(x, names[codes].tolist(), *reference, k=8, **options)

    mat = np.asarray(distance(jnp.asarray(x), jnp.asarray(y)))
    own = np.arange(len(x)) + (1000 if separate else 0)
    same = codes[:, None] == ref_codes[None, :]
    expect = functools.partial(by_hand, mat, own, same, 8, distance.is_similarity)
    options = {name: value for name, value in options.items() if name != "distance"}
    np.testing.assert_array_equal(table, expect(**options))
    for name in options:  # each has an effect
        rest = {other: value for other, value in options.items() if other != name}
        assert (table != expect(**rest)).any(), name


def test_hard_negatives_are_fewer_where_there_are_not_enough():
    x = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    table = samplers.hard_negatives(x, [2**40, 2**41, 2**40], k=5, skip=1)
    np.testing.assert_array_equal(table, [[-1] * 5, [2] + [-1] * 4, [-1] * 5])
    table = samplers.hard_negatives(x, [0, 1, 2], x[:0], [], k=2, margin=0.1)
    np.testing.assert_array_equal(table, [[-1] * 2] * 3)


def test_with_negatives():
    """Three anchors have too few negatives, or no positive; ten are left, in batches of 4."""
    draw = functools.partial(samplers.with_negatives, TABLE, LABELS, batch_size=4, num_negatives=2)
    batches = draw(seed=0, step=range(2000))
    assert batches.shape == (2000, 4, 4) and batches.dtype == np.int64
    anchor, positive, *negatives = np.moveaxis(batches, -1, 0)
    assert all(len(set(row)) == 4 for row in anchor)
    usable = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    np.testing.assert_array_equal(np.sort(anchor.reshape(-1, 10)), [usable] * 800)
    assert (LABELS[anchor] == LABELS[positive]).all() and (anchor != positive).all()
    rows = batches.reshape(-1, 4).tolist()
    for i in usable:
        pairs = itertools.permutations([x for x in TABLE[i].tolist() if x >= 0], 2)
        assert uniform(Counter(tuple(row[2:]) for row in rows if row[0] == i), list(pairs))
        of_class = [j for j in np.flatnonzero(LABELS == LABELS[i]).tolist() if j != i]
        assert uniform(Counter(row[1] for row in rows if row[0] == i), of_class)
    strings = LABELS.astype(str).tolist()
    again = samplers.with_negatives(
        TABLE, strings, batch_size=4, num_negatives=2, seed=0, step=[0, 5]
    )
    np.testing.assert_array_equal(again, batches[[0, 5]])


def test_a_batch_with_negatives_goes_into_losses():
    rng = np.random.default_rng(0)
    query, doc = rng.normal(size=(2, 20, 8)).astype(np.float32)
    table = samplers.hard_negatives(query, np.arange(20), doc, np.arange(20), k=6)
    assert (table != np.arange(20)[:, None]).all()
    batches = samplers.Batches(
        samplers.with_negatives, table, batch_size=8, num_negatives=3, seed=0, start=3
    )
    a, p, n = batches[3][:, 0], batches[3][:, 1], batches[3][:, 2:]
    assert (a == p).all() and (table[a][:, None, :] == n[:, :, None]).any(2).all()
    loss = jax.jit(lambda *rows: mj.reduce(mj.losses.infonce(*rows))[0])
    assert jnp.isfinite(loss(query[a], doc[p], doc[n]))

    batch = DRAWS["with_negatives"](step=0)[:, :3]  # triplets
    places = jnp.arange(batch.size).reshape(-1, 3)
    mined = mj.tuples.from_triplets(*places.T)
    labels = LABELS[batch.ravel()]
    assert (labels[mined.anchor] == labels[mined.positive]).all()
    assert (labels[mined.anchor] != labels[mined.negative]).all()


def test_labels_changed_in_place_are_seen():
    labels = np.array([0, 0, 1, 1])
    draw = functools.partial(samplers.m_per_class, labels, 2, batch_size=2, seed=0, step=range(4))
    draw()
    labels[:] = [0, 1, 0, 1]
    assert (labels[draw()][:, 0] == labels[draw()][:, 1]).all()


def m(labels=LABELS, m=2, batch_size=6, seed=0, step=0, **options):
    return samplers.m_per_class(labels, m, batch_size=batch_size, seed=seed, step=step, **options)


def h(labels=TREE, batch_size=12, samples_per_class=2, **options):
    return samplers.hierarchical(
        labels, batch_size=batch_size, samples_per_class=samples_per_class, seed=0, step=0,
        **options,
    )  # fmt: skip


def t(labels=LABELS, num_triplets=4, step=0, **options):
    return samplers.fixed_triplets(labels, num_triplets, seed=0, step=step, **options)


def f(labels=LABELS, num_pairs=4, step=0, batch_size=4, **options):
    return samplers.fixed_pairs(
        labels, num_pairs, seed=0, step=step, batch_size=batch_size, **options
    )


def w(weights, batch_size=4):
    return samplers.by_weight(weights, batch_size=batch_size, seed=0, step=0)


def n(negatives=TABLE, labels=LABELS, batch_size=4, num_negatives=2):
    return samplers.with_negatives(
        negatives, labels, batch_size=batch_size, num_negatives=num_negatives, seed=0, step=0
    )


def mine(embeddings=np.eye(4, dtype=np.float32), labels=(0, 0, 1, 1), *reference, **options):
    return samplers.hard_negatives(embeddings, labels, *reference, **({"k": 1} | options))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: m(m=0), r"m_per_class: `m` must be an integer >= 1, got 0"),
        (lambda: m(batch_size=5), r"`batch_size` must be a multiple of m \(2\), got 5"),
        (lambda: m(batch_size=10), r"at most m \* classes = 2 \* 4, got 10\. A larger m"),
        (lambda: m(batch_size=0), r"`batch_size` must be an integer >= 1, got 0"),
        (lambda: m(labels=[]), r"`labels` must have shape \[N\], N >= 1, got \(0,\)"),
        (lambda: m(labels=TREE), r"`labels` must have shape \[N\], N >= 1, got \(27, 2\)"),
        (lambda: m(labels=[0.5, 1.5]), r"`labels` must be integer class ids, got float64"),
        (lambda: m(seed=-1), r"`seed` must be an integer >= 0, got -1"),
        (lambda: m(step=-1), r"`step` must be integers >= 0, got -1"),
        (lambda: m(step=0.5), r"`step` must be integers >= 0, got 0\.5"),
        (lambda: m(shard_count=4), r"`batch_size` must be a multiple of shard_count \(4\), got 6"),
        (lambda: m(shard_count=0), r"`shard_count` must be an integer >= 1, got 0"),
        (lambda: m(shard_index=2, shard_count=2), r"less than `shard_count` \(2\), got 2"),
        (lambda: m(shard_index=-1), r"`shard_index` must be an integer >= 0, got -1"),
        (lambda: h(labels=LABELS), r"hierarchical: `labels` must have shape \[N, levels\]"),
        (lambda: h(outer_label=2), r"`outer_label` must be one of 0, 1, got 2"),
        (lambda: h(samples_per_class="any"), r"`samples_per_class` must be .* got 'any'"),
        (lambda: h(batch_size=10), r"super_classes_per_batch \* samples_per_class \(4\), got 10"),
        (lambda: h(super_classes_per_batch=6), r"at most the 3 super classes, got 6"),
        (lambda: h(batches_per_super_tuple=0), r"`batches_per_super_tuple` must be an integer"),
        (
            lambda: h(np.arange(200).reshape(100, 2), super_classes_per_batch=6),
            r"100 super classes have 1,192,052,400 sets",
        ),
        (lambda: t(), r"fixed_triplets: `batch_size` must be an integer >= 1, got 0"),
        (lambda: t(batch_size=4), r"multiple of triplet \* shard_count \(3\), got 4"),
        (lambda: t(batch_size=15), r"at most 3 \* num_triplets = 12, got 15"),
        (lambda: t(batch_size=9, shard_count=2), r"triplet \* shard_count \(6\), got 9"),
        (lambda: t(num_triplets=0), r"`num_triplets` must be an integer >= 1, got 0"),
        (lambda: t(labels=[1, 1]), r"`labels` must have two classes, .* got sizes \[2\]"),
        (lambda: t(labels=[0, 1]), r"`labels` must have two classes, .* got sizes \[1 1\]"),
        (lambda: f(num_pairs=5), r"`num_pairs` must be even, .* got 5"),
        (lambda: f(batch_size=6), r"multiple of two_pairs \* shard_count \(4\), got 6"),
        (lambda: f(batch_size=12), r"at most 2 \* num_pairs = 8, got 12"),
        (lambda: w([]), r"by_weight: `weights` must have shape \[N\], N >= 1, got \(0,\)"),
        (lambda: w([0, 0]), r"`weights` must be finite, >= 0 and not all 0, got \[0\. 0\.\]"),
        (lambda: w([1, -1, 2]), r"`weights` must be finite, >= 0"),
        (lambda: w([1, np.nan]), r"`weights` must be finite, >= 0"),
        (lambda: w([1, np.inf]), r"`weights` must be finite, >= 0"),
        (lambda: w([1, 1], batch_size=0), r"`batch_size` must be an integer >= 1, got 0"),
        (
            lambda: samplers.effective_number_weights([0, 1], 1.0),
            r"`beta` must be in \[0, 1\), got",
        ),
        (
            lambda: n(TABLE * 0.5),
            r"with_negatives: `negatives` must be integers \[N, k\], .* float64",
        ),
        (lambda: n(TABLE[0]), r"`negatives` must be integers \[N, k\], .* got int64 \(4,\)"),
        (
            lambda: n(labels=LABELS[:5]),
            r"`labels` must have shape \[13\] to match `neg.* got \(5,\)",
        ),
        (
            lambda: n(batch_size=11),
            r"at most 10, .* 2 negatives and a positive, got 11\. Mine more",
        ),
        (lambda: n(num_negatives=5), r"`batch_size` must be at most 0, .* with 5 negatives"),
        (lambda: n(num_negatives=0), r"`num_negatives` must be an integer >= 1, got 0"),
        (lambda: mine(k=0), r"hard_negatives: `k` must be an integer >= 1, got 0"),
        (lambda: mine(skip=-1), r"`skip` must be an integer >= 0, got -1"),
        (lambda: mine(labels=[0, 1]), r"`labels` must have shape \[4\] to match `embeddings`"),
        (lambda: mine(np.eye(4, dtype=int)), r"`embeddings` must be floating, got int"),
        (
            lambda: mine(np.eye(4), range(4), np.eye(3), range(3)),
            r"`reference` must have 4 features to match `embeddings`, got \(3, 3\)",
        ),
        (
            lambda: mine(np.eye(4), range(4), np.eye(4)),
            r"`reference_labels` must be given together",
        ),
        (lambda: mine(distance="cosine"), r"`distance` must be a distance such as .* got 'cosine'"),
        (lambda: len(samplers.Batches(w, [1, 1])), "unexpected keyword argument 'step'"),
    ],
)
def test_errors(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def batches(start=0, steps=None, seed=0):
    return samplers.Batches(
        samplers.m_per_class, LABELS, m=2, batch_size=6, seed=seed, start=start, steps=steps
    )


EXPECTED = samplers.m_per_class(LABELS, 2, batch_size=6, seed=0, step=range(200))


def test_batches_go_on_where_they_stopped():
    drawn = list(itertools.islice(batches(), 200))
    np.testing.assert_array_equal(drawn, EXPECTED)
    resumed = batches(start=150)
    np.testing.assert_array_equal(list(itertools.islice(resumed, 50)), EXPECTED[150:])
    assert resumed.step == 200
    np.testing.assert_array_equal(
        [resumed[i] for i in (199, 0, 64, 63)], EXPECTED[[199, 0, 64, 63]]
    )


def test_batches_by_epoch():
    by_epoch = batches(start=25, steps=10)
    assert len(by_epoch) == 10
    epochs = [list(by_epoch) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [5, 10, 10]  # the rest of the third epoch
    np.testing.assert_array_equal(np.concatenate(epochs), EXPECTED[25:50])
    for _ in by_epoch:
        break
    np.testing.assert_array_equal(list(by_epoch), EXPECTED[51:60])
    with pytest.raises(TypeError, match="no length without `steps`"):
        len(batches())


def test_batches_check_their_arguments_when_built():
    with pytest.raises(ValueError, match="must be a multiple of m"):
        samplers.Batches(samplers.m_per_class, LABELS, m=4, batch_size=6, seed=0)


DATA = np.arange(100.0).reshape(50, 2)


def grain_dataset():
    return grain.MapDataset.source(batches(steps=40)).map(lambda index: DATA[index])


def test_grain_dataset_resumes():
    iterator = iter(grain_dataset().to_iter_dataset())
    np.testing.assert_array_equal([next(iterator) for _ in range(7)], DATA[EXPECTED[:7]])
    state = iterator.get_state()
    rest = list(iterator)
    np.testing.assert_array_equal(rest, DATA[EXPECTED[7:40]])
    resumed = iter(grain_dataset().to_iter_dataset())
    resumed.set_state(state)
    np.testing.assert_array_equal(list(resumed), rest)


class Load(grain.transforms.Map):
    def map(self, index):
        return DATA[index]


def grain_loader(workers=0, seed=0):
    source = batches(steps=40, seed=seed)
    return grain.DataLoader(
        data_source=source,
        sampler=grain.samplers.SequentialSampler(len(source)),
        operations=[Load()],
        shard_options=grain.sharding.NoSharding(),
        worker_count=workers,
    )


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_grain_loader_resumes(workers):
    flags.FLAGS.mark_as_parsed()  # Grain's workers ask for it
    iterator = iter(grain_loader(workers))
    np.testing.assert_array_equal([next(iterator) for _ in range(7)], DATA[EXPECTED[:7]])
    state = iterator.get_state()
    resumed = iter(grain_loader(workers))
    resumed.set_state(state)
    np.testing.assert_array_equal(list(resumed), DATA[EXPECTED[7:40]])
    with pytest.raises(ValueError, match="Sampler|DataSource"):
        iter(grain_loader(workers, seed=1)).set_state(state)
