"""What `_core.jax_internals` relies on in JAX: a test for each part that JAX does not document."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Literal
from jax.sharding import AxisType

import metricjax as mj
from metricjax._core import jax_internals as inner
from metricjax._core.stream import sum_over

A = jnp.arange(6.0).reshape(2, 3)
Y = jnp.arange(12) // 4
X = jnp.sin(jnp.arange(60.0)).reshape(12, 5)


def equation(fn, *args):
    """The one equation of a function."""
    (eqn,) = jax.make_jaxpr(fn)(*args).jaxpr.eqns
    return eqn


def test_names_and_parameters_of_the_primitives_that_are_matched():
    assert equation(jax.lax.stop_gradient, A).primitive.name == "stop_gradient"

    call = equation(jax.jit(jnp.sin), A)
    assert call.primitive.name == "jit"
    assert len(call.params["jaxpr"].jaxpr.invars) == len(call.invars) == 1

    # conditions read `limit`, steps read `step`: constants first, the condition's before the body's
    limit, step = jnp.float32(9), jnp.float32(2)
    run = lambda limit, step, x: jax.lax.while_loop(
        lambda x: x < limit, lambda x: x + step * step, x
    )
    loop = equation(run, limit, step, A[0, 0])
    assert loop.primitive.name == "while"
    assert loop.params["cond_nconsts"] == loop.params["body_nconsts"] == 1
    assert len(loop.params["body_jaxpr"].jaxpr.invars) == 2
    assert len(loop.invars) == 3


def test_a_streamed_sum_is_known_by_its_name():
    eqn = next(
        e
        for e in jax.make_jaxpr(lambda a: sum_over(lambda k: jnp.sum(a), 3))(A).jaxpr.eqns
        if "call_jaxpr" in e.params
    )
    assert eqn.primitive.name == "custom_jvp_call"
    name = eqn.params["call_jaxpr"].jaxpr.debug_info.func_src_info.split(" ")[0]
    assert name == inner.SEEN_THROUGH
    assert len(eqn.params["call_jaxpr"].jaxpr.invars) == len(eqn.invars)


def test_jaxprs_keep_what_is_closed_over_as_constants_and_run():
    closed = jax.make_jaxpr(lambda k: A * k + 1)(2.0)
    assert [x.shape for x in closed.consts] == [A.shape]
    assert [v.aval.shape for v in closed.jaxpr.constvars] == [A.shape]
    assert any(isinstance(v, Literal) for e in closed.jaxpr.eqns for v in e.invars)
    assert not any(e.effects for e in closed.jaxpr.eqns)
    (out,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, 2.0)
    assert (out == A * 2 + 1).all()


def test_traced_arrays_that_are_closed_over_are_constants_too():
    def of(a):
        explicit, closed_over = inner.hoist(lambda k: jnp.sum(jnp.sin(a)) * k, jnp.float32(0))
        assert [x.shape for x in closed_over] == [()]  # the sine and its sum are done before
        rest = jax.make_jaxpr(explicit)(jnp.float32(0), *closed_over).jaxpr
        assert [e.primitive.name for e in rest.eqns] == ["mul"]
        return explicit(2.0, *closed_over)

    assert jnp.allclose(jax.grad(of)(A), 2 * jnp.cos(A))


def test_derivatives_are_followed_through_calls_loops_and_sums():
    def fn(a, b):
        _, looped, other = jax.lax.while_loop(
            lambda c: c[0] < 3,
            lambda c: (c[0] + 1, c[1] + c[2], c[2] * 1),
            (0, b, jax.jit(jnp.sin)(a)),
        )
        summed = sum_over(lambda k: (jnp.sum(a), jnp.sum(b)), 3)
        return looped, other, *summed, jax.lax.stop_gradient(a), jnp.argmax(a)

    jaxpr = jax.make_jaxpr(fn)(A, A).jaxpr
    assert inner.depends(jaxpr, [True, False]) == [True, True, True, False, False, False]
    assert inner.depends(jaxpr, [False, True]) == [True, False, False, True, False, False]


def seen(**options):
    """What `varying` says of a mapped array, one that is alike on all devices, and their sum."""
    found = {}

    def run(x, shared):
        types = {"mapped": x, "shared": shared, "sum": jax.eval_shape(jnp.add, x, shared)}
        found.update(
            {n: inner.varying(t if n == "sum" else jax.typeof(t)) for n, t in types.items()}
        )
        return x

    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    specs = jax.P("rows"), jax.P()
    jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=jax.P("rows"), **options)(A, A[:1])
    return found


def test_types_say_over_which_axes_they_vary():
    rows, nothing = {"rows"}, set()
    assert seen() == {"mapped": rows, "shared": nothing, "sum": rows}
    assert seen(check_vma=False) == {"mapped": nothing, "shared": nothing, "sum": nothing}
    assert inner.varying(jax.typeof(A)) == inner.varying(jax.eval_shape(jnp.sin, A)) == nothing


def test_tangents_of_what_does_not_move_are_symbolic_on_both_sides_of_a_rule():
    found = []

    @jax.custom_jvp
    def both(x, y):
        return x * 2, y * 2

    def rule(primals, tangents):
        found.extend(isinstance(t, inner.SymbolicZero) for t in tangents)
        x, y = both(*primals)
        return (x, y), (tangents[0] * 2, inner.no_slope(y))

    def outer(x, y):
        inner = both(x, y)
        return both(*inner)[0]

    both.defjvp(rule, symbolic_zeros=True)
    assert jax.grad(outer)(1.0, jnp.int32(2)) == 4
    assert found == [False, True] * 2


def loops(fn):
    """How many loops with floating sums there are: walks along positives have integers only."""
    lines = jax.jit(fn).lower(X).as_text().splitlines()
    return sum("stablehlo.while" in line and "f32" in line.split(":")[-1] for line in lines)


@pytest.mark.parametrize(
    "name, count",
    [
        ("multi_similarity", 1),
        ("ntxent", 1),
        ("triplet_margin", 2),  # chunks, and the triplets of each
        ("smooth_ap", 3),  # chunks, and the precision of each anchor: once forward, once backward
    ],
)
def test_a_streamed_loss_takes_one_loop_for_value_and_gradient(name, count):
    """Twice as many are what a sum falls back to where a derivative is misread."""
    loss = mj.chunked(getattr(mj.losses, name), 4)
    assert loops(jax.value_and_grad(lambda x: mj.reduce(loss(x, Y))[0])) == count
