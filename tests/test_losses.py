"""Every promise of the library, swept over every row of the table in `cases.py`."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from cases import CASES, C, D, N
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.test_util import check_grads

import metricjax as mj
from metricjax._stream import StreamedTerm

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
paired = pytest.mark.parametrize(
    "case", [c for c in CASES if "refs" in inspect.signature(c.loss).parameters], ids=str
)
LABELS = {
    "mixed": np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 1, 0, 3, 2, 2, 1, 0, 3]),
    "one_class": np.ones(N, int),
    "all_distinct": np.arange(N),
    "outside": np.full(N, -7),
}


def batch(labels="mixed", dtype=jnp.float32, seed=0):
    e = jax.random.normal(jax.random.key(seed), (N, D), dtype)
    return e, jnp.asarray(LABELS[labels], jnp.int32)


def params(case, dtype=jnp.float32):
    return case.params(jax.random.key(1), dtype)


@functools.cache
def step(loss):
    """``(embeddings, labels, params, where) -> loss, gradients``, jitted once for each shape."""

    def total(e, p, y, where):
        return mj.reduce(loss(e, y, *p, where=where))[0]

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    return lambda e, y, p, where=None: run(e, p, y, jnp.ones(len(e)) if where is None else where)


def close(got, want, rtol=1e-5, atol=1e-6):
    chex.assert_trees_all_close(got, want, rtol=rtol, atol=atol)


def test_every_loss_has_a_case():
    public = {name for name, _ in inspect.getmembers(mj.losses, inspect.isfunction)}
    assert sorted(c.loss.__name__ for c in CASES) == sorted(public)
    modules = {x for _, x in inspect.getmembers(mj.nn, inspect.isclass)}
    modules = {x for x in modules if x.__module__ == "metricjax.nn" and x.__name__[0] != "_"}
    assert {c.module for c in CASES if c.module} == modules


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.named_parameters((str(c), c) for c in CASES)
    def test_compiled_or_not_the_value_is_the_same(self, case):
        e, y = batch()
        p = params(case)
        run = self.variant(lambda e, y, *p: mj.reduce(case.loss(e, y, *p))[0])
        close(run(e, y, *p), step(case.loss)(e, y, p)[0])


@every_loss
def test_vmap_over_a_leading_axis_is_a_loop(case):
    p = params(case)
    pairs = [batch(labels, seed=i) for i, labels in enumerate(("mixed", "one_class"))]
    e, y = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
    total = lambda e, y: mj.reduce(case.loss(e, y, *p, where=jnp.ones(N)))[0]
    got = jax.jit(jax.vmap(jax.value_and_grad(total)))(e, y)
    want = [step(case.loss)(*pair, p) for pair in pairs]
    close(got, (jnp.stack([v for v, _ in want]), jnp.stack([g[0] for _, g in want])))


@every_loss
def test_gradient_is_that_of_finite_differences(case):
    with jax.enable_x64(True):
        e, y = batch(dtype=jnp.float64)
        p = params(case, jnp.float64)
        for options in ({}, *case.options):
            total = jax.jit(lambda e, *p, o=options: mj.reduce(case.loss(e, y, *p, **o))[0])
            assert total(e, *p).dtype == jnp.float64
            check_grads(total, (e, *p), order=1, modes="rev", rtol=1e-4, atol=1e-5, eps=1e-6)


@every_loss
@pytest.mark.parametrize("labels", LABELS)
def test_value_and_gradient_are_finite_on_degenerate_batches(case, labels):
    e, y = batch(labels)
    p = params(case)
    own = p[0][jnp.clip(y, 0, C - 1)] if p else e
    embeddings = {
        "random": e,
        "zero": jnp.zeros_like(e),
        "equal": jnp.ones_like(e),
        "duplicates": e[jnp.arange(N) // 2],
        "on_center": own,
        "opposite": -own,
        "huge": 1e15 * e,
        "tiny": 1e-30 * e,
    }
    for name, x in embeddings.items():
        out = step(case.loss)(x, y, p)
        for leaf in jax.tree.leaves(out):
            assert np.isfinite(leaf).all(), name
    nobody = step(case.loss)(e, y, p, jnp.zeros(N))
    close(nobody, jax.tree.map(jnp.zeros_like, nobody), atol=0)


@every_loss
@pytest.mark.parametrize("n", [0, 1])
def test_tiny_batches_have_finite_values(case, n):
    e, y = batch()
    p = params(case)
    value, grads = step(case.loss)(e[:n], y[:n], p)
    chex.assert_tree_all_finite((value, grads))
    if n == 0 or not p:
        assert value == 0 and not any(g.any() for g in jax.tree.leaves(grads))


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_with_in_single(case, dtype):
    e, y = batch(dtype=dtype)
    p = params(case, dtype)
    value, grads = step(case.loss)(e, y, p)
    assert value.dtype == jnp.float32
    assert all(g.dtype == dtype for g in jax.tree.leaves(grads))
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (e, p))
    want, want_grads = step(case.loss)(single[0], y, single[1])
    close(value, want)
    grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
    close(grads, want_grads, rtol=1e-2, atol=1e-3)
    chex.assert_tree_all_finite(step(case.loss)(jnp.zeros_like(e), y, p))
    for term in case.loss(e, y, *p).values():
        assert term.dense().values.dtype == term.dense().weights.dtype == jnp.float32


@every_loss
def test_padding_is_the_shorter_batch_whatever_it_holds(case):
    e, y = batch()
    p = params(case)
    real = jnp.arange(N) % 3 > 0
    want, (want_e, want_p) = step(case.loss)(e[real], y[real], p)
    for junk in (7.0, jnp.nan, jnp.inf):
        x = jnp.where(real[:, None], e, junk)
        for where in (real, real.astype(jnp.float32)):
            got, (got_e, got_p) = step(case.loss)(x, y, p, where)
            close((got, got_e[real], got_p), (want, want_e, want_p))
            assert not got_e[~real].any()


@every_loss
def test_a_nan_embedding_stays_visible(case):
    e, y = batch()
    for reducer in (None, mj.reducers.avg_non_zero, mj.reducers.mean):
        terms = case.loss(e.at[0].set(jnp.nan), y, *params(case))
        assert jnp.isnan(mj.reduce(terms, reducer)[0])


@paired
def test_weights_are_multiplicities(case):
    e, y = batch()
    twice = jnp.concatenate([jnp.arange(N), jnp.arange(3)])
    w = jnp.ones(N).at[:3].set(2)
    refs = mj.Refs(e[::-1], y[::-1])
    once = lambda r: mj.reduce(case.loss(e, y, refs=r))[0]
    close(once(refs._replace(where=w)), once(mj.Refs(refs.embeddings[twice], refs.labels[twice])))
    close(
        mj.reduce(case.loss(e, y, refs=refs, where=w))[0],
        mj.reduce(case.loss(e[twice], y[twice], refs=refs))[0],
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.module], ids=str)
def test_class_losses_count_a_sample_as_often_as_its_weight(case):
    e, y = batch()
    p = params(case)
    twice = jnp.concatenate([jnp.arange(N), jnp.arange(3)])
    got = step(case.loss)(e, y, p, jnp.ones(N).at[:3].set(2))
    want = step(case.loss)(e[twice], y[twice], p)
    close((got[0], got[1][1]), (want[0], want[1][1]))


@every_loss
def test_values_without_weight_are_zero(case):
    e, y = batch()
    for term in case.loss(e, y, *params(case), where=jnp.arange(N) > 3).values():
        term = term.dense()
        assert term.values.shape == term.weights.shape
        assert (jnp.where(term.weights > 0, 0, term.values) == 0).all()
        assert (term.weights == 0).any() or len(term.values) == C


def float_options(case):
    signature = inspect.signature(case.loss).parameters
    return {n: o.default for n, o in signature.items() if isinstance(o.default, float)}


@every_loss
def test_every_float_option_may_be_traced_and_mapped_over(case):
    e, y = batch()
    p = params(case)
    assert float_options(case)
    for name, default in float_options(case).items():
        traces = []

        def total(option, name=name, traces=traces):
            traces.append(name)
            return mj.reduce(case.loss(e, y, *p, **{name: option}))[0]

        options = default + jnp.array([0.0, 0.1, 0.2])
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(total)))(options)
        assert len(traces) == 1
        assert np.isfinite(slope).all() and (slope != 0).any(), name
        close(value, jnp.stack([jax.jit(total)(o) for o in options]))


@every_loss
def test_a_second_call_does_not_retrace(case):
    e, y = batch()
    p = params(case)
    traces = []
    run = jax.jit(lambda e, y, p: traces.append(1) or mj.reduce(case.loss(e, y, *p))[0])
    run(e, y, p), run(e + 1, y + 1, p)
    assert len(traces) == 1


@every_loss
@pytest.mark.parametrize(
    "bad, error, says",
    [
        (lambda e, y: (e[0], y), ValueError, r"`embeddings` must have shape \[N, D\], got \(8,\)"),
        (lambda e, y: (e, y[:, None]), ValueError, r"`labels` must have shape .*got \(24, 1\)"),
        (lambda e, y: (e, y[:-1]), ValueError, r"`labels` must have shape .*got \(23,\)"),
        (lambda e, y: (e, y.astype("float32")), TypeError, "`labels` must be integer"),
        (lambda e, y: (e.astype("int32"), y), TypeError, "`embeddings` must be floating"),
        (lambda e, y: (e, None), ValueError, "labels"),
    ],
    ids=["1d", "labels_2d", "labels_short", "labels_float", "embeddings_int", "no_labels"],
)
def test_wrong_arguments_raise_at_trace_time(case, bad, error, says):
    p = params(case)
    e, y = bad(*batch())
    with pytest.raises(error, match=f"losses.{case.loss.__name__}: .*{says}"):
        jax.eval_shape(lambda e: mj.reduce(case.loss(e, y, *p)), e)
    e, y = batch()
    with pytest.raises(ValueError, match=f"losses.{case.loss.__name__}: `where` must have shape"):
        jax.eval_shape(lambda e: mj.reduce(case.loss(e, y, *p, where=jnp.ones(3))), e)
    with pytest.raises(TypeError, match=f"losses.{case.loss.__name__}: `mined`"):
        jax.eval_shape(lambda e: mj.reduce(case.loss(e, y, *p, mined=(1, 2))), e)


@every_loss
def test_order_does_not_matter(case):
    e, y = batch()
    p = params(case)
    order = jax.random.permutation(jax.random.key(2), N)
    value, (grad, of_params) = step(case.loss)(e, y, p)
    close(step(case.loss)(e[order], y[order], p), (value, (grad[order], of_params)))


# --- chunks and devices -----------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("size", [1, 7, 40])
def test_chunked_is_dense(case, size):
    e, y = batch()
    p = params(case)
    where = jnp.arange(N) % 5 > 0
    close(step(mj.chunked(case.loss, size))(e, y, p, where), step(case.loss)(e, y, p, where))


@paired
def test_chunked_takes_whatever_was_mined(case):
    e, y = batch()
    loss = mj.chunked(case.loss, 7)
    mined = {
        "pairs": mj.miners.multi_similarity(e, y),
        "rule": mj.miners.triplet_margin(e, y, type_of_triplets="semihard"),
        "list": mj.tuples.random_triplets(jax.random.key(3), y, 5),
    }
    for name, some in mined.items():
        total = lambda e, m, loss: mj.reduce(loss(e, mined=m))[0]
        got, want = (
            jax.jit(jax.value_and_grad(functools.partial(total, loss=x)))(e, some)
            for x in (loss, case.loss)
        )
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6, custom_message=name)
        assert want[0] > 0


@every_loss
def test_chunked_reduces_and_shows_what_dense_does(case):
    e, y = batch()
    p = params(case)
    chunked = mj.chunked(case.loss, 7)
    dense, terms = case.loss(e, y, *p), chunked(e, y, *p)
    n = C if case.loss is mj.losses.proxy_anchor else N
    weights = jnp.arange(n) / n
    streamed = any(isinstance(t, StreamedTerm) for t in dense.values())
    reducers = [
        mj.reducers.sum,
        mj.reducers.avg_non_zero,
        mj.reducers.threshold(low=0.1, high=2.0),
        mj.reducers.class_weighted(weights),
        *([] if streamed else [mj.reducers.per_anchor()]),
    ]
    both = jax.jit(
        lambda e: [[mj.reduce(f(e, y, *p), r) for r in reducers] for f in (chunked, case.loss)]
    )
    close(*both(e))
    for name, term in dense.items():
        want, got = term.dense(), terms[name].dense()
        close((got.values, got.weights), (want.values, want.weights))


@every_loss
def test_a_large_batch_is_chunked_by_itself(case, monkeypatch):
    e, y = batch()
    p = params(case)
    want = step(case.loss)(e, y, p)
    monkeypatch.setattr("metricjax._chunks.DENSE_ELEMENTS", N * 5 * 4)
    total = lambda e, p: mj.reduce(case.loss(e, y, *p, where=jnp.ones(N)))[0]
    close(jax.jit(jax.value_and_grad(total, (0, 1)))(e, p), want)
    if "refs" in inspect.signature(case.loss).parameters:
        assert all(isinstance(t, StreamedTerm) for t in case.loss(e, y).values())


def mesh(kind):
    return jax.make_mesh((8,), ("batch",), axis_types=(kind,))


@every_loss
@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_batch_is_one_device(case, kind, chunk):
    e, y = batch()
    p = params(case)
    want = step(case.loss)(e, y, p)
    m = mesh(kind)
    put = lambda x: jax.device_put(x, NamedSharding(m, jax.P("batch")))
    loss = mj.chunked(case.loss, chunk) if chunk else case.loss
    with jax.set_mesh(m):
        total = lambda e, p, y: mj.reduce(loss(e, y, *p))[0]
        everywhere = jax.device_put(p, NamedSharding(m, jax.P()))
        got = jax.jit(jax.value_and_grad(total, (0, 1)))(put(e), everywhere, put(y))
    close(jax.device_get(got), want)


@paired
def test_sharded_references_and_mined_tuples_are_one_device(case):
    e, y = batch()

    def total(e, y):
        refs = mj.Refs(e, y, jnp.arange(N), (jnp.arange(N) % 5 > 0).astype(e.dtype))
        rule = mj.miners.triplet_margin(e, y, refs=refs, type_of_triplets="semihard")
        some = mj.tuples.random_triplets(jax.random.key(3), y, 3)
        losses = case.loss(e, y, refs=refs, mined=rule), case.loss(e, mined=some, where=y > 0)
        return sum(mj.reduce(terms)[0] for terms in losses)

    want = jax.jit(jax.value_and_grad(total))(e, y)
    m = mesh(AxisType.Explicit)
    with jax.set_mesh(m):
        put = lambda x: jax.device_put(x, NamedSharding(m, jax.P("batch")))
        got = jax.jit(jax.value_and_grad(total))(put(e), put(y))
    close(jax.device_get(got), want)


def local_step(case, chunk=None):
    """A data-parallel step on one device's part of the batch, and the same on all of it."""
    loss = mj.chunked(case.loss, chunk) if chunk else case.loss

    def run(kernel, e, y, where, p, axis_name):
        def total(kernel, p):
            recipe = mj.objective(loss, axis_name=axis_name)
            return recipe(jnp.tanh(e @ kernel), y, *p, where=where)[0]

        value, grads = jax.value_and_grad(total, (0, 1))(kernel, p)
        return value, grads if axis_name is None else jax.lax.pmean(grads, axis_name)

    return run


