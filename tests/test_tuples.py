"""Which pairs and triplets there are: brute force, multiplicities, random draws, empty sets.

The property tests draw weights for 4 anchors and 5 references; everything is compiled once.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency, chisquare

from metricjax import Pairs, Refs, chunked, losses, miners, reduce, tuples
from metricjax._core.triplets import pick, walk_positives
from metricjax._core.types import TripletRule, Triplets
from metricjax.distances import LpDistance
from metricjax.tuples._convert import _running_total

LABELS = np.array([0, 0, 1, 1, 0])
REF_LABELS = np.array([1, 0, 7, 0, 1, 1, 0])
REF_WHERE = np.array([1.0, 2, 1, 0.5, 0, 1, 1], np.float32)
SELF_INDEX = np.array([6, 3, 0, 5, 1])


def listed(mat):
    """The entries above 0, as "ij"."""
    return [f"{i}{j}" for i, j in np.argwhere(np.asarray(mat))]


all_pairs = jax.jit(tuples.all_pairs, static_argnames="match")


def same(mined, expected):
    for got, want in zip(mined, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_all_pairs_of_the_batch():
    pairs = all_pairs(LABELS)
    assert listed(pairs.positive) == "01 04 10 14 23 32 40 41".split()
    assert listed(pairs.negative) == "02 03 12 13 20 21 24 30 31 34 42 43".split()
    assert {x.dtype.name for x in pairs} == {"float32"}
    assert {x for mat in pairs for x in np.unique(mat)} == {0, 1}


def brute_force(labels, refs, where=None, match=None):
    """One pair at a time."""
    n, m = len(labels), len(refs.labels)
    pairs = Pairs(np.zeros((n, m)), np.zeros((n, m)))
    for i, j in itertools.product(range(n), range(m)):
        weight = 1 if where is None else float(where[i])
        weight *= 1 if refs.where is None else float(refs.where[j])
        if refs.self_index is not None and refs.self_index[i] == j:
            weight = 0
        hit = float(labels[i] == refs.labels[j] if match is None else match[i, j])
        pairs.positive[i, j] = weight * hit
        pairs.negative[i, j] = weight * (1 - hit)
    return pairs


@pytest.mark.parametrize("where", [None, jnp.array([1.0, 0, 2, 0.5, 1])])
@pytest.mark.parametrize("ref_where", [None, REF_WHERE])
@pytest.mark.parametrize("self_index", [None, SELF_INDEX])
def test_all_pairs_with_references(where, ref_where, self_index):
    refs = Refs(None, REF_LABELS, self_index, ref_where)
    same(all_pairs(LABELS, refs, where), brute_force(LABELS, refs, where))


@pytest.mark.parametrize("where", [jnp.array([1.0, 0, 2, 0.5, 1]), LABELS > 0])
def test_where_weighs_anchors_and_the_batch_as_references(where):
    refs = Refs(None, LABELS, jnp.arange(5), where)
    same(all_pairs(LABELS, where=where), brute_force(LABELS, refs, where))


def test_soft_match():
    soft = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    refs = Refs(None, REF_LABELS, SELF_INDEX, REF_WHERE)
    same(
        all_pairs(LABELS, refs, match=lambda x, y: soft),
        brute_force(LABELS, refs, match=soft),
    )


def test_labels_may_be_a_tree():
    rng = np.random.default_rng(0)
    labels = {"kinds": rng.random((5, 3)) < 0.5, "year": rng.integers(0, 4, 5)}
    common = lambda x, y: (
        jnp.any(x["kinds"][:, None] & y["kinds"][None], -1)
        & (jnp.abs(x["year"][:, None] - y["year"][None]) < 3)
    )
    matrix = np.asarray(common(labels, labels))
    expected = brute_force(range(5), Refs(None, range(5), range(5)), match=matrix)
    assert expected.positive.any() and expected.negative.any()
    same(all_pairs(labels, match=common), expected)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_no_samples_make_no_pairs(n, m):
    refs = Refs(None, jnp.zeros(m, int))
    assert [x.shape for x in all_pairs(jnp.zeros(n, int), refs)] == [(n, m)] * 2


A1, P = jnp.array([0, 0, 1, 0, 4]), jnp.array([1, 2, 0, 1, 6])
A2, NEGATIVE = jnp.array([3, 3]), jnp.array([5, 0])


def test_repeated_pairs_add_up():
    pairs = tuples.from_pairs(A1, P, A2, NEGATIVE, shape=(5, 7))
    expected = np.zeros((2, 5, 7))
    expected[0, 0, 1], expected[0, 0, 2], expected[0, 1, 0], expected[0, 4, 6] = 2, 1, 1, 1
    expected[1, 3, 5] = expected[1, 3, 0] = 1
    same(pairs, expected)


def test_weights_of_listed_pairs():
    pairs = tuples.from_pairs(
        A1, P, A2, NEGATIVE,
        shape=(5, 7),
        where_positive=jnp.array([0.5, 0, 1, 2, 0]),
        where_negative=jnp.array([False, True]),
    )  # fmt: skip
    expected = np.zeros((2, 5, 7))
    expected[0, 0, 1], expected[0, 1, 0], expected[1, 3, 0] = 2.5, 1, 1
    same(pairs, expected)


def test_indices_past_the_end_are_padding():
    pairs = tuples.from_pairs(A1, P, A2, NEGATIVE, shape=(4, 5))
    assert (listed(pairs.positive), listed(pairs.negative)) == (["01", "02", "10"], ["30"])


TRIPLETS = tuples.from_triplets(
    jnp.array([0, 0, 3, 1, 0, 2]),
    jnp.array([1, 1, 6, 2, 5, 0]),
    jnp.array([2, 4, 0, 0, 2, 1]),
    jnp.array([1, 1, 2, 0, 0.5, 1]),
)


def triplets_to_pairs(triplets, shape):
    pairs = Pairs(np.zeros(shape), np.zeros(shape))
    for a, p, n, weight in zip(*triplets, strict=True):
        pairs.positive[a, p] += weight
        pairs.negative[a, n] += weight
    return pairs


def test_pairs_of_listed_triplets():
    same(tuples.as_pairs(TRIPLETS, (4, 7)), triplets_to_pairs(TRIPLETS, (4, 7)))
    assert tuples.as_pairs(TRIPLETS, (4, 7)).positive[0, 1] == 2


def test_triplets_weigh_one_by_default():
    triplets = tuples.from_triplets(*TRIPLETS[:3])
    assert triplets.weights.dtype == "float32" and np.all(triplets.weights == 1)


def test_pairs_of_pairs_are_themselves():
    pairs = tuples.all_pairs(LABELS)
    assert tuples.as_pairs(pairs) is pairs


def rule(n, m, soft, seed=0):
    """The triplets of two weight matrices where the negative is farther, by at most 1.5."""
    rng = np.random.default_rng(seed)
    match = (rng.random((n, m)) < 0.4).astype(np.float32)
    match = match * rng.random((n, m)).astype(np.float32) if soft else match
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    mine = functools.partial(
        miners.triplet_margin,
        match=lambda x, y: match,
        margin=1.5,
        type_of_triplets="semihard",
        distance=LpDistance(normalize_embeddings=False),
    )
    refs = Refs(y.astype(np.float32), np.zeros(m, int))
    return jax.jit(mine)(x.astype(np.float32), np.zeros(n, int), refs=refs)


def enumerate_rule(mined):
    """Every triplet of a rule with its weight, the slow way."""
    n, m = mined.positive.shape
    keep = jax.jit(jax.vmap(lambda j: mined.keep(mined.rows, jnp.full(n, j))))(np.arange(m))
    positive, negative, keep = map(np.asarray, (mined.positive, mined.negative, keep))
    for a, p, q in itertools.product(range(n), range(m), range(m)):
        weight = float(positive[a, p] * negative[a, q])
        if weight and keep[p, a, q]:
            yield a, p, q, weight


@pytest.mark.parametrize("soft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pairs_of_a_rule(soft):
    mined = rule(5, 7, soft)
    triplets = list(enumerate_rule(mined))
    assert 20 < len(triplets) < 150
    expected = triplets_to_pairs(zip(*triplets, strict=True), (5, 7))
    for convert in (tuples.as_pairs, jax.jit(tuples.as_pairs)):
        same(convert(mined), expected)


N, M, T = 4, 5, 12
ALL = N * M * M
many = settings(derandomize=True, deadline=None, max_examples=200)
some_weights = arrays(np.float32, (N, M), elements=st.sampled_from([0, 0, 0.5, 1, 2]))
some_pairs = st.builds(Pairs, some_weights, some_weights)
some_index = lambda end: arrays(np.int32, T, elements=st.integers(0, end - 1))
some_triplets = st.builds(
    Triplets,
    some_index(N),
    some_index(M),
    some_index(M),
    arrays(np.float32, T, elements=st.sampled_from([0, 0.5, 1, 2])),
)


def _looked_up(table, j):
    return jnp.take_along_axis(table, j[:, None, None], 1)[:, 0]


some_rules = st.builds(
    TripletRule,
    some_weights,
    some_weights,
    arrays(bool, (N, M, M)),
    st.just(jax.tree_util.Partial(_looked_up)),
)
as_triplets = jax.jit(tuples.as_triplets, static_argnums=1)
as_pair_lists = jax.jit(tuples.as_pair_lists, static_argnums=(1, 2))
as_pairs = jax.jit(tuples.as_pairs, static_argnums=1)
from_pairs = jax.jit(tuples.from_pairs, static_argnames="shape")
union = jax.jit(tuples.union, static_argnames="shape")
intersection = jax.jit(tuples.intersection, static_argnames="shape")


def every_triplet(mined):
    """Anchor, positive, negative and weight of each triplet, in lexicographic order."""
    positive, negative = mined[:2]
    for a, p, n in itertools.product(range(N), range(M), range(M)):
        weight = positive[a, p] * negative[a, n]
        if weight and (isinstance(mined, Pairs) or mined.rows[a, p, n]):
            yield a, p, n, weight


def is_list_of(listed, left_out, expected):
    """Whether a padded list starts with what is expected, and says how much more there is."""
    size = len(listed[0])
    rows = list(zip(*(x.tolist() for x in listed), strict=True))
    fit = expected[:size]
    assert rows[: len(fit)] == fit
    assert all(row[-1] == 0 for row in rows[len(fit) :])
    assert left_out == len(expected) - len(fit)


@many
@given(some_pairs)
def test_pairs_as_lists_and_back(pairs):
    for size in ((6, 3), N * M):
        lists, left_out = as_pair_lists(pairs, size)
        for listed, left, mat in (
            ((lists.a1, lists.p, lists.where_positive), left_out[0], pairs.positive),
            ((lists.a2, lists.n, lists.where_negative), left_out[1], pairs.negative),
        ):
            is_list_of(listed, left, [(*at, mat[*at]) for at in np.argwhere(mat).tolist()])
    same(from_pairs(**lists._asdict(), shape=(N, M)), pairs)


@many
@given(some_pairs | some_rules)
@pytest.mark.slow
def test_every_triplet_is_listed_once_in_order(mined):
    expected = list(every_triplet(mined))
    for size in (7, ALL):
        is_list_of(*as_triplets(mined, size), expected)


@many
@given(some_triplets)
@pytest.mark.slow
def test_listed_triplets_are_passed_through_without_padding(triplets):
    expected = [row for row in zip(*(x.tolist() for x in triplets), strict=True) if row[-1]]
    for size in (7, T, T + 2):
        is_list_of(*as_triplets(triplets, size), expected)


@pytest.mark.slow
@many
@given(some_rules | some_triplets)
def test_triplets_make_the_same_pairs_in_every_form(mined):
    shape = (N, M)
    listed, _ = as_triplets(mined, ALL)
    direct = as_pairs(mined, shape)
    same(as_pairs(listed, shape), direct)
    lists, _ = as_pair_lists(mined, N * M, shape)
    same(from_pairs(**lists._asdict(), shape=shape), direct)


@pytest.mark.slow
@many
@given(some_pairs, some_rules, some_triplets)
def test_miners_join_as_pairs(pairs, rule, triplets):
    each = [as_pairs(x, (N, M)) for x in (pairs, rule, triplets)]
    for join, choose in ((union, np.maximum), (intersection, np.minimum)):
        joined = join(pairs, rule, triplets)
        same(joined, (functools.reduce(choose, x) for x in zip(*each, strict=True)))


@pytest.mark.slow
@many
@given(some_weights, some_weights, some_rules, some_rules)
def test_rules_of_a_batch_join_as_a_rule(positive, negative, one, two):
    one, two = (x._replace(positive=positive, negative=negative) for x in (one, two))
    sets = [set(every_triplet(x)) for x in (one, two)]
    for joined, expected in (
        (union(one, two), sets[0] | sets[1]),
        (intersection(one, two), sets[0] & sets[1]),
    ):
        assert isinstance(joined, TripletRule)
        is_list_of(*as_triplets(joined, ALL), sorted(expected))


@pytest.mark.slow
@many
@given(some_rules, some_rules)
def test_rules_of_different_pairs_join_their_triplets(one, two):
    sets = [{row[:3] for row in every_triplet(x)} for x in (one, two)]
    for joined, expected in (
        (union(one, two), sets[0] | sets[1]),
        (intersection(one, two), sets[0] & sets[1]),
    ):
        listed, _ = as_triplets(joined, ALL)
        rows = zip(*(x.tolist() for x in listed), strict=True)
        assert {row[:3] for row in rows if row[3]} == expected


@pytest.mark.slow
def test_joined_rules_serve_a_loss_in_chunks():
    x, y = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2
    mine = lambda kind: miners.triplet_margin(x, y, type_of_triplets=kind, margin=0.9)
    hard, semihard, both = jax.jit(lambda: [mine(k) for k in ("hard", "semihard", "all")])()
    at_once = jax.jit(lambda mined: reduce(losses.triplet_margin(x, y, mined=mined, margin=1.0))[0])
    in_chunks = jax.jit(
        lambda mined: reduce(chunked(losses.triplet_margin, 4)(x, y, mined=mined, margin=1.0))[0]
    )
    joined = union(hard, semihard)
    expected = at_once(both)
    assert abs(expected - at_once(hard)) > 1e-3
    np.testing.assert_allclose(at_once(joined), expected, rtol=1e-5)
    np.testing.assert_allclose(in_chunks(joined), expected, rtol=1e-5)


def test_lists_of_boolean_pairs():
    pairs = tuples.all_pairs(LABELS)
    boolean = Pairs(*(x > 0 for x in pairs))
    same(as_triplets(boolean, 30)[0], as_triplets(pairs, 30)[0])
    same(as_pair_lists(boolean, 15)[0], as_pair_lists(pairs, 15)[0])


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_lists_of_nothing(n, m):
    pairs = tuples.all_pairs(jnp.zeros(n, int), Refs(None, jnp.zeros(m, int)))
    for mined in (pairs, tuples.from_triplets(*[jnp.zeros(0, int)] * 3)):
        is_list_of(*tuples.as_triplets(mined, 2), [])
    lists, left_out = tuples.as_pair_lists(pairs, 2)
    assert left_out == (0, 0) and not any(lists.where_positive) and len(lists.n) == 2


def test_more_triplets_than_an_integer_holds():
    counts = np.full(10, 2**28, np.int32)
    counts[0] = 3
    expected = np.minimum(np.cumsum(np.int64(counts)), 2**30)
    np.testing.assert_array_equal(jax.jit(_running_total)(counts), expected)
    assert expected[3] < expected[4] == expected[-1]


@pytest.mark.parametrize(
    "how", ["vmap", *(pytest.param(h, marks=pytest.mark.slow) for h in ("shard_map", "explicit"))]
)
def test_lists_on_batches_of_batches_and_devices(how):
    rng = np.random.default_rng(0)
    pairs = Pairs(*(rng.random((2, 8, N, M)) < 0.5).astype(np.float32))
    lists = lambda pairs: (tuples.as_triplets(pairs, 20), tuples.as_pair_lists(pairs, 9))
    one_by_one = [jax.jit(lists)(Pairs(*one)) for one in zip(*pairs, strict=True)]
    expected = jax.tree.map(lambda *x: np.stack(x), *one_by_one)
    mesh = jax.make_mesh((8,), ("d",))
    if how == "vmap":
        got = jax.jit(jax.vmap(lists))(pairs)
    elif how == "shard_map":
        squeezed = lambda pairs: jax.tree.map(
            lambda x: x[None], lists(jax.tree.map(lambda x: x[0], pairs))
        )
        mapped = jax.shard_map(squeezed, mesh=mesh, out_specs=jax.P("d"))
        got = jax.jit(mapped)(jax.device_put(pairs, jax.NamedSharding(mesh, jax.P("d"))))
    else:
        flat = jax.tree.map(lambda x: x.reshape(8 * N, M), pairs)
        expected = jax.jit(lists)(flat)
        with jax.set_mesh(mesh):
            got = jax.jit(lists)(jax.device_put(flat, jax.NamedSharding(mesh, jax.P("d"))))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def positions(weights):
    """For each row the columns of entries above 0, filled up with M."""
    n, m = weights.shape
    table = np.full((n, m), m)
    for i, row in enumerate(weights):
        columns = np.flatnonzero(row > 0)
        table[i, : len(columns)] = columns
    return table, max((np.count_nonzero(row > 0) for row in weights), default=0)


@functools.cache
def random_matrices():
    rng = np.random.default_rng(0)
    densities = np.array([0, 0.1, 0.3, 0.5, 0.9, 1])[:, None, None]
    weights = (rng.random((6, 5, 40)) < densities) * rng.choice([0.25, 1, 3], (6, 5, 40))
    weights[1, 2] = 0
    weights[1, 3] = 1  # one row with all, one with none
    return weights.astype(np.float32)


@pytest.mark.parametrize("how", ["jit", "vmap"])
def test_walk_visits_every_positive(how):
    weights = random_matrices()
    if how == "vmap":
        walks = jax.jit(jax.vmap(walk_positives))(weights)
    else:
        walks = [jax.jit(walk_positives)(w) for w in weights]
        walks = jax.tree.map(lambda *x: np.stack(x), *walks)
    for w, table, count in zip(weights, *walks, strict=True):
        expected, most = positions(w)
        assert count == most
        np.testing.assert_array_equal(table[:, :most], expected[:, :most])
        assert np.all(table[:, most:] == w.shape[1])


def test_pick_takes_one_entry_of_each_row():
    mat = jnp.arange(12.0).reshape(3, 4)
    j, cotangent = jnp.array([2, 0, 3]), jnp.array([[1.0], [2], [3]])

    @jax.jit
    def run(mat):
        picked, pullback = jax.vjp(lambda mat: pick(mat, j), mat)
        return picked, pullback(cotangent)[0]

    picked, gradient = run(mat)
    np.testing.assert_array_equal(picked, [[2], [4], [11]])
    np.testing.assert_array_equal(gradient, [[0, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 3]])


COUNTED = tuples.from_pairs(
    jnp.array([0, 0, 1]),
    jnp.array([1, 2, 0]),
    jnp.array([0, 0, 3]),
    jnp.array([3, 4, 0]),
    shape=(8, 8),
)


@pytest.mark.parametrize(
    ("mined", "self_refs", "expected"),
    [
        (COUNTED, True, [1, 1 / 3, 1 / 6, 1 / 3, 1 / 6, 0, 0, 0]),
        (COUNTED, False, [1, 1 / 4, 0, 1 / 4, 0, 0, 0, 0]),
        (TRIPLETS, True, [5.5 / 5.5, 3 / 5.5, 2.5 / 5.5, 2 / 5.5, 1 / 5.5, 0.5 / 5.5, 2 / 5.5]),
        (TRIPLETS, False, [1, 0, 0.4, 0.8, 0, 0, 0]),
        (Pairs(jnp.zeros((3, 3)), jnp.zeros((3, 3))), True, [1, 1, 1]),
        (TRIPLETS._replace(weights=jnp.zeros(6)), True, [1, 1, 1]),
    ],
)
def test_sample_weights(mined, self_refs, expected):
    got = tuples.sample_weights(mined, len(expected), self_refs=self_refs)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("self_refs", [True, False])
def test_sample_weights_of_a_rule_equal_those_of_its_triplets(self_refs):
    mined = rule(6, 6, soft=False, seed=3)
    triplets = tuples.from_triplets(*map(np.array, zip(*enumerate_rule(mined), strict=True)))
    weights = jax.jit(lambda mined: tuples.sample_weights(mined, 6, self_refs=self_refs))
    got, expected = map(weights, (mined, triplets))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(np.unique(np.round(expected, 4))) > 3


draw = jax.jit(tuples.random_triplets, static_argnames=("per_anchor", "match"))


def test_random_triplets_have_the_stated_distribution():
    labels, k = jnp.array([0, 0, 0, 1, 1, 2]), 3000
    refs = Refs(None, jnp.array([0, 1, 0, 0, 2, 0, 1]), jnp.array([0, 2, 3, 1, 6, 4]))
    refs = refs._replace(where=jnp.array([1.0, 1, 2, 0.5, 1, 0, 3]))
    pairs = tuples.all_pairs(labels, refs)
    a, p, n, weights = map(np.asarray, draw(jax.random.key(0), labels, k, refs=refs))
    np.testing.assert_array_equal(a, np.repeat(np.arange(6), k))
    np.testing.assert_array_equal(weights, (a != 5))  # the only one of class 2 has no positive
    for i in range(5):
        cells = np.outer(*(x[i] / x[i].sum() for x in np.float64(pairs)))
        counts = np.zeros((7, 7))
        np.add.at(counts, (p[a == i], n[a == i]), 1)
        assert np.all(counts[cells == 0] == 0)
        assert chisquare(counts[cells > 0], k * cells[cells > 0]).pvalue > 1e-4


def test_by_default_there_are_as_many_random_triplets_as_the_class_has_members():
    a, p, n, weights = (
        np.asarray(x) for x in draw(jax.random.key(0), jnp.array([0, 0, 0, 1, 1, 2]))
    )
    real = weights > 0
    assert np.bincount(a[real], minlength=6).tolist() == [3, 3, 3, 2, 2, 0]
    assert len(weights) == 36 and (a[real] != p[real]).all()


def test_random_negatives_may_be_weighed():
    labels, k = np.array([0, 0, 1, 1, 2]), 3000
    weights = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    weights[:, 0] = 0  # never drawn
    weights[3, [0, 1, 4]] = 0  # all that anchor 3 could take
    _, _, n, drawn = map(
        np.asarray,
        draw(jax.random.key(3), jnp.array(labels), k, negative_weights=jnp.array(weights)),
    )
    np.testing.assert_array_equal(drawn.reshape(5, k)[:, 0], [1, 1, 1, 0, 0])
    for i in range(3):
        cells = np.float64(weights[i]) * (labels != labels[i])
        cells = cells / cells.sum()
        counts = np.bincount(n.reshape(5, k)[i], minlength=5)
        assert np.all(counts[cells == 0] == 0)
        assert chisquare(counts[cells > 0], k * cells[cells > 0]).pvalue > 1e-4


def test_draws_are_independent_of_each_other():
    _, p, n, _ = draw(jax.random.key(1), jnp.array([0, 0, 0, 1, 1, 1]), 4000)
    for drawn in (np.asarray(p).reshape(6, -1), np.asarray(n).reshape(6, -1)):
        first, second = drawn[:3], drawn[3:]
        for u, v in ((first[0, :-1], first[0, 1:]), (first[0], first[1]), (first[2], second[2])):
            table = np.array([[np.sum((u == i) & (v == j)) for j in set(v)] for i in set(u)])
            assert table.size > 1 and chi2_contingency(table).pvalue > 1e-4


def half(x, y):
    return jnp.full((len(x), len(y)), 0.5)


def test_positive_and_negative_are_independent_where_both_may_be_either():
    _, p, n, _ = map(np.asarray, draw(jax.random.key(2), jnp.arange(4), 4000, match=half))
    table = np.zeros((4, 4))
    np.add.at(table, (p[:4000], n[:4000]), 1)
    assert not np.any(table[0]) and not np.any(table[:, 0])
    assert chisquare(table[1:, 1:].ravel()).pvalue > 1e-4


def test_the_key_decides():
    labels = jnp.array([0, 0, 0, 0, 1, 1, 1, 1])
    one, again, other = (draw(jax.random.key(seed), labels, 20) for seed in (0, 0, 1))
    same(one, again)
    assert np.mean(one.positive != other.positive) > 0.3
    assert np.mean(one.negative != other.negative) > 0.3


@pytest.mark.parametrize(
    ("labels", "per_anchor", "where", "drawn"),
    [
        ([0, 1, 2], 2, None, []),
        ([0, 0, 0], 2, None, []),
        ([0, 0, 1], 2, None, [0, 1]),
        ([0, 0, 1], 2, [1, 1, 0], []),
        ([0, 0, 0, 1], 2, [1, 0, 1, 1], [0, 2]),
        ([0, 0, 1], 0, None, []),
        ([], 2, None, []),
    ],
)
def test_anchors_without_triplets(labels, per_anchor, where, drawn):
    labels = jnp.array(labels, int)
    where = None if where is None else jnp.array(where)
    triplets = draw(jax.random.key(0), labels, per_anchor, where=where)
    assert [x.shape for x in triplets] == [(len(labels) * per_anchor,)] * 4
    a, p, n, weights = map(np.asarray, triplets)
    assert sorted(set(a[weights > 0])) == drawn
    assert np.all((0 <= p) & (p < max(len(labels), 1)) & (0 <= n) & (n < max(len(labels), 1)))
    for i, j, k in zip(a[weights > 0], p[weights > 0], n[weights > 0], strict=True):
        assert i != j and labels[i] == labels[j] and labels[i] != labels[k]


def test_no_references_to_draw_from():
    triplets = draw(jax.random.key(0), LABELS, 3, refs=Refs(None, jnp.zeros(0, int)))
    assert len(triplets.anchor) == 15 and not np.any(triplets.weights)


THREE, TWO, FOUR = jnp.arange(3), jnp.arange(2), jnp.arange(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tuples.all_pairs(None), ValueError, r"tuples.all_pairs: `labels`"),
        (lambda: tuples.all_pairs(jnp.ones(3)), TypeError, r"all_pairs: `labels` .*float32"),
        (lambda: tuples.all_pairs(THREE[:, None]), ValueError, r"all_pairs: `labels` .*\(3, 1\)"),
        (lambda: tuples.all_pairs(THREE, where=TWO), ValueError, r"all_pairs: `where` .*\(2,\)"),
        (lambda: tuples.all_pairs(THREE, Refs(None)), ValueError, "all_pairs: labels are needed"),
        (
            lambda: tuples.all_pairs(THREE, Refs(None, FOUR, TWO)),
            ValueError,
            r"all_pairs: `refs.self_index` .*\[3\] .*\(2,\)",
        ),
        (
            lambda: tuples.all_pairs(THREE, Refs(None, FOUR, None, TWO)),
            ValueError,
            r"all_pairs: `refs.where` .*\[4\] .*\(2,\)",
        ),
        (
            lambda: tuples.all_pairs(THREE, match=lambda x, y: x == y),
            ValueError,
            r"all_pairs: `match` must give shape \(3, 3\), got \(3,\)",
        ),
        (
            lambda: tuples.from_pairs(THREE, TWO, THREE, THREE, shape=(4, 4)),
            ValueError,
            r"from_pairs: `p` .*\[3\] .*`a1`.*\(2,\)",
        ),
        (
            lambda: tuples.from_pairs(THREE, THREE, THREE, THREE, shape=(4, 4), where_negative=TWO),
            ValueError,
            r"from_pairs: `where_negative` .*\[3\] .*`a2`.*\(2,\)",
        ),
        (lambda: tuples.from_triplets(THREE, TWO, THREE), ValueError, r"triplets: `p` .*\(2,\)"),
        (
            lambda: tuples.from_triplets(THREE, THREE, THREE, TWO),
            ValueError,
            r"tuples.from_triplets: `where` .*\(2,\)",
        ),
        (lambda: tuples.as_triplets(TRIPLETS, -1), ValueError, "as_triplets: `size` .*got -1"),
        (lambda: tuples.as_triplets(THREE, 3), TypeError, "as_triplets: `mined` must be"),
        (lambda: tuples.as_pair_lists(COUNTED, (3, -1)), ValueError, "as_pair_lists: `size` "),
        (lambda: tuples.as_pair_lists(TRIPLETS, 3), ValueError, r"`shape` \(N, M\) is needed"),
        (lambda: tuples.union(), ValueError, "tuples.union: there is nothing to join"),
        (lambda: tuples.union(COUNTED, None), TypeError, "tuples.union: `mined` must be"),
        (
            lambda: tuples.intersection(COUNTED, tuples.all_pairs(THREE)),
            ValueError,
            r"intersection: all must be of the same .*got shapes \(3, 3\), \(8, 8\)",
        ),
        (
            lambda: tuples.random_triplets(
                jax.random.key(0), THREE, 2, negative_weights=jnp.ones((3, 1))
            ),
            ValueError,
            r"random_triplets: `negative_weights` .*\(3, 3\), got \(3, 1\)",
        ),
        (lambda: tuples.as_pairs(TRIPLETS), ValueError, r"tuples.as_pairs: `shape`"),
        (
            lambda: tuples.random_triplets(jax.random.key(0), THREE, 2, where=TWO),
            ValueError,
            r"`where` .*\(2,\)",
        ),
    ],
)
def test_errors_name_function_and_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- some of them ------------------------------------------------------------------------------


def test_so_many_of_each_anchor():
    labels = jnp.array([0, 0, 0, 0, 1, 1, 1, 2])
    pairs = tuples.all_pairs(labels)
    rule = TripletRule(*pairs, jnp.zeros(8), jax.tree_util.Partial(lambda rows, j: True))
    listed, _ = tuples.as_triplets(rule, 150)
    per_triplet = lambda a, p, n: (a * 8 + p) * 8 + n
    every = set(per_triplet(*(x[listed.weights > 0] for x in listed[:3])).tolist())
    draw = jax.jit(
        lambda key: [tuples.per_anchor(key, mined, 3) for mined in (pairs, rule, listed)]
    )
    seen = [set(), set()]
    for seed in range(40):
        some, *triplets = draw(jax.random.key(seed))
        for kept, all_of in zip(some, pairs, strict=True):
            np.testing.assert_array_equal(kept.sum(1), np.minimum(all_of.sum(1), 3))
            assert ((kept == 0) | (kept == all_of)).all()
        for got, found in zip(triplets, seen, strict=True):
            there = np.asarray(got.weights) > 0
            counts = np.bincount(np.asarray(got.anchor)[there], minlength=8)
            np.testing.assert_array_equal(counts, [3] * 7 + [0])
            drawn = per_triplet(*(np.asarray(x)[there] for x in got[:3])).tolist()
            assert len(set(drawn)) == len(drawn)  # without replacement
            found |= set(drawn)
    assert seen == [every, every]
