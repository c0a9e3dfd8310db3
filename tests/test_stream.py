"""Streamed sums and terms: values, gradients, memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj
from metricjax._core.jax_internals import depends
from metricjax._core.stream import StreamedTerm, sum_over

A = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)


def parts(a, b, k):
    mask = jnp.arange(6.0) > k
    return {"x": jnp.sum(jnp.where(mask, jnp.sin(a * (k + 1)), 0) * b), "y": jnp.sum(a, 0) * k}


def total(out):
    return out["x"] + jnp.sum(out["y"] ** 2)


def streamed(a, b, count):
    return sum_over(lambda k: parts(a, b, k.astype(jnp.float32)), count)


def looped(a, b, count):
    return jax.tree.map(lambda *x: sum(x), *(parts(a, b, jnp.float32(k)) for k in range(count)))


@pytest.mark.parametrize("count", [1, 4])
def test_a_streamed_sum_is_the_loop(count):
    b = jnp.float32(0.7)
    got, want = (jax.jit(f, static_argnums=2)(A, b, count) for f in (streamed, looped))
    chex.assert_trees_all_close(got, want, rtol=1e-5)
    got = jax.jit(jax.grad(lambda a, b, n: total(streamed(a, b, n)), (0, 1)))(A, b, count)
    want = jax.jit(jax.grad(lambda a, b: total(looped(a, b, count)), (0, 1)))(A, b)
    chex.assert_trees_all_close(got, want, rtol=1e-4)


DERIVATIVES = {
    "jvp": lambda f: lambda a: jax.jvp(f, (a,), (A,)),
    "linearize": lambda f: lambda a: jax.linearize(f, a)[1](A),
    "forward over reverse": lambda f: lambda a: jax.jvp(jax.grad(f), (a,), (A,)),
    "reverse over forward": lambda f: jax.grad(lambda a: jax.jvp(f, (a,), (A,))[1]),
    "reverse over reverse": lambda f: jax.grad(lambda a: jnp.vdot(jax.grad(f)(a), A)),
    "hessian, mapped over": lambda f: lambda a: jax.vmap(jax.hessian(f))(a[None, :2, :2]),
    "third": lambda f: jax.grad(lambda a: jax.jvp(jax.grad(f), (a,), (A,))[1][0, 0]),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("third", "linearize") else [])
        for name in DERIVATIVES
    ],
)
@pytest.mark.parametrize(
    "outputs",
    [slice(0, 2), pytest.param(slice(0, 4), marks=pytest.mark.slow)],
    ids=["one number", "more"],
)
def test_a_streamed_sum_has_the_derivatives_of_the_loop(name, outputs):
    def part(a, k):
        values = jnp.sin(a * (k + 1))
        out = jnp.sum(values), jnp.sum((a > 0).astype(a.dtype)), jnp.sum(a**3, 0), k
        return out[outputs]

    def of(sums):
        x, count, *more = sums
        return x * x / count + sum(jnp.sum(x**2) for x in more)

    derivative = DERIVATIVES[name]
    got = lambda a: of(sum_over(lambda k: part(a, k.astype(a.dtype)), 3))
    want = lambda a: of(sum(x) for x in zip(*(part(a, float(k)) for k in range(3)), strict=True))
    args = jnp.cos(A)
    pair = jax.jit(lambda a: (derivative(got)(a), derivative(want)(a)))(args)
    chex.assert_trees_all_close(*pair, rtol=1e-4, atol=1e-4)


def test_nothing_to_add_is_zero_with_zero_gradient():
    run = jax.jit(jax.value_and_grad(lambda a: total(streamed(a, jnp.float32(1), 0))))
    value, grad = jax.device_get(run(A))
    assert value == 0 and not grad.any()


def test_a_streamed_sum_may_be_mapped_over_and_nested():
    inner = lambda a, k: sum_over(lambda j: jnp.sum(a) * (j + k).astype(jnp.float32), 3)
    outer = lambda a: sum_over(lambda k: inner(a * a, k), 4)
    want = lambda a: jnp.sum(a * a) * 30
    got = jax.jit(jax.vmap(jax.value_and_grad(outer)))(A)
    chex.assert_trees_all_close(got, jax.vmap(jax.value_and_grad(want))(A), rtol=1e-5)
    counts = jnp.array([0, 1, 4])
    got = jax.vmap(lambda n: total(streamed(A, jnp.float32(1), n)))(counts)
    want = [0.0] + [float(total(looped(A, jnp.float32(1), n))) for n in (1, 4)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_integers_and_unasked_outputs_have_no_gradient():
    def of(a):
        out = sum_over(lambda k: (jnp.sum(a) * k.astype(jnp.float32), k, a), 3)
        return out[0]

    chex.assert_trees_all_close(jax.grad(of)(A), jnp.full_like(A, 3.0))


def loops(fn):
    return jax.jit(fn).lower(A).as_text().count("stablehlo.while")


def share(a, k):
    """A number with a derivative, and one without."""
    k = k.astype(a.dtype)
    values = jnp.sin(a * (k + 1))
    return jnp.sum(values), jnp.sum((values > 0).astype(a.dtype))


def mean(a, count=4):
    x, positive = sum_over(lambda k: share(a, k), count)
    return x / positive


def test_the_gradient_of_a_single_number_is_added_up_along_with_it():
    def want(a):
        x, positive = zip(*(share(a, jnp.int32(k)) for k in range(4)), strict=True)
        return sum(x) / sum(positive)

    nested = lambda a: sum_over(lambda k: mean(a * (k + 1).astype(a.dtype)), 1)
    for fn in (mean, nested):
        got = jax.jit(jax.value_and_grad(fn))(A)
        chex.assert_trees_all_close(got, jax.jit(jax.value_and_grad(want))(A), rtol=1e-5)
    assert loops(jax.grad(mean)) == 1
    assert loops(jax.grad(lambda a: total(streamed(a, jnp.float32(1), 4)))) == 2
    half = jax.grad(lambda a: mean(a.astype(jnp.bfloat16)).astype(a.dtype))
    assert loops(half) == 2  # or a sum of many would be rounded, and in float16 not finite


@pytest.mark.slow
def test_chunks_of_half_precision_add_up_in_single():
    y = jnp.array([0, 0, 1, 1])
    loss = lambda a: mj.reduce(mj.chunked(mj.losses.ntxent, 1)(a.astype(jnp.bfloat16), y))[0]
    assert loops(jax.grad(loss)) == 1
    dense = lambda a: mj.reduce(mj.losses.ntxent(a, y))[0]
    want = jax.jit(jax.grad(dense))(A.astype(jnp.bfloat16).astype(jnp.float32))
    chex.assert_trees_all_close(jax.jit(jax.grad(loss))(A), want, rtol=0.02, atol=0.02)


def test_a_number_that_no_one_asked_for_has_no_gradient():
    unasked = lambda a: sum_over(lambda k: share(a, k), 4)[1] + jnp.sum(a)
    chex.assert_trees_all_equal(jax.grad(unasked)(A), jnp.ones_like(A))


def test_every_device_has_its_own_cotangent():
    def run(scale, a, factor):
        def weighted(scale):
            x = sum_over(lambda k: jnp.sum(jnp.sin(scale * a)) * k.astype(a.dtype), 3)
            return jax.lax.psum(jnp.sum(factor) * x, "x")

        return jax.value_and_grad(weighted)(scale)

    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = jax.P(), jax.P("x"), jax.P("x")
    got = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=jax.P()))
    factor = jnp.arange(4.0)
    whole = lambda scale: 3 * jnp.sum(factor[:, None] * jnp.sin(scale * A))
    want = jax.value_and_grad(whole)(jnp.float32(0.7))
    chex.assert_trees_all_close(got(jnp.float32(0.7), A, factor), want, rtol=1e-5)


@jax.custom_jvp
def straight_through(x):
    return jnp.sign(x).astype(jnp.int32).astype(x.dtype)


straight_through.defjvp(lambda x, dx: (straight_through(*x), dx[0]))


def test_what_a_derivative_flows_to():
    def fn(a, b):
        inner = sum_over(lambda k: share(a, k) + (b,), 3)
        return (a, a > 0, *inner, jax.lax.stop_gradient(a), straight_through(a), b)

    jaxpr = jax.make_jaxpr(fn)(A, A).jaxpr
    assert depends(jaxpr, [True, False]) == [True, False, True, False, False, False, True, False]
    assert depends(jaxpr, [False, True]) == [False] * 4 + [True, False, False, True]


def test_what_no_step_changes_is_computed_once():
    def fn(a, k):
        scale = jnp.sum(jnp.cos(a))
        grid = jnp.exp(a[0][:, None] + a[1][None, :])  # larger than a
        return jnp.sum(grid * jnp.sin(a[2])[None, :] * scale * k.astype(a.dtype))

    run = jax.value_and_grad(lambda a: sum_over(lambda k: fn(a, k), 3))
    want = jax.jit(jax.value_and_grad(lambda a: fn(a, jnp.int32(3))))(A)
    chex.assert_trees_all_close(jax.jit(run)(A), want, rtol=1e-5)
    calls = [e for e in jax.make_jaxpr(run)(A).eqns if e.primitive.name == "custom_jvp_call"]
    inner = (e for call in calls for e in call.params["call_jaxpr"].eqns)
    (loop,) = (e for e in inner if e.primitive.name == "while")
    inside = str(loop.params["body_jaxpr"])
    assert "cos" not in inside and "sin" not in inside and "exp" in inside


def test_terms_of_one_stream_share_one_pass():
    calls = []

    def loss(e, y, *, refs=None, where=None):
        calls.append(1)
        return mj.losses.contrastive(e, y, refs=refs, where=where)

    @jax.jit
    def run(a):
        terms = mj.chunked(loss, 2)(a, jnp.array([0, 0, 1, 1]))
        traced = len(calls)
        total, _ = mj.reduce(terms)
        assert len(calls) - traced == 1
        return total

    run(A)


@pytest.mark.slow
def test_dense_shows_every_triplet():
    y = jnp.array([0, 0, 0, 1])
    term = mj.losses.triplet_margin(A, y, margin=5.0)["loss"]
    assert isinstance(term, StreamedTerm)
    shown = term.dense()
    assert shown.values.shape == (4, 2, 4)
    triplets = [(a, p, n) for a in range(3) for p in range(3) for n in [3] if p != a]
    assert shown.weights.sum() == shown.divisor == len(triplets)
    d = jax.device_get(jax.jit(mj.distances.LpDistance())(A))
    want = sorted(float(d[a, p] - d[a, n] + 5) for a, p, n in triplets)
    got = sorted(np.asarray(shown.values)[np.asarray(shown.weights) > 0])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_triplets_cannot_be_averaged_by_anchor():
    y = jnp.array([0, 0, 1, 1])
    run = lambda a, mined: mj.reduce(
        mj.losses.triplet_margin(a, y, mined=mined), mj.reducers.per_anchor()
    )
    listed = jax.jit(mj.tuples.random_triplets, static_argnums=2)(jax.random.key(0), y, 2)
    for mined in (None, listed):
        with pytest.raises(ValueError, match="per_anchor.*does not hold whole rows"):
            jax.eval_shape(run, A, mined)


@pytest.mark.slow
@pytest.mark.parametrize("n, limit", [(512, 12), (2048, 192)])
@pytest.mark.optimized
def test_triplets_take_a_few_matrices_of_memory(n, limit):
    x, y = jnp.zeros((n, 128)), jnp.arange(n) // 4
    for loss in (mj.losses.triplet_margin, mj.losses.triplet_margin.__wrapped__):
        step = jax.value_and_grad(lambda x, loss=loss: mj.reduce(loss(x, y))[0])
        temporaries = jax.jit(step).lower(x).compile().memory_analysis().temp_size_in_bytes
        assert temporaries <= limit * 2**20
