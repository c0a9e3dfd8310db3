"""What every miner keeps to, by the table of `miner_cases.py`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from miner_cases import CASES

from metricjax import Refs, chunked, losses, miners, objective, reduce, tuples
from metricjax.distances import LpDistance

N, D = 12, 3
LABELS = np.array([0, 1, 2, 0, 1, 2, 1, 0, 2, 3, 3, 0])
KEY = jax.random.key(7)
ALL = np.ones(N, np.float32)


def cases(chosen=lambda case: True, quick=None):
    """Tests all chosen miners; those that are not among the `quick` ones in slow tests."""
    slow = lambda c: [pytest.mark.slow] if quick is not None and str(c) not in quick else []
    some = [pytest.param(c, marks=slow(c), id=str(c)) for c in CASES if chosen(c)]
    return pytest.mark.parametrize("case", some)


ONE_OF_EACH_FORM = "angular", "batch_hard", "hdc"
ONE = ("batch_hard",)


def batch(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def mine(case, x, y, refs=None, where=ALL, key=KEY, **numbers):
    """The mined pairs, each with its number of triplets: every form in one."""
    return _mine(case, x, y, refs, where, key, numbers)  # jit has one program if all are given


@functools.partial(jax.jit, static_argnums=0)
def _mine(case, x, y, refs, where, key, numbers):
    mined = case(x, y, refs=refs, where=where, key=key, **numbers)
    assert isinstance(mined, case.form)
    return tuples.as_pairs(mined, (len(x), len(x if refs is None else refs.embeddings)))


every_pair = jax.jit(lambda labels, where: tuples.all_pairs(labels, where=where))


def equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_every_miner_has_a_case():
    public = {f for _, f in inspect.getmembers(miners, inspect.isfunction)}
    assert public == {case.miner for case in CASES} and len(public) == len(CASES)


@cases()
def test_options_and_their_order(case):
    parameters = inspect.signature(case.miner).parameters
    assert list(parameters)[:2] == ["embeddings", "labels"] and case.takes("distance")
    assert case.takes("refs", "where", "match")
    assert all(p.kind == p.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert not case.random or parameters["key"].default is inspect.Parameter.empty


@cases(quick=ONE_OF_EACH_FORM)
@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_only_pairs_that_exist_are_mined(case, data, seed):
    """And the batch as its own references is the batch."""
    labels = st.lists(st.integers(-1, 3), min_size=N, max_size=N)
    weights = st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=N, max_size=N)
    y, where = np.array(data.draw(labels)), np.array(data.draw(weights), np.float32)
    x = np.where(where[:, None] > 0, batch(seed=seed), np.float32(np.nan))
    refs = Refs(x, y, np.arange(N), where)
    pairs = mine(case, x, y, refs, where, key=jax.random.key(seed))
    equal(mine(case, x, y, None, where, key=jax.random.key(seed)), pairs)
    for got, possible in zip(pairs, every_pair(y, where), strict=True):
        assert not np.any(np.asarray(got)[np.asarray(possible) == 0])
        assert np.all(np.isfinite(got)) and np.all(got >= 0)


@cases(lambda case: not case.random, quick=ONE)
def test_padding_equals_the_shorter_batch(case):
    x, rows = np.array(batch()), np.array([0, 1, 2, 3, 4, 5, 8, 11])
    where = np.isin(np.arange(N), rows) * np.float32(0.25)  # any weight above 0 exists
    long = np.where(where[:, None] > 0, x, np.nan)
    some = np.ones(len(rows), np.float32)
    got = mine(case, long, LABELS, None, where)
    want = mine(case, x[rows], LABELS[rows], where=some)
    for a, b in zip(got, want, strict=True):
        assert np.any(b) and np.sum(a) == np.sum(b)
        np.testing.assert_array_equal(a[np.ix_(rows, rows)], b)
    got = mine(case, x, LABELS, Refs(long, LABELS, where=where))
    want = mine(case, x, LABELS, Refs(x[rows], LABELS[rows], where=some))
    for a, b in zip(got, want, strict=True):
        assert np.any(b) and np.sum(a) == np.sum(b)
        np.testing.assert_array_equal(a[:, rows], b)


@cases(quick=ONE)
def test_jit_equals_eager_and_keys_decide(case):
    x = batch()
    jitted = mine(case, x, LABELS)
    eager = tuples.as_pairs(case(x, LABELS, where=ALL, key=KEY), (N, N))
    equal(jitted, eager)
    assert any(np.any(mat) for mat in jitted)
    other = mine(case, x, LABELS, key=jax.random.key(8))
    assert case.random != np.array_equal(jitted.negative, other.negative)


@cases(quick=ONE)
def test_vmap_over_batches_keys_and_numbers(case):
    x, y = np.stack([batch(), batch(seed=1)]), np.stack([LABELS, LABELS[::-1]])
    keys = jax.random.split(KEY, 2)
    numbers = {k: np.array([v, 0.9 * v], np.float32) for k, v in case.numbers.items()}
    run = lambda x, y, key, numbers: mine(case, x, y, key=key, **numbers)
    got = jax.vmap(run)(x, y, keys, numbers)
    for i in range(2):
        one = jax.tree.map(lambda v: v[i], (x, y, keys, numbers))  # noqa: B023
        want = run(*one)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a[i], b)


@cases(quick=ONE_OF_EACH_FORM)
def test_no_gradient_flows(case):
    def total(x, r, numbers):
        mined = case(x, LABELS, refs=Refs(r, LABELS), key=KEY, **numbers)
        leaves = jax.tree.leaves((mined, tuples.as_pairs(mined, (N, N))))
        floats = [v for v in leaves if jnp.issubdtype(v.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.where(jnp.isfinite(v), v, 0)) for v in floats)

    arguments = batch(), batch(seed=1), jax.tree.map(jnp.float32, case.numbers)
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*arguments)
    assert value != 0 and not any(np.any(g) for g in jax.tree.leaves(gradients))


@cases()
@pytest.mark.parametrize("labels", ["one_class", "all_different", "equal_embeddings"])
def test_batches_that_lack_something(case, labels):
    x = batch()
    if labels == "equal_embeddings":
        pairs = mine(case, np.ones((N, D), np.float32), LABELS)
        assert any(np.any(mat) for mat in pairs) == case.collapsed
    elif labels == "one_class":
        pairs = mine(case, x, np.full(N, -3))
        assert not np.any(pairs.negative)
    else:
        pairs = mine(case, x, np.arange(N))
        assert not np.any(pairs.positive)
    assert all(np.all(np.isfinite(mat)) for mat in pairs)


@cases(quick=ONE_OF_EACH_FORM)
def test_no_samples_keep_nothing(case):
    @jax.jit
    def run():
        out = []
        for n, m in (0, 0), (0, 3), (3, 0), (1, None), (0, None):
            refs = None if m is None else Refs(jnp.ones((m, 2)), jnp.ones(m, int))
            mined = case(jnp.ones((n, 2)), jnp.zeros(n, int), refs=refs, key=KEY)
            shape = n, n if m is None else m
            pairs = tuples.as_pairs(mined, shape)
            assert all(mat.shape == shape for mat in pairs)
            out.append(pairs)
        return out

    assert not any(np.any(mat) for mat in jax.tree.leaves(run()))


@cases(quick=())  # by default, test_compose.py
def test_objective_takes_the_miner(case):
    """For losses of pairs and of triplets, whatever the form; a NaN reaches both."""
    miner = functools.partial(case.miner, **case.options)
    key = {"key": KEY} if case.random else {}

    @jax.jit
    @functools.partial(jax.jacrev, has_aux=True)
    def run(x):
        recipes, by_hand = [], []
        for loss in losses.contrastive, losses.triplet_margin:
            recipes.append(objective(loss, miner=miner)(x, LABELS, where=ALL, **key)[0])
            by_hand.append(reduce(loss(x, mined=case(x, LABELS, key=KEY)))[0])
        return jnp.stack(recipes), (jnp.stack(recipes), jnp.stack(by_hand))

    x = batch()
    gradient, (value, by_hand) = jax.device_get(run(x))
    np.testing.assert_allclose(value, by_hand, rtol=1e-6)
    assert np.all(value > 0) and np.all(np.any(gradient, (1, 2))) and np.all(np.isfinite(gradient))
    x[1, 1] = np.nan
    assert np.all(np.isnan(run(x)[1][0]))


@cases(quick=ONE)
@pytest.mark.parametrize("refs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_sharded_batch_is_one_device(case, refs):
    x, y, where = batch(16), np.arange(16) % 3, (np.arange(16) != 5).astype(np.float32)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    put = lambda v: jax.device_put(v, NamedSharding(mesh, jax.P("batch")))

    def run(x, y, where):
        others = Refs(x, y, where=where) if refs else None
        mined = case(x, y, refs=others, where=where, key=KEY)
        terms = losses.triplet_margin(x, y, refs=others, mined=mined, where=where)
        return reduce(terms)[0], tuples.as_pairs(mined, (16, 16))

    want = jax.jit(run)(x, y, where)
    with jax.set_mesh(mesh):
        got = jax.jit(run)(put(x), put(y), put(where))
    for a, b in zip(jax.tree.leaves(jax.device_get(got)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@cases(quick=ONE_OF_EACH_FORM)
def test_soft_matches(case):
    soft = np.random.default_rng(0).random((N, N)).astype(np.float32)
    soft[0, 1:4] = 0.0, 1.0, 0.0

    @jax.jit
    def run(x):
        mined = case(x, LABELS, match=lambda x, y: soft, key=KEY)
        every = tuples.all_pairs(LABELS, match=lambda x, y: soft)
        return tuples.as_pairs(mined, (N, N)), every

    for got, possible in zip(*jax.device_get(run(batch())), strict=True):
        assert np.any(got) and not np.any(got[possible == 0])
        if case.form.__name__ == "Pairs" and not case.random and case.miner is not miners.hdc:
            np.testing.assert_array_equal(got[got > 0], possible[got > 0])


@cases(quick=ONE_OF_EACH_FORM)
def test_half_precision_is_compared_in_single(case):
    x = jnp.array(batch(), jnp.bfloat16)
    pairs = mine(case, x, LABELS)
    assert {mat.dtype.name for mat in pairs} == {"float32"}
    equal(pairs, mine(case, x.astype(jnp.float32), LABELS))


@cases(quick=ONE)
def test_double_precision_mines_the_same_kind(case):
    with jax.enable_x64(True):
        run = lambda x: tuples.as_pairs(case(x, LABELS, key=KEY), (N, N))
        assert all(np.any(mat) for mat in jax.jit(run)(batch().astype(np.float64)))


@pytest.mark.slow
@cases(lambda case: case.form.__name__ != "Pairs")
def test_chunks_take_the_triplets(case):
    x = batch()
    mined = case(x, LABELS, key=KEY)
    total = lambda loss: jax.jit(lambda: reduce(loss(x, mined=mined))[0])()
    np.testing.assert_allclose(
        total(chunked(losses.triplet_margin, 5)), total(losses.triplet_margin), rtol=1e-6
    )


@pytest.mark.slow
@cases()
@pytest.mark.optimized
def test_memory_is_of_the_order_of_the_pairs(case):
    n = 512
    run = lambda x, y: tuples.as_pairs(case(x, y, key=KEY), (n, n))
    x, y = jnp.ones((n, D)), jnp.arange(n) // 4
    memory = jax.jit(run).lower(x, y).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 24 * 4 * n * n  # a byte for each triplet would be 128 MiB


@cases()
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((jnp.ones(N), LABELS), {}, ValueError, r"`embeddings` .*\(12,\)"),
        ((jnp.ones((N, D)) > 0, LABELS), {}, TypeError, "`embeddings` .*bool"),
        ((jnp.ones((N, D)), LABELS[:3]), {}, ValueError, r"`labels` .*\(3,\)"),
        ((jnp.ones((N, D)), ALL), {}, TypeError, "`labels` .*float32"),
        ((jnp.ones((N, D)), None), {}, ValueError, "labels are needed"),
        ((jnp.ones((N, D)), LABELS), {"where": LABELS[:3]}, ValueError, r"`where` .*\(3,\)"),
        ((jnp.ones((N, D)), LABELS), {"refs": LABELS}, TypeError, "`refs` .*array"),
        (
            (jnp.ones((N, D)), LABELS),
            {"refs": Refs(jnp.ones((5, D)), LABELS)},
            ValueError,
            "`refs.l",
        ),
        (
            (jnp.ones((N, D)), LABELS),
            {"refs": Refs(jnp.ones((N, 2)), LABELS)},
            ValueError,
            "`refs.e",
        ),
    ],
)
def test_errors_name_function_and_argument(case, arguments, options, error, message):
    with pytest.raises(error, match=f"miners.{case}: .*{message}"):
        case(*arguments, **options, key=KEY)


@cases(lambda case: not case.any_distance)
@pytest.mark.parametrize(
    "distance", [LpDistance(p=1), LpDistance(power=2), LpDistance(normalize_embeddings=False)]
)
def test_only_the_euclidean_distance(case, distance):
    with pytest.raises(TypeError, match=f"miners.{case}: `distance` must be LpDistance"):
        case(batch(), LABELS, key=KEY, distance=distance)
