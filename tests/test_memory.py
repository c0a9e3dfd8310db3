"""The memory bank and cross-batch memory: what is remembered, and what a loss makes of it."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import CASES
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding

import metricjax as mj

N, D, Q = 6, 4, 16
MemoryBank, CrossBatchMemory = mj.memory.MemoryBank, mj.nn.CrossBatchMemory
LOSSES = mj.losses
enqueue = jax.jit(lambda bank, x, y, where: bank.enqueue(x, y, where))
slots = jax.jit(lambda bank, where: bank.slots(len(where), where))


def batch(seed, n=N):
    x = np.random.default_rng(seed).normal(size=(n, D))
    return jnp.array(x, jnp.float32), jnp.array(([0, 0, 1, 1, 2, 0] * n)[:n])


def filled(times, size=Q, **options):
    bank = MemoryBank.create(size, D, **options)
    for seed in range(times):
        bank = enqueue(bank, *batch(seed), None)
    return bank


def against(loss, x, y, refs, **options):
    """Value and gradient of a loss; `refs` may be a function of the embeddings."""
    of = refs if callable(refs) else lambda x: refs
    total = lambda x: mj.reduce(loss(x, y, refs=of(x), **options))[0]
    return jax.jit(jax.value_and_grad(total))(x)


# --- the ring ---------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.sampled_from([1, 4, N, 15]),
    st.lists(st.lists(st.sampled_from([0, 0.5, 1]), min_size=N, max_size=N), max_size=6),
)
def test_it_is_a_ring_of_the_last_rows(size, batches):
    bank, ring, position = MemoryBank.create(size, D), [(np.zeros(D), 0, 0.0)] * size, 0
    for seed, where in enumerate(batches):
        (x, y), where = map(np.asarray, batch(seed)), np.array(where)
        places = np.full(N, size)
        for i in np.flatnonzero(where):
            places[places == position] = size  # overwritten by a later row
            ring[position], places[i] = (x[i], y[i], where[i]), position
            position = (position + 1) % size
        assert slots(bank, where).tolist() == places.tolist()
        bank = enqueue(bank, x, y, where)
    embeddings, labels, weights = (np.stack(part) for part in zip(*ring, strict=True))
    chex.assert_trees_all_equal(bank, MemoryBank(embeddings, labels, weights, np.array(position)))


def test_no_rows_and_no_mask():
    x, y = batch(0)
    bank = filled(1)
    chex.assert_trees_all_equal(enqueue(bank, x[:0], y[:0], None), bank)
    chex.assert_trees_all_equal(enqueue(bank, x, y, None), enqueue(bank, x, y, np.ones(N)))
    some, none = jax.jit(lambda bank: (bank.slots(N), bank.slots(0)))(bank)
    assert some.tolist() == [6, 7, 8, 9, 10, 11] and none.shape == (0,)


def test_in_scan_and_under_vmap_it_is_a_loop():
    batches = [batch(seed) for seed in range(4)]
    x, y = (np.stack(part) for part in zip(*batches, strict=True))
    bank, _ = jax.lax.scan(
        lambda bank, xy: (bank.enqueue(*xy), None), MemoryBank.create(Q, D), (x, y)
    )
    chex.assert_trees_all_equal(bank, filled(4))
    both = jax.vmap(lambda bank, x, y: enqueue(bank, x, y, None), (None, 0, 0))(bank, x, y)
    for i, (x, y) in enumerate(batches):
        one = jax.tree.map(lambda z, i=i: np.asarray(z)[i], both)
        chex.assert_trees_all_equal(one, enqueue(bank, x, y, None))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_it_may_be_kept_in_half_precision(dtype):
    x, y = batch(9)
    bank = filled(2, dtype=dtype)
    assert bank.embeddings.dtype == dtype and bank.where.dtype == jnp.float32
    rounded = filled(2)
    rounded = rounded._replace(embeddings=rounded.embeddings.astype(dtype).astype(jnp.float32))
    for refs in (lambda b: b.refs(), lambda b: b.refs(x, y), lambda b: b.refs(x.astype(dtype), y)):
        got, want = (against(LOSSES.ntxent, x, y, refs(b)) for b in (bank, rounded))
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
        assert refs(bank).where.dtype == jnp.float32
    assert bank.refs(x, y).embeddings.dtype == jnp.float32


@pytest.mark.slow
def test_labels_may_be_any_pytree_that_a_relation_takes():
    x, y = batch(0)
    tags = {"id": y, "tags": jax.nn.one_hot(y, 3)}
    match = lambda a, b: jnp.einsum("nc,mc->nm", a["tags"], b["tags"]) > 0
    bank = enqueue(MemoryBank.create(Q, D, labels=tags), x, tags, None)
    assert bank.labels["tags"].shape == (Q, 3) and bank.labels["id"].dtype == jnp.int32
    for refs in (bank.refs(), bank.refs(x, tags)):
        got = against(LOSSES.contrastive, x, tags, refs, match=match)
        want = against(LOSSES.contrastive, x, y, refs._replace(labels=refs.labels["id"]))
        chex.assert_trees_all_close(got, want, rtol=1e-5)


@pytest.mark.slow
def test_a_nan_is_seen_and_padding_is_not():
    x, y = batch(0)
    x = x.at[1].set(jnp.nan)
    seen = MemoryBank.create(Q, D).enqueue(x, y)
    assert jnp.isnan(against(LOSSES.contrastive, *batch(1), seen.refs())[0])
    padded = MemoryBank.create(Q, D).enqueue(x, y, jnp.arange(N) != 1)
    assert jnp.isfinite(padded.embeddings).all()
    refs = padded.refs(x, y, jnp.arange(N) != 1)
    out = against(LOSSES.contrastive, x, y, refs, where=jnp.arange(N) != 1)
    chex.assert_tree_all_finite(out)


# --- references -------------------------------------------------------------------------------


def test_an_empty_memory_is_not_there():
    x, y = batch(0)
    bank = MemoryBank.create(Q, D)
    got = against(LOSSES.multi_similarity, x, y, lambda x: bank.refs(x, y))
    chex.assert_trees_all_close(got, against(LOSSES.multi_similarity, x, y, None), rtol=1e-5)
    value, grad = against(LOSSES.multi_similarity, x, y, bank.refs())
    assert value == 0 and not grad.any()


@pytest.mark.slow
def test_the_batch_may_stand_before_the_memory_and_keeps_its_gradient():
    x, y = batch(7)
    bank, where = filled(2), jnp.array([1.0, 1, 0.5, 1, 0, 1])

    def total(x, past, how):
        some = bank._replace(embeddings=past)
        refs = some.refs(x, y, where) if how == "refs" else by_hand(x, past)
        return mj.reduce(LOSSES.triplet_margin(x, y, refs=refs, where=where))[0]

    def by_hand(x, past):
        join = lambda a, b: jnp.concatenate([a, b])
        return mj.Refs(join(x, past), join(y, bank.labels), jnp.arange(N), join(where, bank.where))

    run = jax.jit(jax.value_and_grad(total), static_argnums=2)
    chex.assert_trees_all_close(*(run(x, bank.embeddings, how) for how in ("refs", "by_hand")))
    through = jax.grad(lambda x: bank.enqueue(x, y).embeddings.sum())(x)
    assert not through.any()


def test_tuples_address_the_batch_and_the_slots_behind_it():
    x, y = batch(7)
    bank = filled(1)
    mined = mj.tuples.from_triplets(jnp.array([0]), jnp.array([1]), jnp.array([N + 4]))
    loss = lambda x, y, refs: LOSSES.triplet_margin(x, refs=refs, mined=mined, margin=3.0)
    got, _ = against(loss, x, y, lambda x: bank.refs(x, y))
    d = jax.jit(mj.distances.LpDistance())
    want = d(x, x)[0, 1] - d(x, batch(0)[0])[0, 4] + 3.0
    chex.assert_trees_all_close(got, want, rtol=1e-5)


def test_momentum_contrast_is_cross_entropy_over_the_queue():
    (queries, _), (old, _), (new, _) = map(batch, range(3))
    ids = np.arange(N)
    bank = enqueue(MemoryBank.create(Q, D), old, ids, None)
    bank = enqueue(bank, new, ids + 100, None)
    value, _ = against(LOSSES.ntxent, queries, ids + 100, bank.refs(), temperature=0.5)

    @jax.jit
    def cross_entropy(queries, keys):
        logits = mj.distances.CosineSimilarity()(queries, keys) / 0.5
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids + N).mean()

    want = cross_entropy(queries, np.concatenate([old, new]))
    chex.assert_trees_all_close(value, want, rtol=1e-5)


# --- many devices -----------------------------------------------------------------------------


def remember(bank, x, y, where, axis_name=None):
    """Two steps, with every way to use the memory."""
    for _ in range(2):
        own = bank.slots(len(x), where, axis_name=axis_name)
        both = bank.refs(x, y, where, axis_name=axis_name)
        bank = bank.enqueue(x, y, where, axis_name=axis_name)
        terms = mj.merge(
            alone=LOSSES.triplet_margin(x, y, where=where, refs=bank.refs(self_index=own)),
            both=LOSSES.ntxent(x, y, where=where, refs=both),
        )
    return bank, own, mj.reduce(terms, axis_name=axis_name)[1]


@functools.cache
def example():
    (x, y), where = batch(0, 16), jnp.arange(16) % 5 > 0
    arguments = filled(3, size=24), x, y, where
    return arguments, jax.jit(remember)(*arguments)


def mesh(kind):
    return jax.make_mesh((8,), ("batch",), axis_types=(kind,))


@pytest.mark.slow
def test_a_part_on_each_device_is_one_device():
    arguments, want = example()
    run = jax.shard_map(
        functools.partial(remember, axis_name="batch"),
        mesh=mesh(AxisType.Auto),
        in_specs=(jax.P(), *[jax.P("batch")] * 3),
        out_specs=(jax.P(), jax.P("batch"), jax.P()),  # the memory is the same everywhere
    )
    chex.assert_trees_all_close(jax.jit(run)(*arguments), want, rtol=1e-5)


@pytest.mark.slow
def test_pmap_is_one_device():
    (bank, *rows), (want, own, parts) = example()
    rows = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), rows)
    run = functools.partial(remember, axis_name="batch")
    got = jax.pmap(run, axis_name="batch", in_axes=(None, 0, 0, 0))(bank, *rows)
    chex.assert_trees_all_close(got[1].ravel(), own)
    for i in (0, 7):
        same = jax.tree.map(lambda x, i=i: x[i], (got[0], got[2]))
        chex.assert_trees_all_close(same, (want, parts), rtol=1e-5)


@pytest.mark.parametrize(
    "spread",
    [False, True],
    ids=["replicated", "spread"],
)
@pytest.mark.slow  # by default, an objective of a memory on each device
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_a_sharded_batch_is_one_device(kind, spread):
    (bank, *rows), want = example()
    m = mesh(kind)
    put = lambda x: jax.device_put(x, NamedSharding(m, jax.P("batch")))
    with jax.set_mesh(m):
        if spread:
            bank = MemoryBank(*jax.tree.map(put, bank[:3]), bank.position)
        got = jax.jit(remember)(bank, *map(put, rows))
    if kind == AxisType.Explicit:
        assert got[0].embeddings.sharding.is_fully_replicated != spread
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-5)


# --- the module -------------------------------------------------------------------------------


def total(memory, x, y, *params, **options):
    return mj.reduce(memory(x, y, *params, **options))[0]


jitted = nnx.jit(total)

QUICK = ["contrastive"]
slow = lambda quick: [] if quick else [pytest.mark.slow]


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=slow(str(c) in QUICK), id=str(c)) for c in CASES if c.takes("refs")],
)
def test_every_loss_takes_the_memory(case):
    x, y = batch(5)
    of_class = lambda x, y: (x, case.ids(y))
    x, y = of_class(x, y)
    memory = CrossBatchMemory(case.loss, Q, D, labels=y)

    @nnx.jit
    def run(memory, x):
        return nnx.value_and_grad(total, argnums=1)(memory, x, y)

    chex.assert_tree_all_finite(run(memory, x))
    for seed in (0, 1):
        memory.bank.set_value(memory.bank.get_value().enqueue(*of_class(*batch(seed))))
    value, grad = run(memory, x)
    chex.assert_tree_all_finite((value, grad))
    past = [of_class(*batch(s)) for s in (5, 0, 1, 5)]
    ring = (np.concatenate(part)[np.r_[16:24, 8:16]] for part in zip(*past, strict=True))
    want, _ = against(case.loss, x, y, mj.Refs(*ring, np.r_[2:8]))
    chex.assert_trees_all_close(value, want, rtol=1e-4, atol=1e-6)


MINERS = [m for _, m in inspect.getmembers(mj.miners, inspect.isfunction)]


@pytest.mark.parametrize(
    "miner",
    [pytest.param(m, marks=slow(m is mj.miners.triplet_margin), id=m.__name__) for m in MINERS],
)
def test_every_miner_mines_in_the_memory(miner):
    (x, y), key = batch(5), jax.random.key(0)
    random = {"key": key} if "key" in inspect.signature(miner).parameters else {}
    memory = CrossBatchMemory(LOSSES.triplet_margin, Q, D, miner=miner)
    loss = lambda memory, x: total(memory, x, y, **random)
    run = nnx.jit(nnx.value_and_grad(loss, argnums=1))
    chex.assert_tree_all_finite(run(memory, x))
    memory.bank.set_value(filled(2))
    value, _ = run(memory, x)
    refs = enqueue(filled(2), x, y, None).refs(self_index=slots(filled(2), np.ones(N)))
    mined = jax.jit(lambda x: miner(x, y, refs=refs, **random))(x)
    want, _ = against(LOSSES.triplet_margin, x, y, refs, mined=mined)
    chex.assert_trees_all_close(value, want, rtol=1e-5)


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), N])
def test_the_first_batch_is_compared_with_itself(n):
    x, y = batch(0, n)
    want, _ = against(LOSSES.nca, x, y, None)
    for size in (n, Q):  # what is not filled does not count, an anchor never meets itself
        memory = CrossBatchMemory(LOSSES.nca, size, D)
        chex.assert_trees_all_close(jitted(memory, x, y), want, rtol=1e-5)


def test_more_rows_than_slots():
    x, y = batch(0)
    memory = CrossBatchMemory(LOSSES.contrastive, 4, D)
    refs = mj.Refs(x[2:], y[2:], np.arange(N) - 2)
    want, _ = against(
        LOSSES.contrastive,
        x,
        y,
        refs._replace(
            embeddings=np.roll(x[2:], 2, 0),
            labels=np.roll(y[2:], 2),
            self_index=np.array([4, 4, 2, 3, 0, 1]),
        ),
    )
    chex.assert_trees_all_close(jitted(memory, x, y), want, rtol=1e-5)


@pytest.mark.slow
def test_some_rows_are_enqueued_and_the_others_are_anchors():
    (x, y), mask = map(np.asarray, batch(5)), np.array([1, 0, 0, 1, 1, 0], bool)
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D)
    masked = lambda memory, x, mask: total(memory, x, y, enqueue_mask=mask)
    run = nnx.jit(lambda memory, mask: nnx.value_and_grad(masked, argnums=1)(memory, x, mask))
    nothing, _ = run(memory, np.zeros(N, bool))
    bank = jax.device_get(memory.bank.get_value())
    assert nothing == 0 and not bank.where.any() and bank.position == 0
    memory.bank.set_value(filled(2))
    value, grad = jax.device_get(run(memory, mask))
    refs = enqueue(filled(2), x[mask], y[mask], None).refs()
    want, want_grad = against(LOSSES.contrastive, x[~mask], y[~mask], refs)
    chex.assert_trees_all_close((value, grad[~mask]), (want, want_grad), rtol=1e-4)
    assert not grad[mask].any()
    chex.assert_trees_all_equal(memory.bank.get_value().embeddings, refs.embeddings)
    nobody, _ = run(memory, np.ones(N, bool))
    assert nobody == 0


def test_sample_weights_go_into_the_memory():
    (x, y), where = batch(0), jnp.array([1.0, 0.5, 0, 1, 2, 1])
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D)
    want, _ = against(LOSSES.contrastive, x, y, None, where=where)
    chex.assert_trees_all_close(jitted(memory, x, y, where=where), want, rtol=1e-5)
    assert memory.bank.get_value().where.tolist()[:6] == [1, 0.5, 1, 2, 1, 0]


@pytest.mark.slow
def test_tuples_of_the_batch_are_found_in_the_memory():
    (x, y), index = batch(5), np.array
    a, p, n = index([0, 2]), index([1, 3]), index([2, 5])
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D)
    memory.bank.set_value(filled(2))
    refs = enqueue(filled(2), x, y, None).refs(self_index=(np.arange(N) + 12) % Q)
    every = jax.jit(mj.tuples.all_pairs)(y, refs)
    from_pairs = jax.jit(mj.tuples.from_pairs, static_argnames="shape")
    more = from_pairs(a, (p + 12) % Q, a, (n + 12) % Q, shape=(N, Q))
    want, _ = against(LOSSES.contrastive, x, y, refs, mined=jax.tree.map(np.add, every, more))
    got = jitted(memory, x, y, mined=mj.tuples.from_triplets(a, p, n))
    chex.assert_trees_all_close(got, want, rtol=1e-5)
    assert abs(got - against(LOSSES.contrastive, x, y, refs)[0]) > 1e-3


@pytest.mark.slow
def test_tuples_of_the_batch_are_added_to_triplets_of_a_miner_as_pairs():
    x, y = batch(5)
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D, miner=mj.miners.triplet_margin)
    memory.bank.set_value(filled(2))
    refs = enqueue(filled(2), x, y, None).refs(self_index=(np.arange(N) + 12) % Q)
    rule = jax.jit(lambda: mj.tuples.as_pairs(mj.miners.triplet_margin(x, y, refs=refs)))()
    more = mj.tuples.from_pairs([0, 2], [13, 15], [0], [14], shape=(N, Q))
    want, _ = against(LOSSES.contrastive, x, y, refs, mined=jax.tree.map(np.add, rule, more))
    got = jitted(memory, x, y, mined=mj.tuples.from_pairs([0, 2], [1, 3], [0], [2], shape=(N, N)))
    chex.assert_trees_all_close(got, want, rtol=1e-5)


@pytest.mark.slow
def test_a_module_with_parameters_trains_on_the_memory():
    memory = CrossBatchMemory(mj.nn.Margin(3, nu=0.01), Q, D)
    model = nnx.Linear(D, D, rngs=nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        optimizer = nnx.Optimizer((model, memory), optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(both, optimizer, x, y):
            loss_of = lambda both: total(both[1], both[0](x), y)
            value, grads = nnx.value_and_grad(loss_of)(both)
            optimizer.update(both, grads)
            return value, grads

        _, grads = step((model, memory), optimizer, *batch(0))
        step((model, memory), optimizer, *batch(1))
    assert all(leaf.any() for leaf in jax.tree.leaves(grads)) and len(jax.tree.leaves(grads)) == 3
    assert memory.bank.get_value().where.sum() == 2 * N
    assert (memory.inner.beta[...] != 1.2).any()


def test_class_weights_are_handed_to_the_loss():
    x, y = batch(0)
    memory, beta = CrossBatchMemory(LOSSES.margin, Q, D), jnp.array([0.5, 1.0, 1.5])
    loss = lambda x, y, refs: LOSSES.margin(x, y, beta, refs=refs, margin=0.4)
    want, _ = against(loss, x, y, None)
    chex.assert_trees_all_close(jitted(memory, x, y, beta, margin=0.4), want, rtol=1e-5)


@pytest.mark.slow
def test_linen_users_get_the_same_module():
    linen = nnx.bridge.to_linen(CrossBatchMemory, LOSSES.contrastive, Q, D)
    variables = linen.init(jax.random.key(0), *batch(0))
    variables = jax.tree.map(jnp.zeros_like, variables)  # what is there from `init` is forgotten
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D)
    for seed in range(2):
        terms, variables = linen.apply(variables, *batch(seed), mutable=True)
        chex.assert_trees_all_close(terms, memory(*batch(seed)), rtol=1e-5)
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (variables, memory.bank.get_value())))


def test_an_objective_of_a_memory():
    miner = mj.miners.multi_similarity
    memory = CrossBatchMemory(LOSSES.multi_similarity, Q, D, miner=miner)
    recipe = functools.partial(
        mj.objective,
        reducer=mj.reducers.mean,
        embedding_regularizer=mj.regularizers.lp,
        alpha=1.0,
    )
    run = nnx.jit(lambda memory, x, y: recipe(memory)(x, y)[0])

    @jax.jit
    def by_hand(x, y, refs):
        loss = functools.partial(LOSSES.multi_similarity, refs=refs, alpha=1.0)
        terms = loss(x, y, mined=miner(x, y, refs=refs)) | mj.regularizers.lp(x)
        return mj.reduce(terms, mj.reducers.mean)[0]

    for seed in range(2):
        x, y = batch(seed)
        refs = filled(seed + 1).refs(self_index=slots(filled(seed), np.ones(N)))
        chex.assert_trees_all_close(run(memory, x, y), by_hand(x, y, refs), rtol=1e-5)
    with pytest.raises(TypeError, match="epsilon"):
        recipe(memory)(x, y, epsilon=0.1)


def test_an_objective_hands_the_key_to_the_miner_of_the_memory():
    miner = lambda x, y, *, refs, key: mj.tuples.random_triplets(key, y, 2, refs=refs)
    memory = CrossBatchMemory(LOSSES.triplet_margin, Q, D, miner=miner)
    run = nnx.jit(lambda memory, key: mj.objective(memory)(*batch(5), key=key)[0])
    values = []
    for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1)):
        memory.bank.set_value(filled(2))
        values.append(float(run(memory, key)))
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lifted_structure", "contrastive"])
def test_an_objective_on_each_device_is_one_device(name):
    memory = CrossBatchMemory(getattr(LOSSES, name), 24, D)
    graph, state = nnx.split(memory)

    def step(state, x, y, where, axis_name=None):
        def loss(x):
            memory = nnx.merge(graph, state, copy=True)
            value = mj.objective(memory, axis_name=axis_name)(x, y, where=where)[0]
            return value, nnx.state(memory)

        return jax.value_and_grad(loss, has_aux=True)(x)

    shard, where = jax.P("batch"), jnp.arange(16) % 5 > 0
    spread = jax.shard_map(
        functools.partial(step, axis_name="batch"),
        mesh=mesh(AxisType.Auto),
        in_specs=(jax.P(), shard, shard, shard),
        out_specs=((jax.P(), jax.P()), shard),
    )
    runs = jax.jit(step), jax.jit(spread)
    whole = parts = state
    for seed in range(2):
        x, y = batch(seed, 16)
        (value, whole), grad = runs[0](whole, x, y, where)
        (got, parts), got_grad = runs[1](parts, x, y, where)
        chex.assert_trees_all_close(got, value, rtol=1e-5)
        chex.assert_trees_all_close(jax.tree.leaves(parts), jax.tree.leaves(whole))
        chex.assert_trees_all_close(got_grad, grad, rtol=1e-4, atol=1e-6)


# --- saving -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    memory = CrossBatchMemory(LOSSES.contrastive, Q, D)
    model = nnx.Linear(D, D, rngs=nnx.Rngs(0))

    @nnx.jit
    def step(model, memory, x, y):
        loss = lambda model, memory: total(memory, model(x), y)
        value, grads = nnx.value_and_grad(loss)(model, memory)
        model.kernel[...] -= 0.1 * grads.kernel[...]
        return value

    for seed in range(3):
        step(model, memory, *batch(seed))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", nnx.state((model, memory)))
    want = [step(model, memory, *batch(seed)) for seed in range(3, 6)]
    again = nnx.Linear(D, D, rngs=nnx.Rngs(1)), CrossBatchMemory(LOSSES.contrastive, Q, D)
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(again, checkpointer.restore(tmp_path / "run", nnx.state(again)))
    got = [step(*again, *batch(seed)) for seed in range(3, 6)]
    chex.assert_trees_all_equal(got, want)
    chex.assert_trees_all_equal(again[1].bank.get_value(), memory.bank.get_value())


@pytest.mark.slow
def test_the_bank_itself_is_saved_and_restored(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "bank", filled(3))
    with ocp.StandardCheckpointer() as checkpointer:
        bank = checkpointer.restore(tmp_path / "bank", MemoryBank.create(Q, D))
    chex.assert_trees_all_equal(bank.enqueue(*batch(3)), filled(4))


# --- errors -----------------------------------------------------------------------------------


def test_wrong_arguments_say_so():
    (x, y), bank = batch(0), MemoryBank.create(Q, D)
    for says, wrong in {
        "`size` must be an integer >= 1, got 0": lambda: MemoryBank.create(0, D),
        r"`embeddings` must have shape \[N, D\]": lambda: bank.enqueue(x[0], y),
        "`embeddings` must have 4 features, as the memory has": lambda: bank.refs(x[:, :2], y),
        r"`labels` must have shape \[6\]": lambda: bank.enqueue(x, y[:2]),
        r"`where` must have shape \[6\]": lambda: bank.enqueue(x, y, jnp.ones(3)),
        r"`where` must have shape \[4\] to match `n`": lambda: bank.slots(4, jnp.ones(3)),
        "`self_index` says where": lambda: bank.refs(x, y, self_index=jnp.arange(N)),
        "`enqueue_mask` must have shape": lambda: total(
            CrossBatchMemory(LOSSES.ntxent, Q, D), x, y, enqueue_mask=y[:2] > 0
        ),
        r"`mined` must have shape \(6, 6\), within the batch": lambda: total(
            CrossBatchMemory(LOSSES.ntxent, Q, D), x, y, mined=mj.Pairs(*jnp.ones((2, N, Q)))
        ),
    }.items():
        with pytest.raises(ValueError, match=says):
            wrong()
    for says, wrong in {
        r"`labels` must be int32\[N\], .* got float32\[N\]": lambda: bank.enqueue(x, x[:, 0]),
        r"`labels` must be int32\[N\], .* got None": lambda: bank.refs(x),
        r"got int32\[N, 1\]; give some": lambda: bank.enqueue(x, y[:, None]),
        "`dtype` must be floating, got int32": lambda: MemoryBank.create(Q, D, dtype=jnp.int32),
        "arcface does not compare with references": lambda: CrossBatchMemory(LOSSES.arcface, Q, D),
    }.items():
        with pytest.raises(TypeError, match=says):
            wrong()
