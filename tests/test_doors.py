"""What comes in wrong is refused or left out, by every public function, and never in silence."""

import functools
import re
from types import SimpleNamespace

import cases
import jax
import jax.numpy as jnp
import miner_cases
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import metricjax as mj
from metricjax._core import check
from metricjax._core.check import on_host
from metricjax._core.record import record_of

N, D = 8, 5
X = jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), jnp.float32)
Y = np.arange(N) // 2
HUGE = Y.astype(np.int64) * 2**32 + 1  # four classes still, and one of their lower halves


def some(rows, quick):
    """All but the `quick` ones are slow."""
    marks = lambda row: [] if str(row) in quick.split() else [pytest.mark.slow]
    return [pytest.param(row, marks=marks(row), id=str(row)) for row in rows]


every_loss = pytest.mark.parametrize("case", cases.CASES, ids=str)
every_miner = pytest.mark.parametrize("case", miner_cases.CASES, ids=str)
loss_of = lambda terms: mj.reduce(terms[0] if isinstance(terms, tuple) else terms)[0]
triplets = lambda a, p, n: mj.tuples.from_triplets(*map(np.array, (a, p, n)))


@functools.partial(jax.jit, static_argnums=0)
def value(loss, *args, **data):
    return loss_of(loss(*args, **data))


def params(case):
    return case.params(jax.random.key(1))


def batch_of(case):
    return jax.random.normal(jax.random.key(0), (cases.N, cases.D)), np.arange(cases.N) % cases.C


AUTO = (AxisType.Auto, AxisType.Auto)


def on_mesh(fn, specs, out=jax.P()):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=AUTO)
    return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out))


# --- labels ------------------------------------------------------------------------------------


@every_loss
def test_losses_take_lists_of_labels_and_refuse_what_would_collide(case):
    if not case.takes("labels") or case.loss is mj.losses.hap:  # whose labels have levels
        return
    e, y = batch_of(case)
    run = lambda y: jax.eval_shape(lambda e: loss_of(case.fn(e, y, *params(case))), e)
    assert run(y.tolist()) == run(y)
    for labels, error, words in (
        (y.astype(np.int64) * 2**32, ValueError, "must fit int32"),
        (y.astype(np.uint64) + 2**63, ValueError, "must fit int32"),
        ([f"class {i}" for i in y], TypeError, r"must be numbers.*np\.unique"),
        (y[:-1].tolist(), ValueError, rf"`labels` must have shape \[{cases.N}\]"),
    ):
        with pytest.raises(error, match=rf"losses\.{case}: `labels` .*{words}|{words}"):
            run(labels)


@every_miner
def test_miners_take_lists_of_labels_and_refuse_what_would_collide(case):
    run = lambda y: jax.eval_shape(lambda x: case(x, y, key=jax.random.key(0))[:2], X)
    assert run(Y.tolist()) == run(Y)
    with pytest.raises(ValueError, match=rf"miners\.{case}: `labels` must fit int32"):
        run(HUGE)


@pytest.mark.slow
def test_wide_labels_are_themselves_where_jax_has_64_bits():
    with jax.enable_x64(True):
        x = X.astype(jnp.float64)
        np.testing.assert_allclose(
            value(mj.losses.ntxent, x, HUGE), value(mj.losses.ntxent, x, Y), rtol=1e-12
        )
        outside = jax.jit(lambda y: loss_of(mj.losses.arcface(x, y, jnp.eye(4, D))))
        assert outside(jnp.asarray(HUGE + 2**40)) == 0  # and not those of their lower halves
        bank = mj.memory.MemoryBank.create(16, D).enqueue(X, jnp.asarray(HUGE))
        assert bank.labels[: len(HUGE)].tolist() == HUGE.tolist()


@pytest.mark.parametrize("dtype", some(["uint8", "int8", "int16", "uint32", "int64"], "int8"))
def test_any_integers_are_labels(dtype):
    y = Y.astype(dtype)
    for loss in (mj.losses.instance, functools.partial(mj.losses.margin, beta=jnp.ones(200))):
        assert value(loss, X, y) == value(loss, X, Y)
        assert value(loss, X, jnp.asarray(y)) == value(loss, X, Y)


def test_labels_of_no_class_raise_where_they_are_known():
    head = mj.nn.ArcFace(4, D, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"losses.arcface: `labels` must be from 0 to 3.*got 4"):
        head(X, Y + 1)
    with pytest.raises(ValueError, match="manifold: `proxy_ids` must be from 0 to 2"):
        mj.losses.manifold(X, jnp.eye(3, D), proxy_ids=Y)
    run = lambda y, **where: loss_of(mj.losses.arcface(X, y, head.weights[...], **where))
    padded = jax.jit(lambda: run(Y - 1, where=Y > 0))()  # no class, no weight
    assert jnp.isfinite(padded)
    np.testing.assert_allclose(jax.jit(run)(jnp.asarray(Y - 1)), padded, rtol=1e-6)


