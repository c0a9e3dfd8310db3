"""Every promise of the library, swept over every row of the table in `cases.py`."""

import dataclasses
import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, C, D, N, one_of_each_kind
from flax import nnx
from jax.sharding import AxisType, NamedSharding

import metricjax as mj
from metricjax._core import tuning
from metricjax._core.record import record_of
from metricjax._core.stream import StreamedTerm

REPRESENTATIVE = "contrastive arcface proxy_anchor triplet_margin smooth_ap lifted_structure vicreg"
FEW = "contrastive arcface triplet_margin vicreg"
MAPPED = "contrastive proxy_anchor"


def cases(which=lambda case: True, *, quick=None):
    """The rows of the table that `which` picks; all but the losses named in `quick` are slow."""
    slow = lambda c: quick is not None and str(c) not in quick.split()
    marks = lambda c: [pytest.mark.slow] if slow(c) else []
    chosen = [pytest.param(c, marks=marks(c), id=str(c)) for c in CASES if which(c)]
    return pytest.mark.parametrize("case", chosen)


def of_each_kind(which):
    """One loss of each kind that `which` picks. They are slow."""
    return cases(lambda c: c in one_of_each_kind() and which(c), quick="")


every_loss = cases()
LABELS = {
    "mixed": np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 1, 0, 3, 2, 2, 1, 0, 3]),
    "one_class": np.ones(N, int),
    "all_distinct": np.arange(N),
    "outside": np.full(N, -7),
}


@functools.cache
def batch(labels="mixed", dtype=jnp.float32, seed=0):
    e = jax.random.normal(jax.random.key(seed), (N, D), dtype)
    return e, jnp.asarray(LABELS[labels], jnp.int32)


def params(case, dtype=jnp.float32):
    return case.params(jax.random.key(1), dtype)


@functools.cache
def step(loss):
    """``(embeddings, labels, params, where) -> loss, gradients``, jitted once for each shape."""

    def total(e, p, y, where):
        TRACES[loss] = TRACES.get(loss, 0) + 1
        return mj.reduce(loss(e, y, *p, where=where))[0]

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    everyone = lambda e: np.ones(len(e), "f4")
    return lambda e, y, p, where=None: run(e, p, y, everyone(e) if where is None else where)


TRACES: dict = {}


def close(got, want, rtol=1e-5, atol=1e-6):
    """`atol` is relative to the largest entry of all, if that is above 1."""
    largest = max((float(np.abs(x).max(initial=0)) for x in jax.tree.leaves(want)), default=0)
    atol *= max(1, largest) if np.isfinite(largest) else 1
    chex.assert_trees_all_close(got, want, rtol=rtol, atol=atol)


def test_every_loss_has_a_case():
    public = {name for name, _ in inspect.getmembers(mj.losses, inspect.isfunction)}
    assert sorted(c.loss.__name__ for c in CASES) == sorted(public)
    modules = {x for _, x in inspect.getmembers(mj.nn, inspect.isclass)}
    modules = {x for x in modules if x.__module__.startswith("metricjax.nn.")}
    assert {c.module for c in CASES if c.module} == modules - {mj.nn.CrossBatchMemory}


@cases(quick="contrastive")
def test_compiled_or_not_the_value_is_the_same(case):
    e, y = batch()
    p = params(case)
    close(mj.reduce(case.fn(e, y, *p))[0], step(case.fn)(e, y, p)[0])


@functools.cache
def mapped(case):
    """``(values, gradients, slopes)`` of four batches side by side, in one program.

    The float options are traced: the defaults in the first two batches, then others.
    """
    p = params(case)
    fn = functools.partial(case.fn, **VARIANT.get(str(case), {}))
    pairs = [batch(labels, seed=i) for i, labels in enumerate(("mixed", "one_class"))]
    e, y = jax.tree.map(lambda *x: jnp.stack(x), *pairs, pairs[0], pairs[0])
    options = {n: x + jnp.array([0, 0, 0.03, 0.1]) for n, x in float_options(case).items()}
    traces = []

    def total(e, options, y):
        traces.append(1)
        return mj.reduce(fn(e, y, *p, where=jnp.ones(N), **options))[0]

    values, (grads, slopes) = jax.jit(jax.vmap(jax.value_and_grad(total, (0, 1))))(e, options, y)
    assert len(traces) == 1
    one_by_one = [step(fn if fn.keywords else case.fn)(*pair, p) for pair in pairs]
    return values, grads, slopes, [(value, grad[0]) for value, grad in one_by_one]


