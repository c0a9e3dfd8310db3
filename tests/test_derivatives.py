"""Derivatives other than the gradient, in float64: forward mode and Hessian-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, D, N

import metricjax as mj
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.record import record_of

QUICK = {
    "dense": ["cosface"],
    "in blocks": ["contrastive"],
    "in blocks of references": [],
}
LAYOUTS = {
    "dense": lambda case: case.fn,
    "in blocks": lambda case: case.of(mj.chunked(case.loss, 7)),
    "in blocks of references": lambda case: mj.chunked(case.loss, 7, 5),
}
STEP = 1e-6
"""Of finite differences: their error is about 1e-9 of a gradient of size 1 in float64."""


def rows():
    """Every loss in every layout; a few of them are quick, for each compiles for seconds."""
    for case in CASES:
        for layout in LAYOUTS:
            record = record_of(case.loss)
            has = {"dense": True, "in blocks": not case.whole}.get(layout, record.ring)
            if has:
                slow = str(case) not in QUICK[layout]
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(case, layout, marks=marks, id=f"{case}-{layout}")


def along(x, direction):
    """The inner product of two trees."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, direction)
    return jax.tree.reduce(jnp.add, products)


@pytest.mark.parametrize("case, layout", list(rows()))
def test_forward_mode_and_hessian_vector_products(case, layout):
    """The derivatives along a line, and the gradient at three of its points, from one program."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        e = jax.random.normal(keys[0], (N, D), "float64")
        y = jnp.asarray(np.arange(N) * 5 % 7 % 4, jnp.int32)
        at = e, case.params(keys[1], "float64")
        leaves, tree = jax.tree.flatten(at)
        directions = zip(keys[2:], leaves, strict=False)  # not e: its length changes few losses
        v = [jax.random.normal(key, x.shape, x.dtype) for key, x in directions]
        v = jax.tree.unflatten(tree, v)
        loss = LAYOUTS[layout](case)

        def total(at):
            return mj.reduce(loss(at[0], y, *at[1], where=jnp.arange(N) % 5 / 2))[0]

        @jax.jit
        def run(at):
            slope = jax.jvp(total, (at,), (v,))[1]
            return slope, *jax.jvp(jax.grad(total), (at,), (v,))

        slope, here, curvature = run(at)
        np.testing.assert_allclose(slope, along(here, v), rtol=1e-9, atol=1e-12)
        if case.detached:  # what is constant in the gradient is constant in its derivative, too
            return
        moved = lambda t: jax.tree.map(lambda x, v: x + t * v, at, v)
        behind, ahead = (run(moved(t))[1] for t in (-STEP, STEP))
        differences = jax.tree.map(lambda a, b: (b - a) / (2 * STEP), behind, ahead)
        for got, want in zip(*map(jax.tree.leaves, (curvature, differences)), strict=True):
            size = np.abs(want).max()
            assert size > 1e-3
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("plus_one", [False, True])
def test_the_hessian_of_a_log_sum_of_exponentials(plus_one):
    x = jnp.array([0.3, -1.0, 0.3, 2.0])  # the largest is a tie with itself
    weights = jnp.array([1.0, 2.0, 0.0, 0.5])
    with jax.enable_x64(True):
        x, weights = x.astype("float64"), weights.astype("float64")
        got = jax.jit(jax.hessian(lambda x: logsumexp(x, weights, plus_one=plus_one)))(x)
        p = weights * jnp.exp(x) / (jnp.sum(weights * jnp.exp(x)) + float(plus_one))
        np.testing.assert_allclose(got, jnp.diag(p) - jnp.outer(p, p), atol=1e-12)


def test_the_second_derivative_of_softplus_at_its_kink():
    """It is computed from the absolute value, which has a kink at 0."""
    np.testing.assert_allclose(jax.grad(jax.grad(softplus))(0.0), 0.25, rtol=1e-6)