def test_only_what_is_in_the_memory_of_the_host_is_looked_at(monkeypatch):
    assert on_host([1, 2]) is not None and on_host(jnp.arange(2)) is not None
    seen = []
    jax.eval_shape(lambda x: seen.append(on_host(x)), jnp.arange(2))
    assert seen == [None]

    class Remote:
        is_fully_addressable = True

        def devices(self):
            return [SimpleNamespace(platform="gpu")]

        def __array__(self, *_):
            raise AssertionError("copied from the accelerator")

    monkeypatch.setattr(check, "jax", SimpleNamespace(Array=Remote, core=jax.core))
    assert on_host(Remote()) is None


# --- rows that are not there -------------------------------------------------------------------

LISTED = some(
    [case for case in cases.CASES if case.takes("mined", "refs") and not case.whole],
    quick="triplet_margin ntxent nca",
)


@pytest.mark.parametrize("case", LISTED)
def test_tuples_with_a_row_that_is_not_there_are_left_out(case):
    e, y = batch_of(case)
    there = triplets([0, 2], [5, 7], [1, 1])
    more = triplets([0, 2, -1, 99, 0, 1], [5, 7, 6, 6, 99, 6], [1, 1, 0, 0, 1, -2])
    both = jax.jit(lambda e: [loss_of(case.fn(e, y, mined=m)) for m in (there, more)])
    np.testing.assert_allclose(*both(e), rtol=1e-6)


def test_an_index_beyond_32_bits_is_nowhere():
    assert triplets([2**32], [1], [2]).anchor.tolist() == [-1]
    pairs = mj.tuples.from_pairs([2**40, 0], [1, 1], [], [], shape=(2, 2))
    assert pairs.positive.tolist() == [[0, 1], [0, 0]]
    with pytest.raises(TypeError, match="from_triplets: `p` must be integer row numbers"):
        triplets([0], [0.5], [1])


@pytest.mark.slow
def test_no_references_give_zero():
    """Where a gather would have no row to take."""
    none = mj.Refs(X[:0], Y[:0])
    three = mj.losses.angular, mj.losses.instance, mj.losses.n_pairs
    of = lambda x, loss: jax.value_and_grad(lambda x: loss_of(loss(x, Y, refs=none)))(x)
    for total, grad in jax.jit(lambda x: [of(x, loss) for loss in three])(X):
        assert total == 0 and not grad.any()
    assert value(mj.losses.triplet_margin, X, refs=none, mined=triplets([0], [1], [2])) == 0


# --- options and weights -----------------------------------------------------------------------


@every_loss
def test_numbers_are_numbers(case):
    e, y = batch_of(case)
    options = record_of(case.loss).options
    for name in options.numbers:
        run = lambda x, name=name: jax.eval_shape(
            lambda e: loss_of(case.fn(e, y, *params(case), **{name: x})), e
        )
        several = jnp.full(cases.N + 1 if name in options.per_sample else cases.N, 2.0)
        with pytest.raises(ValueError, match=rf"losses\.{case}: `{name}` must be one number"):
            run(several)
        with pytest.raises(TypeError, match=rf"losses\.{case}: `{name}` must be a number"):
            run("0.1")


@every_miner
def test_numbers_of_miners_are_numbers(case):
    for name in case.numbers:
        with pytest.raises(ValueError, match=rf"miners\.{case}: `{name}` must be one number"):
            jax.eval_shape(lambda x, name=name: case(x, Y, **{name: jnp.ones(N)})[:2], X)


PER_SAMPLE = some([c for c in cases.CASES if record_of(c.loss).options.per_sample], "ntxent")