@cases(quick=MAPPED)
def test_vmap_over_a_leading_axis_is_a_loop(case):
    values, grads, _, one_by_one = mapped(case)
    close([values[:2], grads[:2]], [jnp.stack(x) for x in zip(*one_by_one, strict=True)])


@cases(lambda c: not c.detached, quick="contrastive smooth_ap")
def test_gradient_is_that_of_finite_differences(case):
    with jax.enable_x64(True):
        e, y = batch(dtype=jnp.float64)
        x = e, *params(case, jnp.float64)
        for options in ({}, *(() if case.pml else case.options)):  # parity has the others
            total = lambda *x, o=options: mj.reduce(case.fn(x[0], y, *x[1:], **o))[0]
            run = jax.jit(jax.value_and_grad(total, range(len(x))))
            value, grads = run(*x)
            assert value.dtype == jnp.float64
            for seed in range(2):
                rng = np.random.default_rng(seed)
                direction = [rng.normal(size=part.shape) for part in x]
                ahead, behind = (
                    run(*(a + h * b for a, b in zip(x, direction, strict=True)))[0]
                    for h in (1e-6, -1e-6)
                )
                slope = sum(np.vdot(g, b) for g, b in zip(grads, direction, strict=True))
                np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("labels", LABELS)
def test_value_and_gradient_are_finite_on_degenerate_batches(case, labels):
    e, y = map(np.asarray, batch(labels))  # NumPy: many small operations, none to be compiled
    p = jax.device_get(params(case))
    own = p[0][np.clip(y, 0, C - 1)] if p else e
    embeddings = {
        "random": e,
        "zero": np.zeros_like(e),
        "equal": np.ones_like(e),
        "duplicates": e[np.arange(N) // 2],
        "on_center": own,
        "opposite": -own,
        "huge": 1e15 * e,
        "tiny": 1e-30 * e,
    }
    if str(case) in ("vicreg", "margin_mse"):  # the fourth power is beyond float32
        del embeddings["huge"]
    everyone, one, nobody = np.ones(N, "f4"), np.eye(N, dtype="f4")[0], np.zeros(N, "f4")
    for name, x in embeddings.items():
        for where in everyone, one:
            for leaf in jax.tree.leaves(step(case.fn)(x, y, p, where)):
                assert np.isfinite(leaf).all(), name
    nobody = step(case.fn)(e, y, p, nobody)
    close(nobody, jax.tree.map(jnp.zeros_like, nobody), atol=0)


@cases(quick=FEW + " center nca")
@pytest.mark.parametrize("n", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tiny_batches_have_finite_values(case, n):
    e, y = batch()
    p = params(case)
    value, grads = step(case.fn)(e[:n], y[:n], p)
    chex.assert_tree_all_finite((value, grads))
    if n == 0 or not (p or case.inputs or case.call):
        assert value == 0 and not any(g.any() for g in jax.tree.leaves(grads))


@cases(quick="contrastive arcface circle")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision_is_computed_with_in_single(case, dtype):
    e, y = batch(dtype=dtype)
    p = params(case, dtype)
    value, grads = step(case.fn)(e, y, p)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (e, p))
    want, want_grads = step(case.fn)(single[0], y, single[1])
    close(value, want)
    grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
    close(grads, want_grads, rtol=1e-2, atol=1e-3)
    chex.assert_tree_all_finite(step(case.fn)(jnp.zeros_like(e), y, p))


@cases(quick=REPRESENTATIVE + " circle nca ntxent")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_terms_are_single_precision_and_gradients_have_the_dtype_of_the_input(case, dtype):
    e, y = batch(dtype=dtype)
    p = params(case, dtype)
    total = lambda e, p: mj.reduce(case.fn(e, y, *p))[0]
    terms, value, grads = jax.eval_shape(
        lambda e, p: (
            [*map(slab_of, case.fn(e, y, *p).values())],
            *jax.value_and_grad(total, (0, 1))(e, p),
        ),
        *(e, p),
    )
    assert {x.dtype for x in jax.tree.leaves((terms, value))} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}


