"""Losses that take more than one pass: in blocks and on devices, they are what they are at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import metricjax as mj
from metricjax import losses
from metricjax._core import tuning
from metricjax._core.record import record_of

IN_PASSES = [
    losses.dynamic_soft_margin,
    losses.histogram,
    losses.intra_pair_variance,
    losses.lifted_structure,
    losses.sup_con,
    losses.threshold_consistent_margin,
]


def each_of(some, quick):
    """All but the `quick` losses are slow."""
    marks = lambda loss: [] if loss in quick else [pytest.mark.slow]
    return pytest.mark.parametrize(
        "loss", [pytest.param(loss, id=loss.__name__, marks=marks(loss)) for loss in some]
    )


every_loss = each_of(IN_PASSES, quick=IN_PASSES)
some_losses = each_of(IN_PASSES, quick=[losses.sup_con, losses.intra_pair_variance])
N, M, D = 10, 13, 4
Y = np.array([0, 0, 1, 1, 1, 2, 2, 0, 3, 2], np.int32)
REF_Y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 4], np.int32)
WHERE = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1.0])


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def results(loss, how, x, size=None):
    """Value and gradient, over a batch, over references, or of what was mined in the batch."""

    def total(x):
        e, others = x[:N], x[N:]
        sizes = size if isinstance(size, tuple) else (size,)
        fn = mj.chunked(loss, *sizes) if size else loss
        where = jnp.asarray(WHERE, x.dtype)
        if how == "refs":
            terms = fn(e, Y, refs=mj.Refs(others, REF_Y), where=where)
        elif how == "mined":
            mined = mj.miners.multi_similarity(e, Y, where=where, epsilon=0.3)
            terms = fn(e, Y, mined=mined, where=where)
        else:
            terms = fn(e, Y, where=where)
        return mj.reduce(terms)[0]

    return jax.value_and_grad(total)(x)


@every_loss
@pytest.mark.parametrize("how", ["self", "refs", "mined"])
@pytest.mark.slow
def test_chunked_is_dense_in_double_precision(loss, how):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (N + M, D), jnp.float64)
        got, want = results(loss, how, x, 3), results(loss, how, x)
        assert want[0] != 0 and jnp.any(want[1] != 0)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@every_loss
@pytest.mark.slow
def test_chunked_may_be_mapped_over(loss):
    x = jax.random.normal(jax.random.key(0), (2, N + M, D))
    got = jax.vmap(lambda x: results(loss, "refs", x, 3))(x)
    for i in range(2):
        for a, b in zip(got, results(loss, "refs", x[i]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


ON_A_RING = [loss for loss in vars(losses).values() if callable(loss) and record_of(loss).ring]


@each_of(ON_A_RING, quick=[])  # by default, the next test
def test_blocks_of_references_are_dense(loss):
    """Blocks that do and do not divide N and M, and more than M; the anchors, or others."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (N + M, D), jnp.float64)
        ways = ("self", (5, 40)), ("refs", (4, 6))
        both = lambda x: [(results(loss, h, x, size), results(loss, h, x)) for h, size in ways]
        for got, want in jax.jit(both)(x):  # one program
            assert want[0] != 0 and jnp.any(want[1] != 0)
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_blocks_of_references_are_taken_by_itself(monkeypatch):
    """Where a few anchors with all references would be too much; not with mined tuples."""
    x = jax.random.normal(jax.random.key(0), (N + M, D))
    want = results(losses.ntxent, "refs", x)
    sizes = dataclasses.replace(tuning.CPU, dense_pairs=1, ref_pairs=1, ref_chunk=(4, 5))
    monkeypatch.setattr(tuning, "CPU", sizes)
    run = lambda x: mj.reduce(
        losses.ntxent(x[:N], Y, refs=mj.Refs(x[N:], REF_Y), where=jnp.asarray(WHERE, x.dtype))
    )[0]
    assert "while" in str(jax.make_jaxpr(run)(x))
    for a, b in zip(jax.jit(jax.value_and_grad(run))(x), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_block_of_references_shows_its_pairs():
    e = jax.random.normal(jax.random.key(0), (N, D))
    dense = lambda loss: jax.jit(lambda e: loss(e, Y)["loss"].dense())(e)
    got, want = dense(mj.chunked(losses.ntxent, 3, 4)), dense(losses.ntxent)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.weights, want.weights)