@pytest.mark.parametrize("case", PER_SAMPLE)
def test_a_number_for_each_anchor_goes_along_with_it(case):
    """As in a loop over anchors, each with its own; in blocks, and on several devices."""
    y = jnp.asarray(case.ids(Y))
    names = sorted(record_of(case.loss).options.per_sample)
    defaults = record_of(case.loss).options.numbers
    each = {n: defaults[n] * jnp.linspace(0.5, 1.5, N) + 0.01 for n in names}
    weights = (jax.random.normal(jax.random.key(1), (4 * case.centers, D)),) if case.centers else ()

    def one(i, terms):
        refs = {"refs": mj.Refs(X, y, jnp.array([i]))} if case.takes("refs") else {}
        options = {n: x[i] for n, x in each.items()}
        return terms(X[i : i + 1], y[i : i + 1], *weights, **refs, **options)

    def run(x, each, fn=case.loss):
        return loss_of(fn(x, y, *weights, **each))

    got, slope = jax.jit(jax.value_and_grad(run))(X, each)
    if not record_of(case.loss).sums_over_anchors:
        parts = jax.jit(lambda: [one(i, mj.totals(case.loss)) for i in range(N)])()
        want = mj.reduce(jax.tree.map(lambda *x: sum(x), *parts))[0]
        np.testing.assert_allclose(got, want, rtol=1e-5)
    chunked = functools.partial(run, fn=mj.chunked(case.loss, 3))
    for a, b in zip(jax.jit(jax.value_and_grad(chunked))(X, each), (got, slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    constant = {n: jnp.full(N, defaults[n]) for n in names}
    np.testing.assert_allclose(jax.jit(run)(X, constant), jax.jit(run)(X, {}), rtol=1e-6)
    recipe = mj.objective(case.loss, axis_name="data")
    layouts = [lambda x, y, each: recipe(x, y, *weights, **each)[0]]
    if record_of(case.loss).ring:
        around = functools.partial(mj.ring(case.loss), axis_name="data")
        layouts.append(lambda x, y, each: mj.reduce(around(x, y, **each), axis_name="data")[0])
    for local in layouts:
        spread = on_mesh(local, jax.P("data"))
        np.testing.assert_allclose(spread(X, y, each), got, rtol=1e-5)


def test_weights_are_no_less_than_zero():
    bad = np.ones(N)
    for worst in (-1, np.nan):
        bad[3] = worst
        for fn in (mj.losses.contrastive, mj.miners.batch_hard):
            with pytest.raises(ValueError, match="`where` must be weights of at least 0, got"):
                fn(X, Y, where=bad)
        with pytest.raises(ValueError, match="regularizers.lp: `where` must be weights"):
            mj.regularizers.lp(X, where=bad)
        with pytest.raises(ValueError, match="vicreg: `where` must be weights"):
            mj.losses.vicreg(X, X, where=bad)


# --- zero vectors ------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_vector_without_a_direction_is_as_far_as_an_orthogonal_one(p):
    distance = mj.distances.LpDistance(p=p)
    x = jnp.eye(3).at[2].set(0)
    to_others = lambda x: jnp.sum(distance(x, jnp.eye(3)[::-1]))
    run = jax.jit(lambda x: (distance(x), distance(x, x + 0), jax.grad(to_others)(x)))
    own, other, grad = run(x)
    np.testing.assert_allclose(own[2, :2], own[0, 1], rtol=1e-6)
    np.testing.assert_allclose(other[2, 2], own[0, 1], rtol=1e-6)
    assert jnp.isfinite(grad).all() and not grad[2].any()


@pytest.mark.parametrize("backend", [None, pytest.param("faiss", marks=pytest.mark.slow)])
def test_a_zero_vector_is_nobodys_nearest_neighbor(backend):
    rng = np.random.default_rng(4)
    gallery, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (60, 20))
    gallery[17] = queries[5] = 0
    index = mj.inference.Index(gallery, **({"backend": backend} if backend else {}))
    distances, rows = index.nearest(queries, 3)[:2]
    assert not (np.delete(np.asarray(rows), 5, 0) == 17).any()
    np.testing.assert_allclose(distances[5], np.sqrt(2), rtol=1e-5)
    found = mj.evaluation.knn(queries, gallery, 60)
    np.testing.assert_allclose(found.distances[np.asarray(found.indices) == 17], np.sqrt(2), 1e-6)


# --- devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axis_name, class_axis",
    [(("data", "model"), "model"), pytest.param("data", ("data",), marks=pytest.mark.slow)],
)
def test_axes_are_compared_by_their_names(axis_name, class_axis):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, D)), jnp.float32)
    recipe = mj.objective(mj.losses.arcface, axis_name=axis_name, class_axis=class_axis)
    specs = jax.P(axis_name), jax.P(axis_name), jax.P(class_axis)
    got = on_mesh(lambda *args: recipe(*args)[0], specs)(X, jnp.asarray(Y), weights)
    np.testing.assert_allclose(got, value(mj.losses.arcface, X, Y, weights), rtol=1e-5)


def test_gathered_references_without_an_axis_for_the_sums_raise():
    def local(x, y):
        terms = mj.losses.intra_pair_variance(x, y, refs=mj.gather_refs(x, y, "data"))
        return mj.reduce(terms, axis_name="data")[0]

    with pytest.raises(ValueError, match="intra_pair_variance: `axis_name` must be given"):
        on_mesh(local, jax.P("data"))(X, jnp.asarray(Y))