def slab_of(term):
    """Values and weights of a term; of a streamed one those of its first slab."""
    while isinstance(term, StreamedTerm):
        term = term.stream.slab(jnp.int32(0))[term.name]
    return term.values, term.weights


@cases(quick="nca triplet_margin")
def test_padding_is_the_shorter_batch_whatever_it_holds(case):
    e, y = batch()
    p = params(case)
    real = jnp.arange(N) % 3 > 0
    want, (want_e, want_p) = step(case.fn)(e[real], y[real], p)
    masks = (real, real.astype(jnp.float32)) if str(case) in FEW.split() else (real,)
    for junk in (7.0, jnp.nan, jnp.inf):
        x = jnp.where(real[:, None], e, junk)
        for where in masks:
            got, (got_e, got_p) = step(case.fn)(x, y, p, where)
            close((got, got_e[real], got_p), (want, want_e, want_p))
            assert not got_e[~real].any()


@every_loss
def test_a_nan_embedding_stays_visible(case):
    e, y = batch()
    assert np.isnan(step(case.fn)(e.at[0].set(jnp.nan), y, params(case))[0])


@cases(quick=FEW)
def test_a_nan_embedding_stays_visible_to_other_reducers(case):
    e, y = batch()
    p = params(case)
    reducers = mj.reducers.avg_non_zero, mj.reducers.mean
    run = jax.jit(lambda e: [mj.reduce(case.fn(e, y, *p), r)[0] for r in reducers])
    assert np.isnan(run(e.at[0].set(jnp.nan))).all()


@functools.cache
def against_refs(case):
    """``{what: (loss, the same loss said otherwise)}`` of batches with references."""
    e, y = batch()
    twice = jnp.concatenate([jnp.arange(N), jnp.arange(3)])
    w = jnp.ones(N).at[:3].set(2)
    refs = mj.Refs(e[::-1], case.ids(y[::-1]))
    copies = mj.Refs(refs.embeddings[twice], refs.labels[twice])
    weights = jnp.ones(N).at[4].set(2).at[5].set(0)
    batch_again = mj.Refs(e, case.ids(y), jnp.arange(N), weights)

    @jax.jit
    def run(e):
        once = lambda refs, e=e, y=y, **o: mj.reduce(case.fn(e, y, refs=refs, **o))[0]
        out = {"batch": (once(batch_again, where=weights), once(None, where=weights))}
        if not case.ordered:
            out["refs"] = once(refs._replace(where=w)), once(copies)
            out["anchors"] = once(refs, where=w), once(refs, e[twice], y[twice])
        return out

    return run(e)


WITH_REFS = "contrastive instance"


@cases(lambda c: c.takes("refs") and not c.ordered, quick=WITH_REFS)
def test_weights_are_multiplicities(case):
    both = against_refs(case)
    close(*both["refs"])
    close(*both["anchors"])


@cases(lambda c: c.takes("refs"), quick=WITH_REFS)
def test_the_batch_as_references_is_the_batch(case):
    close(*against_refs(case)["batch"])


@cases(lambda c: c.centers and c.takes("mined"), quick="center")
def test_class_losses_count_a_sample_as_often_as_its_weight(case):
    e, y = batch()
    p = params(case)
    once, again = jnp.arange(16), jnp.arange(8)
    twice = jnp.concatenate([once, again])
    got = step(case.fn)(e[once], y[once], p, jnp.ones(16).at[again].set(2))
    want = step(case.fn)(e[twice], y[twice], p)
    close((got[0], got[1][1]), (want[0], want[1][1]))


@cases(quick="contrastive")
def test_values_without_weight_are_zero(case):
    e, y = batch()
    terms = case.fn(e, y, *params(case), where=jnp.arange(N) > 3)
    for term in terms.values():
        term = term.dense()
        assert term.values.shape == term.weights.shape
        assert (jnp.where(term.weights > 0, 0, term.values) == 0).all()
        samples = term.values.ndim and len(term.values) == N
        assert not samples or (term.weights == 0).any()