@every_loss
@pytest.mark.parametrize("how, chunk", [("shard_map", None), ("shard_map", 2), ("pmap", None)])
def test_a_part_on_each_device_is_one_device(case, how, chunk):
    e, y = batch()
    p = params(case)
    where = jnp.arange(N) % 5 > 0
    kernel = jax.random.normal(jax.random.key(5), (D, D)) / 3
    want = jax.jit(functools.partial(local_step(case), axis_name=None))(kernel, e, y, where, p)
    run = functools.partial(local_step(case, chunk), axis_name="batch")
    if how == "shard_map":
        shard = jax.P("batch")
        run = jax.shard_map(
            run,
            mesh=mesh(AxisType.Auto),
            in_specs=(jax.P(), shard, shard, shard, jax.P()),
            out_specs=jax.P(),
        )
        got = jax.jit(run)(kernel, e, y, where, p)
    else:
        split = lambda x: x.reshape(8, -1, *x.shape[1:])
        run = jax.pmap(run, axis_name="batch", in_axes=(None, 0, 0, 0, None))
        got = jax.tree.map(lambda x: x[0], run(kernel, split(e), split(y), split(where), p))
    close(got, want, rtol=1e-4, atol=1e-5)


# --- modules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c.module], ids=str)
def test_the_module_is_the_pure_function(case):
    e, y = batch()
    head = case.module(C, D, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(head(e, y), case.loss(e, y, head.weights[...]))
    changed = case.module(C, D, margin=0.3, rngs=nnx.Rngs(0))
    want = case.loss(e, y, head.weights[...], margin=0.3)
    chex.assert_trees_all_equal(changed(e, y), want)
    chex.assert_trees_all_equal(head(e, y, margin=0.3), want)