def test_a_memory_takes_a_batch_that_is_mapped_over():
    def local(x, y):
        bank = mj.memory.MemoryBank.create(2 * N, D)
        return bank.enqueue(x, y, axis_name="batch").embeddings[:N]

    halves = X.reshape(2, N // 2, D), jnp.asarray(Y).reshape(2, N // 2)
    for got in jax.jit(jax.vmap(local, axis_name="batch"))(*halves):
        np.testing.assert_array_equal(got, X)


# --- transformations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    some(["angular", "dynamic_soft_margin", "pnp", "smooth_ap"], quick=""),
)
def test_nothing_leaks(name):
    with jax.checking_leaks():
        jax.jit(lambda x: loss_of(getattr(mj.losses, name)(x, Y))).lower(X)


def test_terms_in_blocks_say_that_they_cannot_leave():
    fn = mj.chunked(mj.losses.ntxent, 3)
    with pytest.raises(TypeError, match=r"'loss' is computed in blocks.*Call `metricjax.reduce`"):
        jax.eval_shape(fn, X, Y)
    both = jax.value_and_grad(lambda x: (loss_of(fn(x, Y)), fn(x, Y)), has_aux=True)
    with pytest.raises(TypeError, match="cannot leave a transformed function"):
        jax.eval_shape(lambda x: both(x)[1], X)


@pytest.mark.parametrize(
    "name", some(["ntxent", "contrastive", "triplet_margin", "angular"], quick="ntxent")
)
def test_losses_export_with_a_symbolic_batch_size(name):
    (n,) = jax.export.symbolic_shape("n")
    like = jax.ShapeDtypeStruct((n, D), "float32"), jax.ShapeDtypeStruct((n,), "int32")
    run = jax.jit(lambda x, y: loss_of(getattr(mj.losses, name)(x, y)))
    exported = jax.export.export(run)(*like)
    y = jnp.asarray(Y, jnp.int32)
    np.testing.assert_allclose(exported.call(X, y), run(X, y), rtol=1e-6)
    with pytest.raises(TypeError, match="losses.vicreg: `embeddings` must have a known number"):
        jax.eval_shape(lambda x: jax.export.export(jax.jit(mj.losses.vicreg))(x, x), like[0])


# --- forty mistakes ----------------------------------------------------------------------------