def test_what_blocks_of_references_cannot_do_says_so():
    for loss in losses.triplet_margin, losses.arcface, mj.nn.SigLIP():
        with pytest.raises(ValueError, match="chunked: losses..* needs all references"):
            mj.chunked(loss, 3, 4)
    with pytest.raises(ValueError, match="chunked: `ref_chunk_size` must be at least 1, got 0"):
        mj.chunked(losses.ntxent, 3, 0)
    with pytest.raises(ValueError, match="losses.ntxent: `mined` is not supported with blocks"):
        mj.chunked(losses.ntxent, 3, 4)(jnp.eye(N), Y, mined=mj.tuples.all_pairs(jnp.asarray(Y)))


@pytest.mark.slow
@pytest.mark.optimized
def test_a_million_references_take_no_matrix_and_no_gradient():
    """Temporaries are those of a chunk and a copy of the references, not their gradient."""
    n, m, d = 1024, 1_000_000, 64
    spec = jax.ShapeDtypeStruct

    def total(x, y, refs, labels):
        return mj.reduce(losses.ntxent(x, y, refs=mj.Refs(refs, labels)))[0]

    args = (
        spec((n, d), "float32"),
        spec((n,), "int32"),
        spec((m, d), "float32"),
        spec((m,), "int32"),
    )
    made = jax.jit(jax.value_and_grad(total)).lower(*args).compile()
    assert made.memory_analysis().temp_size_in_bytes < 400 * 2**20


@pytest.mark.slow
def test_whether_there_are_negatives_goes_by_the_batch():
    """Each block alone has no negative pair, or no positive one."""
    e, y = jax.random.normal(jax.random.key(0), (4, D)), jnp.array([0, 0, 0, 1])
    mined = mj.Pairs(jnp.eye(4)[::-1], jnp.zeros((4, 4)).at[3, 0].set(1))
    for loss in losses.sup_con, losses.lifted_structure:
        want, got = (
            jax.jit(lambda e, fn=fn: mj.reduce(fn(e, y, mined=mined))[0])(e)
            for fn in (loss, mj.chunked(loss, 1))
        )
        assert want > 0
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_sums_over_anchors_are_not_taken_of_a_module_or_of_chunks():
    for loss in mj.nn.DynamicSoftMargin(), mj.chunked(losses.dynamic_soft_margin, 3):
        with pytest.raises(TypeError, match="chunked: give losses.dynamic_soft_margin itself"):
            mj.chunked(loss, 2)


@every_loss
@pytest.mark.slow
def test_memory_does_not_grow_with_pairs(loss):
    n = 1024
    x, y = jnp.zeros((n, 16)), jnp.arange(n) // 4
    bytes_of = lambda fn: (
        jax.jit(jax.grad(lambda x: mj.reduce(fn(x, y))[0]))
        .lower(x)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )
    assert bytes_of(mj.chunked(loss, 64)) < bytes_of(loss) / 4


# --- devices ----------------------------------------------------------------------------------


def spread(fn, devices=5):
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    shard = jax.P("batch")
    specs = {"in_specs": (shard, shard, shard, jax.P()), "out_specs": jax.P()}
    return jax.shard_map(fn, mesh=mesh, **specs)


def on_a_device(loss, how, size=None):
    """Of a part of the anchors; `loss` sums over all of them by its `axis_name`."""
    fn = mj.chunked(loss, size) if size else loss

    def total(e, y, where, others):
        options = {"where": where, "axis_name": "batch"}
        if how == "mined":
            miner = functools.partial(mj.miners.multi_similarity, epsilon=0.3)
            recipe = mj.objective(fn, miner=miner, axis_name="batch")
            return recipe(e, y, where=where)[0]
        if how == "refs":
            options["refs"] = mj.Refs(others, jnp.asarray(REF_Y))
        if how == "gathered":
            options["refs"] = mj.gather_refs(e, y, "batch", where=where)
        return mj.reduce(fn(e, y, **options), axis_name="batch")[0]

    return spread(total)


