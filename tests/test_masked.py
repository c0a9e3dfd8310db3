"""Guarded arithmetic: the right value, a finite gradient at the edges, and a NaN stays a NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricjax._core.masked import (
    logsumexp,
    safe_abs,
    safe_divide,
    safe_norm,
    safe_power,
    safe_sqrt,
    softplus,
    upcast,
)

NAN, INF = float("nan"), float("inf")


def power(p):
    return functools.partial(safe_power, power=p)


@pytest.mark.parametrize(
    ("function", "x", "value", "gradient"),
    [
        (safe_sqrt, 4.0, 2.0, 0.25),
        (safe_sqrt, 0.0, 0.0, 0.0),
        (safe_sqrt, -1.0, 0.0, 0.0),
        (safe_sqrt, NAN, NAN, NAN),
        (safe_abs, -2.0, 2.0, -1.0),
        (safe_abs, 0.0, 0.0, 0.0),
        (safe_abs, 3.0, 3.0, 1.0),
        (safe_abs, -INF, INF, -1.0),
        (safe_abs, NAN, NAN, NAN),
        (power(1), 3.0, 3.0, 1.0),
        (power(1), NAN, NAN, 1.0),
        (power(2), 3.0, 9.0, 6.0),
        (power(2), 0.0, 0.0, 0.0),
        (power(0.5), 4.0, 2.0, 0.25),
        (power(0.5), 0.0, 0.0, 0.0),
        (power(0.25), 16.0, 2.0, 1 / 32),
        (power(0.25), 0.0, 0.0, 0.0),
        (power(0.25), NAN, NAN, NAN),
        (softplus, 0.0, np.log(2), 0.5),
        (softplus, INF, INF, 1.0),
        (softplus, -INF, 0.0, 0.0),
        (softplus, NAN, NAN, NAN),
    ],
)
def test_scalar_functions(function, x, value, gradient):
    got = jax.value_and_grad(function)(x)
    np.testing.assert_allclose(got, (value, gradient), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_is_accurate(dtype):
    x = np.linspace(-80, 80, 20001).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        got, slope = jax.vmap(jax.value_and_grad(softplus))(jnp.asarray(x))
    assert got.dtype == slope.dtype == dtype
    x = x.astype(np.longdouble)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), rtol=tolerance)
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-x)), rtol=tolerance)


@pytest.mark.parametrize(
    ("total", "count", "value", "gradients"),
    [
        (6.0, 3.0, 2.0, (1 / 3, -2 / 3)),
        (6.0, -3.0, -2.0, (-1 / 3, -2 / 3)),
        (5.0, 0.0, 0.0, (0.0, 0.0)),
        (0.0, 0.0, 0.0, (0.0, 0.0)),
        (NAN, 2.0, NAN, (0.5, NAN)),
        (NAN, 0.0, NAN, (0.0, 0.0)),
        (1.0, NAN, NAN, (NAN, NAN)),
    ],
)
def test_safe_divide(total, count, value, gradients):
    got = jax.value_and_grad(safe_divide, (0, 1))(jnp.float32(total), jnp.float32(count))
    np.testing.assert_allclose(got[0], value, rtol=1e-6)
    np.testing.assert_allclose(got[1], gradients, rtol=1e-6)


@functools.cache
def norm(p):
    """The norms of the rows, and the gradient of their sum."""
    return jax.jit(lambda x: (safe_norm(x, p), jax.grad(lambda x: jnp.sum(safe_norm(x, p)))(x)))


ROWS = np.array([[3, -4, 0], [0, 0, 0], [1, 2, -2], [0, 0, -7], [0.5, 0.25, 2]], np.float32)


@pytest.mark.parametrize("p", [0, 0.5, 1, 2, 3, INF])
def test_norm_equals_numpy(p):
    values, gradient = norm(p)(ROWS)
    np.testing.assert_allclose(values, np.linalg.norm(ROWS, p, -1), rtol=1e-5)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[1] == 0)  # a zero row
    assert np.all(gradient[ROWS == 0] == 0)  # a zero entry


@pytest.mark.parametrize(
    ("p", "gradient"),
    [
        (0, [0, 0, 0]),
        (1, [1, 1, -1]),
        (2, [1 / 3, 2 / 3, -2 / 3]),
        (3, np.array([1, 4, -4]) / 17 ** (2 / 3)),
        (INF, [0, 0.5, -0.5]),  # shared among the largest
    ],
)
def test_norm_gradient(p, gradient):
    np.testing.assert_allclose(norm(p)(ROWS)[1][2], gradient, rtol=1e-5)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, INF])
def test_norm_shows_nan(p):
    values, _ = norm(p)(ROWS + np.where(np.eye(5, 3) == 1, NAN, 0))
    np.testing.assert_array_equal(np.isnan(values), [True, True, True, False, False])


@pytest.mark.parametrize("p", [0, 1, 2, INF])
def test_norm_of_no_features_is_zero(p):
    np.testing.assert_array_equal(safe_norm(jnp.zeros((2, 0)), p), [0, 0])


X = np.array([[1.0, -2.0, 0.5, 3.0], [40.0, 7.0, -9.0, 2.0], [5.0, 5.0, 5.0, 5.0]], np.float32)
W = np.array([[1, 0, 2, 1], [0, 0.5, 0, 1], [0, 0, 0, 0]], np.float32)


@functools.cache
def lse(axis, plus_one):
    """The value, and the gradient of its sum by x and by the weights."""

    def run(x, weights):
        call = lambda *args: logsumexp(*args, axis=axis, plus_one=plus_one)
        return call(x, weights), jax.grad(lambda *args: jnp.sum(call(*args)), (0, 1))(x, weights)

    return jax.jit(run)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("plus_one", [False, True])
def test_logsumexp_equals_numpy(axis, plus_one):
    value, (by_x, _) = lse(axis, plus_one)(X, W)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = W * np.exp(X, dtype=np.float64)
        total = plus_one + terms.sum(axis)
        expected, share = np.log(total), terms / np.expand_dims(total, axis)
    some, nothing = W.any(axis), 0 if plus_one else -np.inf
    np.testing.assert_allclose(value, np.where(some, expected, nothing), rtol=1e-5, atol=1e-6)
    share = np.where(np.expand_dims(some, axis), share, 0)
    np.testing.assert_allclose(by_x, share, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("plus_one", [False, True])
def test_logsumexp_of_large_values(plus_one):
    value, (by_x, _) = lse(1, plus_one)(1e4 * X, W)
    np.testing.assert_allclose(
        value, [3e4, 7e4 + np.log(0.5), 0 if plus_one else -np.inf], rtol=1e-6
    )
    np.testing.assert_allclose(by_x, [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    value, (by_x, _) = lse(1, plus_one)(-1e4 * np.abs(X), W)
    np.testing.assert_allclose(value[0], 0 if plus_one else np.log(2) - 5e3, rtol=1e-6)
    assert np.all(np.isfinite(by_x))


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 3e38])
def test_logsumexp_ignores_what_has_no_weight(plus_one, bad):
    value, gradients = lse(1, plus_one)(np.where(W == 0, np.float32(bad), X), W)
    expected, expected_gradients = lse(1, plus_one)(np.where(W == 0, np.float32(0), X), W)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradients[0], expected_gradients[0])
    assert np.all(np.isfinite(gradients[1]))


@pytest.mark.parametrize("plus_one", [False, True])
def test_logsumexp_weights_are_multiplicities(plus_one):
    twice = np.float32([[1, 0, 2, 2], [3, 2, 1, 0], [2, 2, 2, 2]])
    value, _ = lse(1, plus_one)(X, twice)
    listed = np.concatenate([np.minimum(np.maximum(twice - k, 0), 1) for k in range(3)], 1)
    expected, _ = lse(1, plus_one)(np.concatenate([X] * 3, 1), listed)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_logsumexp_shows_nan():
    value, _ = lse(1, True)(np.where(np.eye(3, 4) == 1, np.float32(NAN), X), np.ones_like(W))
    assert np.all(np.isnan(value))


@pytest.mark.parametrize("axis", [0, 1])
def test_logsumexp_of_nothing(axis):
    value = logsumexp(jnp.zeros((0, 0)), jnp.zeros((0, 0)), axis=axis)
    assert value.shape == (0,)
    value = logsumexp(jnp.zeros((3, 0)), jnp.zeros((3, 0)), plus_one=True)
    np.testing.assert_array_equal(value, [0, 0, 0])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32")],
)
def test_upcast(dtype, expected):
    assert upcast(jnp.ones(2, dtype)).dtype == expected


def test_upcast_keeps_double():
    with jax.enable_x64(True):
        assert upcast(jnp.ones(2)).dtype == "float64"
    assert upcast(np.ones(2)).dtype == "float32"