WEIGHTS = jnp.eye(4, D)
losses, miners, distances = mj.losses, mj.miners, mj.distances
MISTAKES = {  # what is called wrongly: a part of the message
    lambda: losses.ntxent(X[0], Y): "losses.ntxent: `embeddings` .*got (5,).*x[None]",
    lambda: losses.ntxent(X[None], Y): "losses.ntxent: `embeddings` .*got (1, 8, 5).*vmap",
    lambda: losses.ntxent(X.astype(int), Y): "losses.ntxent: `embeddings` .*got int32",
    lambda: losses.ntxent(X, Y[1:]): "losses.ntxent: `labels` .*[8].*got (7,)",
    lambda: losses.ntxent(X, [[0, 1], [2]] * 4): "losses.ntxent: `labels` .*ragged",
    lambda: losses.ntxent(X, list("aabbccdd")): "losses.ntxent: `labels` .*np.unique",
    lambda: losses.ntxent(X, HUGE): "losses.ntxent: `labels` .*int32.*np.unique",
    lambda: losses.ntxent(X, Y / 2): "losses.ntxent: `labels` .*integer.*float32",
    lambda: losses.ntxent(X, Y, where=-np.ones(N)): "losses.ntxent: `where` .*at least 0, got -1.0",
    lambda: losses.ntxent(X, Y, where=np.ones(3)): "losses.ntxent: `where` .*[8].*got (3,)",
    lambda: losses.ntxent(X, Y, refs=X): "losses.ntxent: `refs` .*metricjax.Refs.*got",
    lambda: losses.ntxent(X, Y, refs=mj.Refs(X[:, 1:], Y)): "`refs.embeddings` .*5 features.*4)",
    lambda: losses.ntxent(X, Y, refs=mj.Refs(X, Y[1:])): "losses.ntxent: `refs.labels` .*got (7,)",
    lambda: losses.ntxent(X, Y, mined=Y): "losses.ntxent: `mined` .*miner.*got ndarray",
    lambda: losses.ntxent(X, Y, temperature=0.0): "ntxent: `temperature` .*(0, inf), got 0.0",
    lambda: losses.ntxent(X, Y, temperature="0.1"): "losses.ntxent: `temperature` .*got '0.1'",
    lambda: losses.multi_similarity(X, Y, alpha=np.ones(N)): "`alpha` .*one number, got shape (8,)",
    lambda: losses.ntxent(X, Y, distance="cosine"): "losses.ntxent: `distance` .*got 'cosine'",
    lambda: losses.ntxent(X, Y, distance=distances.LpDistance): "`distance` .*the class LpDistance",
    lambda: losses.histogram(X, Y, distance=distances.LpDistance()): "histogram: `distance` .*sim",
    lambda: losses.ranked_list(X, Y, imbalance=2.0): "ranked_list: `imbalance` .*[0, 1], got 2.0",
    lambda: losses.pnp(X, Y, variant="X"): "losses.pnp: `variant` .*'Ds'.*got 'X'",
    lambda: losses.arcface(X, Y): "losses.arcface: `weights` must be given.*metricjax.nn",
    lambda: losses.arcface(X, Y, WEIGHTS[:, 1:]): "losses.arcface: `weights` .*[C, 5].*(4, 4)",
    lambda: losses.arcface(X, Y + 1, WEIGHTS): "losses.arcface: `labels` .*0 to 3.*got 4",
    lambda: losses.arcface(X, Y, WEIGHTS, margin=200.0): "arcface: `margin` .*[0, 180], got 200.0",
    lambda: losses.manifold(X, WEIGHTS): "losses.manifold: .*`proxy_ids` or `key`",
    lambda: losses.vicreg(X, X[1:]): "losses.vicreg: `ref_embeddings` .*(8, 5).*got (7, 5)",
    lambda: losses.TripletMarginLoss: "'TripletMarginLoss'; it is metricjax.losses.triplet_margin",
    lambda: miners.MultiSimilarityMiner: "it is metricjax.miners.multi_similarity",
    lambda: mj.samplers.MPerClassSampler: "it is metricjax.samplers.m_per_class",
    lambda: mj.reducers.AvgNonZeroReducer: "it is metricjax.reducers.avg_non_zero",
    lambda: miners.batch_hard(X, HUGE): "miners.batch_hard: `labels` .*int32",
    lambda: miners.hdc(X, Y, filter_percentage=2.0): "miners.hdc: `filter_percentage` .*got 2.0",
    lambda: miners.pair_margin(X, Y, distance="cosine"): "pair_margin: `distance` .*'cosine'",
    lambda: mj.nn.ArcFace(4, D): "nn.ArcFace: `rngs` must be given.*nnx.Rngs(0)",
    lambda: mj.nn.ArcFace(4, D, rngs=nnx.Rngs(0), size=3): "nn.ArcFace: no option 'size'",
    lambda: mj.objective("ntxent"): "objective: `loss` .*metricjax.losses.ntxent, got 'ntxent'",
    lambda: mj.objective(losses.ntxent, miner="hard"): "objective: `miner` .*got 'hard'",
    lambda: mj.objective(losses.ntxent, reducer="mean"): "objective: `reducer` .*got 'mean'",
    lambda: mj.objective(losses.ntxent, margin=1.0): "objective: ntxent has no option 'margin'",
    lambda: mj.objective(miners.batch_hard)(X, Y): "reduce: `terms` .*a loss returns, got Triplets",
    lambda: mj.reduce(losses.ntxent(X, Y), "mean"): "reduce: `reducer` .*got 'mean'",
    lambda: jax.grad(lambda x: losses.ntxent(x, Y))(X): "`metricjax.reduce` makes one number",
    lambda: mj.chunked(losses.ntxent, 0): "chunked: `chunk_size` .*at least 1, got 0",
    lambda: mj.ring(losses.triplet_margin): "ring: `loss` .*gather_refs",
    lambda: mj.tuples.from_triplets([0], [0.5], [1]): "from_triplets: `p` .*integer.*float64",
    lambda: mj.evaluation.knn(X, X, 9): "evaluation.knn: `k` .*at most 8.*got 9",
    lambda: mj.memory.MemoryBank.create(8, 4).enqueue(X, Y): "enqueue: `embeddings` .*4 features",
    lambda: mj.training.fit(lambda s, b: s, None, 3, steps=0): "training.fit: `steps` .*got 0",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda fn: "")
def test_messages_help(mistake):
    assert len(MISTAKES) >= 40
    with pytest.raises((ValueError, TypeError, AttributeError)) as error:
        mistake()
    message = str(error.value)
    parts = map(re.escape, MISTAKES[mistake].split(".*"))
    assert re.search(".*".join(parts), message, re.S), message
    assert len(message) <= 400