@some_losses
@pytest.mark.parametrize(
    "how, size",
    [
        ("self", None),
        *(
            pytest.param(how, size, marks=pytest.mark.slow)
            for how in ("self", "refs", "gathered", "mined")
            for size in (None, 1)
            if (how, size) != ("self", None)
        ),
    ],
)
def test_totals_are_added_up_over_devices(loss, how, size):
    x = jax.random.normal(jax.random.key(0), (N + M, D))
    where = jnp.asarray(WHERE, x.dtype)
    want = results(loss, {"gathered": "self"}.get(how, how), x)
    run = on_a_device(loss, how, size)
    value, grad = jax.jit(jax.value_and_grad(lambda x: run(x[:N], jnp.asarray(Y), where, x[N:])))(x)
    for a, b in zip((value, grad), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pairs_mined_within_a_batch_are_not_those_of_a_device():
    """A histogram has them both ways, so a recipe gathers the batch that they are of."""
    x = jax.random.normal(jax.random.key(0), (N, D))
    mined = jax.jit(lambda x: mj.miners.multi_similarity(x, Y, epsilon=0.3))(x)
    recipe = mj.objective(losses.histogram, axis_name="batch")
    run = spread(lambda x, y, _, mined: recipe(x, y, mined=mined)[0])
    got = jax.jit(run)(x, jnp.asarray(Y), x[:, 0], mined)
    want = jax.jit(lambda x: mj.reduce(losses.histogram(x, Y, mined=mined))[0])(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    with pytest.raises(ValueError, match="losses.histogram: `mined` must be that of the whole"):
        losses.histogram(x, Y, mined=mined, axis_name="batch")


@pytest.mark.slow
def test_the_running_histogram_is_that_of_all_devices():
    x = jax.random.normal(jax.random.key(0), (N, D))
    state = jax.random.uniform(jax.random.key(1), (10,))
    soft = functools.partial(losses.dynamic_soft_margin, momentum=0.4, histogram=state)
    run = spread(lambda x, y, where, _: soft(x, y, where=where, axis_name="batch")[1])
    where = jnp.asarray(WHERE, x.dtype)
    got = jax.jit(run)(x, jnp.asarray(Y), where, x)
    want = jax.jit(lambda x: soft(x, Y, where=where)[1])(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.slow
def test_a_memory_on_each_device_is_one():
    """The second batch meets the first, and the sums are over the anchors of all devices."""
    x = jax.random.normal(jax.random.key(0), (N, D))
    y, where = jnp.asarray(Y), jnp.asarray(WHERE, x.dtype)

    def total(x, y, where, _, axis_name="batch"):
        head = mj.nn.CrossBatchMemory(losses.intra_pair_variance, 2 * N, D)
        recipe = mj.objective(head, axis_name=axis_name)
        recipe(x, y, where=where)
        return recipe(jnp.cos(x), y, where=where)[0]

    want = jax.jit(jax.value_and_grad(lambda x: total(x, y, where, x, axis_name=None)))(x)
    got = jax.jit(jax.value_and_grad(lambda x: spread(total)(x, y, where, x)))(x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_references_of_a_few_anchors_are_never_all_by_all():
    """`lifted_structure` compares the references with each other, many more than the anchors."""
    n, m = 4, 2**14
    shapes = jax.ShapeDtypeStruct((n, D), "float32"), jax.ShapeDtypeStruct((m, D), "float32")
    total = lambda x, others: mj.reduce(
        losses.lifted_structure(x, jnp.arange(n), refs=mj.Refs(others, jnp.arange(m) % 7))
    )[0]
    compiled = jax.jit(total).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * m * m / 4


def test_a_few_anchors_are_taken_at_once():
    m = tuning.CPU.dense_pairs
    refs = mj.Refs(jnp.zeros((m, 1)), jnp.zeros(m, jnp.int32))
    rows = []

    def loss(n):
        # a loss that needs all references at once; others take them in blocks
        terms = losses.instance(jnp.zeros((n, 1)), jnp.zeros(n, jnp.int32), refs=refs)
        rows.append(terms["loss"].stream.slab(0) if n > tuning.CPU.chunk_rows else terms)
        return mj.reduce(terms)[0]

    for n in (2, tuning.CPU.chunk_rows, tuning.CPU.chunk_rows + 1):
        jax.eval_shape(lambda n=n: loss(n))
    assert [len(terms["loss"].values) for terms in rows] == [2, 128, 128]