def float_options(case):
    signature = inspect.signature(case.loss).parameters
    return {n: o.default for n, o in signature.items() if isinstance(o.default, float)}


@cases(float_options, quick=REPRESENTATIVE + " circle nca")
def test_every_float_option_may_be_traced(case):
    e, y = batch()
    p = params(case)
    total = lambda options: mj.reduce(case.fn(e, y, *p, **options))[0]
    slopes = jax.eval_shape(jax.grad(total), float_options(case))
    assert slopes.keys() == float_options(case).keys()


@cases(float_options, quick=MAPPED)
def test_every_float_option_may_be_mapped_over_and_learned(case):
    values, _, slopes, one_by_one = mapped(case)
    for name, slope in slopes.items():
        assert np.isfinite(slope).all()
        assert name in UNMOVED.get(str(case), ()) or (slope != 0).any(), name
    close(values[0], one_by_one[0][0])


VARIANT = {
    "pnp": {"variant": "Ib"},
    "infonce": {"hardness": "in_batch"},
    "w_mse": {"eps": 0.0},  # the table has another default
}
UNMOVED = {  # options that only another variant, or only the next call, looks at
    "pnp": ("alpha",),
    "dynamic_soft_margin": ("min_val", "momentum"),
    "curricularface": ("momentum",),
    "ge2e": ("bias",),
    "magface": ("u_a",),
    "dino": ("teacher_temperature", "momentum"),  # of what the gradient takes as constant
    "swav": ("epsilon",),
    "sogclr": ("temperature", "gamma"),
    "isogclr": ("temperature", "gamma", "rho", "eta", "beta"),
}


@every_loss
def test_a_second_call_does_not_retrace(case):
    e, y = batch()
    p = params(case)
    step(case.fn)(e, y, p)
    before = TRACES[case.fn]
    step(case.fn)(e + 1, y + 1, p)
    assert TRACES[case.fn] == before


BAD_EMBEDDINGS = {
    "1d": (lambda e: e[0], ValueError, r"`embeddings` must have shape \[N, D\], got \(8,\)"),
    "int": (lambda e: e.astype("int32"), TypeError, "`embeddings` must be floating"),
}
BAD_LABELS = {
    "2d": (lambda y: y[:, None], ValueError, r"`labels` must have shape .*got \(24, 1\)"),
    "short": (lambda y: y[:-1], ValueError, r"`labels` must have shape .*got \(23,\)"),
    "float": (lambda y: y.astype("float32"), TypeError, "`labels` must be integer"),
    "none": (lambda y: None, ValueError, "labels"),
}


@cases(lambda c: c.takes("embeddings"), quick=REPRESENTATIVE)
def test_wrong_arguments_raise_at_trace_time(case):
    p = params(case)
    e, y = batch()
    name = f"losses.{case.loss.__name__}"

    def refuses(error, says, e, y, **options):
        with pytest.raises(error, match=f"{name}: .*{says}"):
            jax.eval_shape(lambda e: mj.reduce(case.loss(e, y, *more, **options)), e)

    _, second, *more = (e, *p) if case.call else (*case.data(e, y), *p)
    for change, error, says in BAD_EMBEDDINGS.values():
        refuses(error, says, change(e), second)
    refuses(ValueError, "`where` must have shape", e, second, where=jnp.ones(3))
    if case.takes("labels") and case.loss is not mj.losses.hap:  # whose labels have levels
        for change, error, says in BAD_LABELS.values():
            refuses(error, says, e, change(y))
    if case.takes("mined"):
        refuses(TypeError, "`mined`", e, y, mined=(1, 2))
    if case.takes("refs"):
        refuses(TypeError, "`refs` must be `metricjax.Refs`", e, y, refs=(e, y))
        refuses(ValueError, "must have 8 features", e, y, refs=mj.Refs(e[:, :4], y))


@cases(lambda c: not c.ordered)
def test_order_does_not_matter(case):
    e, y = batch()
    p = params(case)
    order = jax.random.permutation(jax.random.key(2), N)
    value, (grad, of_params) = step(case.fn)(e, y, p)
    close(step(case.fn)(e[order], y[order], p), (value, (grad[order], of_params)))


