"""Derivatives other than the gradient, in float64: forward mode and Hessian-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, D, N, one_of_each_kind

import metricjax as mj
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.record import record_of

QUICK = {
    "dense": ["cosface"],
    "in blocks": [],
    "in blocks of references": [],
}
LAYOUTS = {
    "dense": lambda case: case.fn,
    "in blocks": lambda case: case.of(mj.chunked(case.loss, 7)),
    "in blocks of references": lambda case: mj.chunked(case.loss, 7, 5),
}
STEP = 1e-6
"""Of finite differences: their error is about 1e-9 of a gradient of size 1 in float64."""


TOGETHER = 5
"""Losses in one program, which compiles in half of the time of as many programs."""


def rows():
    """Every loss at once, and one of each kind in blocks; a few are quick."""
    comes_apart = {
        "dense": lambda case: True,
        "in blocks": lambda case: not case.whole,
        "in blocks of references": lambda case: record_of(case.loss).ring,
    }
    for layout in LAYOUTS:
        swept = CASES if layout == "dense" else one_of_each_kind()
        have = [case for case in swept if comes_apart[layout](case)]
        quick = [case for case in have if str(case) in QUICK[layout]]
        others = [case for case in have if case not in quick]
        for case in quick:
            yield pytest.param((case,), layout, id=f"{case}-{layout}")
        for first in range(0, len(others), TOGETHER):
            some = tuple(others[first : first + TOGETHER])
            name = f"{some[0]} to {some[-1]}-{layout}"
            yield pytest.param(some, layout, marks=pytest.mark.slow, id=name)


def along(x, direction):
    """The inner product of two trees."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, direction)
    return jax.tree.reduce(jnp.add, products)


@pytest.mark.parametrize("some, layout", list(rows()))
def test_forward_mode_and_hessian_vector_products(some, layout):
    """The derivatives along a line, and the gradient at three of its points, from one program."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        e = jax.random.normal(keys[0], (N, D), "float64")
        y = jnp.asarray(np.arange(N) * 5 % 7 % 4, jnp.int32)
        at = {str(case): (e, case.params(keys[1], "float64")) for case in some}

        def direction(at):
            leaves, tree = jax.tree.flatten(at)
            each = zip(keys[2:], leaves, strict=False)  # not e: its length changes few losses
            v = [jax.random.normal(key, x.shape, x.dtype) for key, x in each]
            return jax.tree.unflatten(tree, v)

        v = {name: direction(x) for name, x in at.items()}

        def derivatives(case, at, v):
            loss = LAYOUTS[layout](case)

            def total(at):
                return mj.reduce(loss(at[0], y, *at[1], where=jnp.arange(N) % 5 / 2))[0]

            slope = jax.jvp(total, (at,), (v,))[1]
            return slope, *jax.jvp(jax.grad(total), (at,), (v,))

        @jax.jit
        def run(at):
            return {str(c): derivatives(c, at[str(c)], v[str(c)]) for c in some}

        now = run(at)
        moved = lambda t: jax.tree.map(lambda x, v: x + t * v, at, v)
        behind, ahead = (run(moved(t)) for t in (-STEP, STEP))
        for case in some:
            name = str(case)
            slope, here, curvature = now[name]
            np.testing.assert_allclose(
                slope, along(here, v[name]), rtol=1e-9, atol=1e-12, err_msg=name
            )
            if case.detached:  # what is constant in the gradient is constant in its derivative, too
                continue
            differences = jax.tree.map(
                lambda a, b: (b - a) / (2 * STEP), behind[name][1], ahead[name][1]
            )
            for got, want in zip(*map(jax.tree.leaves, (curvature, differences)), strict=True):
                size = np.abs(want).max()
                assert size > 1e-4, name
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * size, err_msg=name)


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