# --- chunks and devices -----------------------------------------------------------------------


@cases(lambda c: c.whole)
def test_what_does_not_come_apart_says_so(case):
    alone = record_of(case.loss).rows == "pairs"
    why = "takes each row by itself: there is nothing to save" if alone else "needs the whole batch"
    with pytest.raises(ValueError, match=f"chunked: losses.{case} {why}"):
        mj.chunked(case.loss, 7)


@cases(lambda c: not c.whole, quick="contrastive arcface triplet_margin")
def test_chunked_is_dense(case):
    check_chunked(case, 7)


@of_each_kind(lambda c: not c.whole)
def test_chunks_of_one_are_dense(case):
    check_chunked(case, 1)


def check_chunked(case, size):
    e, y = batch()
    p = params(case)
    where = jnp.arange(N) % 5 > 0
    chunked = case.of(mj.chunked(case.loss, size))
    close(step(chunked)(e, y, p, where), step(case.fn)(e, y, p, where))


@cases(lambda c: str(c) in FEW.split() and not c.whole, quick="contrastive")
def test_a_chunk_may_be_larger_than_the_batch(case):
    e, y = batch()
    p = params(case)
    close(step(case.of(mj.chunked(case.loss, 40)))(e, y, p), step(case.fn)(e, y, p))


@of_each_kind(lambda c: c.takes("mined") and not c.whole)  # by default, test_miners_all.py
def test_chunked_takes_whatever_was_mined(case):
    e, y = batch()
    p = params(case)
    loss = mj.chunked(case.loss, 7)
    mined = {
        "pairs": mj.miners.multi_similarity(e, y),
        "rule": mj.miners.triplet_margin(e, y, type_of_triplets="semihard"),
        "list": mj.tuples.random_triplets(jax.random.key(3), y, 5),
    }
    if record_of(case.loss).mined != "tuples" or not case.takes("refs"):
        del mined["pairs"], mined["list"]  # only how often a sample was mined counts
    total = lambda e, m, loss: mj.reduce(loss(e, y, *p, mined=m))[0]
    of = lambda e, m, loss: jax.value_and_grad(total)(e, m, loss)
    both = jax.jit(lambda e: {k: (of(e, m, loss), of(e, m, case.loss)) for k, m in mined.items()})
    for name, (got, want) in both(e).items():
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6, custom_message=name)
        assert want[0] != 0


@of_each_kind(lambda c: not c.whole)  # by default, test_reducers.py
def test_chunked_reduces_and_shows_what_dense_does(case):
    e, y = batch()
    p = params(case)
    weights = jnp.arange(C if case.loss is mj.losses.proxy_anchor else N) / N
    reducers = [
        mj.reducers.sum,
        mj.reducers.avg_non_zero,
        mj.reducers.threshold(low=0.1, high=2.0),
        mj.reducers.class_weighted(weights),
    ]

    def shown(terms):
        return {name: term.dense()[:2] for name, term in terms.items()}  # values and weights

    @functools.partial(jax.jit, static_argnums=1)
    def run(e, loss):
        terms = loss(e, y, *p)
        return [mj.reduce(terms, r) for r in chosen], {} if streamed else shown(terms)

    terms = []
    jax.eval_shape(lambda e: terms.extend(case.fn(e, y, *p).values()), e)
    streamed = any(isinstance(term, StreamedTerm) for term in terms)
    chosen = reducers if streamed else [*reducers, mj.reducers.per_anchor()]
    chunked = case.of(mj.chunked(case.loss, 7))
    close(run(e, chunked), run(e, case.fn))
    if streamed:  # of so many steps as the largest class has members, which a program cannot show
        close(*(shown(loss(e, y, *p)) for loss in (chunked, case.fn)))


@cases(lambda c: c.takes("refs") and not c.whole and c in one_of_each_kind(), quick="circle")
def test_a_large_batch_is_chunked_by_itself(case, monkeypatch):
    e, y = batch()
    p = params(case)
    want = step(case.fn)(e, y, p)
    sizes = {"dense_pairs": N * 5, "chunk_pairs": N * 5, "chunk_rows": 1}
    monkeypatch.setattr(tuning, "CPU", dataclasses.replace(tuning.CPU, **sizes))
    total = lambda e, p: mj.reduce(case.fn(e, y, *p, where=jnp.ones(N)))[0]
    close(jax.jit(jax.value_and_grad(total, (0, 1)))(e, p), want)
    terms = []
    jax.eval_shape(lambda e: terms.extend(case.fn(e, y).values()), e)
    assert all(isinstance(t, StreamedTerm) or not t.values.ndim for t in terms)


def mesh(kind):
    return jax.make_mesh((8,), ("batch",), axis_types=(kind,))


@of_each_kind(lambda c: c.takes("refs", "mined"))  # by default, tests/test_layouts.py
def test_sharded_references_and_mined_tuples_are_one_device(case):
    e, y = batch()

    def total(e, y):
        refs = mj.Refs(e, y, jnp.arange(N), (jnp.arange(N) % 5 > 0).astype(e.dtype))
        rule = mj.miners.triplet_margin(e, y, refs=refs, type_of_triplets="semihard")
        some = mj.tuples.random_triplets(jax.random.key(3), y, 3)
        losses = case.fn(e, y, refs=refs, mined=rule), case.fn(e, y, mined=some, where=y > 0)
        return sum(mj.reduce(terms)[0] for terms in losses)

    want = jax.jit(jax.value_and_grad(total))(e, y)
    m = mesh(AxisType.Explicit)
    with jax.set_mesh(m):
        put = lambda x: jax.device_put(x, NamedSharding(m, jax.P("batch")))
        got = jax.jit(jax.value_and_grad(total))(put(e), put(y))
    close(jax.device_get(got), want)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["ntxent", "lifted_structure"])
def test_views_on_each_device_are_one_device(name, symmetric):
    e, _ = batch()
    views = e, e[:, ::-1], jnp.cos(e)

    def total(views, axis_name):
        loss = mj.self_supervised(
            getattr(mj.losses, name), symmetric=symmetric, axis_name=axis_name
        )
        return mj.reduce(loss(*views, where=views[0][:, 0] > -1), axis_name=axis_name)[0]

    run = jax.shard_map(
        lambda views: total(views, "batch"),
        mesh=mesh(AxisType.Auto),
        in_specs=jax.P("batch"),
        out_specs=jax.P(),
    )
    got = jax.jit(jax.value_and_grad(run))(views)
    close(got, jax.jit(jax.value_and_grad(lambda views: total(views, None)))(views), atol=1e-5)


def test_losses_without_labels_per_device_say_so():
    with pytest.raises(ValueError, match="objective: losses.manifold .* cannot gather"):
        mj.objective(mj.losses.manifold, axis_name="batch")


# --- modules ----------------------------------------------------------------------------------


@cases(lambda c: c.centers and c.takes("labels"), quick="arcface center")
def test_the_module_is_the_pure_function(case):
    e, y = batch()
    head = case.module(C, D, rngs=nnx.Rngs(0))
    w = head.weights[...]
    assert w.shape == (C * case.centers, D)
    fixed = case.loss.keywords if isinstance(case.loss, functools.partial) else {}
    pure, same = case.loss, chex.assert_trees_all_equal
    if (first := getattr(case.module, "first_state", None)) is not None:
        state = jax.tree.map(jnp.float32, first(C))
        pure = lambda *args, **options: case.loss(*args, state=state, **options)[0]
        same = close  # what is traced in one is constant in the other

    def run(loss, *params, **options):
        graph, *state = nnx.split(loss) if isinstance(loss, nnx.Module) else (None,)

        def fn(e, *params):  # a state is changed in the function that it is given to
            made, rest = (nnx.merge(graph, *params), ()) if state else (loss, params)
            return made(*case.data(e, y), *rest, **fixed, **options)

        return jax.jit(fn)(e, *(state or params))

    same(run(head), run(pure, w))
    for options in case.options[:1]:
        changed = case.module(C, D, **options, rngs=nnx.Rngs(0))
        want = run(pure, w, **options)
        same(run(changed), want)
        same(run(head, **options), want)
