"""Regularizers: worked numbers, gradients at the edges, options, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metricjax import merge, reduce, reducers
from metricjax._core.masked import safe_divide
from metricjax.distances import DotProductSimilarity, LpDistance
from metricjax.regularizers import (
    center_invariant,
    koleo,
    lp,
    regular_face,
    sigreg,
    sparse_centers,
    spherical,
    uniformity,
    zero_mean,
)

partial = functools.partial
INF = float("inf")
DOT = DotProductSimilarity(normalize_embeddings=False)
REGULARIZERS = {
    "koleo": koleo,
    "lp": lp,
    "lp_0": partial(lp, p=0),
    "lp_1": partial(lp, p=1),
    "lp_3": partial(lp, p=3),
    "lp_inf": partial(lp, p=INF),
    "lp_squared": partial(lp, power=2),
    "lp_root": partial(lp, power=0.5),
    "center_invariant": center_invariant,
    "center_invariant_1": partial(center_invariant, p=1),
    "regular_face": regular_face,
    "regular_face_dot": partial(regular_face, distance=DOT),
    "sparse_centers": partial(sparse_centers, centers_per_class=2),
    "sigreg": partial(sigreg, key=np.array([0, 7], np.uint32), directions=4),
    "spherical": spherical,
    "uniformity": uniformity,
    "zero_mean": zero_mean,
}
every_regularizer = pytest.mark.parametrize("name", REGULARIZERS)


def alone(regularizer, x):
    """The reduced value of a regularizer's only term."""
    (term,) = regularizer(x).values()
    assert term.values.shape == ()
    return term.values if term.divisor is None else reduce({"": term})[0]


@jax.jit
def by_all(x, where=None):
    """The value and the gradient of each regularizer."""

    def by(regularizer):
        def ratio(x):  # kept in the dtype of the term
            (term,) = regularizer(x, where=where).values()
            return safe_divide(term.values, term.divisor)

        return jax.value_and_grad(ratio)(x)

    return {name: by(f) for name, f in REGULARIZERS.items() if len(x) != 1 or "sparse" not in name}


ROWS = np.array([[3, 4], [1, 0], [0, 2]], np.float32)
CENTERS = np.array([[1, 0], [0, 2], [0, 3], [-1, 0]], np.float32)
sparse = partial(sparse_centers, centers_per_class=2)


@pytest.mark.parametrize(
    ("regularizer", "rows", "expected"),
    [
        (lp, ROWS, 8 / 3),
        (partial(lp, p=0), ROWS, 4 / 3),
        (partial(lp, p=1), ROWS, 10 / 3),
        (partial(lp, p=INF), ROWS, 7 / 3),
        (partial(lp, power=2), ROWS, 10),
        (partial(lp, power=0.5), ROWS, (5**0.5 + 1 + 2**0.5) / 3),
        (partial(lp, p=1, power=2), ROWS, 18),
        (partial(lp, weight=0.5), ROWS, 4 / 3),
        (partial(lp, reducer=reducers.sum), ROWS, 8),
        (partial(lp, reducer=reducers.threshold(low=1)), ROWS, 3.5),
        (partial(lp, reducer=reducers.threshold(low=9)), ROWS, 0),
        (partial(lp, reducer=reducers.divisor), ROWS, 8 / 3),
        (center_invariant, ROWS, 28.5),
        (partial(center_invariant, p=1), ROWS, 120.5),
        (regular_face, ROWS, 11 / 15),
        (partial(regular_face, distance=DOT), ROWS, 19 / 3),
        (regular_face, ROWS[:1], 0),
        (sparse, CENTERS, 2**-0.5),
        (partial(sparse, reducer=reducers.mean), CENTERS, 2**0.5),
        (partial(sparse, reducer=reducers.sum), CENTERS, 2**1.5),
        (partial(sparse_centers, centers_per_class=4), CENTERS, (4 * 2**0.5 + 2) / 12),
        (sparse, CENTERS[[0, 3]], 1),
        (zero_mean, np.array([[1, -3], [2, 5]], np.float32), 4.5),
        (partial(zero_mean, reducer=reducers.sum, weight=2), -ROWS, 20),
    ],
)
def test_worked_numbers(regularizer, rows, expected):
    value = jax.jit(partial(alone, regularizer))(rows)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


EDGES = {
    "zero_rows": [[0, 0, 0], [1, 2, -3], [0, 0, 0], [0, 0, 1]],
    "zero": np.zeros((4, 3)),
    "equal_rows": np.tile([[0.3, -0.7, 0.2]], (4, 1)),
    "opposite": [[1, 2, 3], [-1, -2, -3], [1, 2, 3], [-2, -4, -6]],
    "balanced": [[1, -1, 0], [0, 0, 0], [2, -1, -1], [1, 1, 1]],
    "tiny": np.full((4, 3), 1e-30),
    "one_row": [[1, 2, 3]],
    "no_rows": np.zeros((0, 3)),
}


@pytest.mark.parametrize(
    "edge",
    [  # the others have shapes of their own, and so programs
        pytest.param(edge, marks=[] if np.shape(EDGES[edge]) == (4, 3) else [pytest.mark.slow])
        for edge in EDGES
    ],
)
def test_value_and_gradient_are_finite(edge):
    x = np.asarray(EDGES[edge], np.float32)
    for name, (value, gradient) in by_all(x).items():
        assert np.isfinite(value) and np.all(np.isfinite(gradient)), name
        if edge == "no_rows":
            assert value == 0 and gradient.shape == (0, 3), name


@pytest.mark.slow
def test_zero_row_has_zero_gradient():
    for name, (_, gradient) in by_all(np.float32(EDGES["zero_rows"])).items():
        if name not in ("regular_face_dot", "sigreg", "zero_mean"):
            assert not np.any(np.asarray(gradient)[[0, 2]]), name
    assert not np.any(by_all(np.zeros((4, 3), np.float32))["zero_mean"][1])


def test_coinciding_centers_have_zero_gradient():
    x = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    x[1], x[2:4], x[5] = 3 * x[0], x[2], x[4] / 7
    value, gradient = jax.jit(jax.value_and_grad(partial(alone, sparse)))(x)
    assert not np.any(gradient[:6])
    assert np.all(np.any(np.asarray(gradient[6:]) != 0, 1))
    expected = [
        2 - 2 * a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in x.reshape(-1, 2, 64)
    ]
    np.testing.assert_allclose(value, np.sqrt(expected[3:]).sum() / 20, rtol=1e-5)


def test_nearest_rows_pull_at_each_other():
    x = np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32)
    gradient = jax.jit(jax.grad(partial(alone, partial(regular_face, reducer=reducers.sum))))(x)
    # rows 0 and 1 are each other's nearest, and row 1 is that of row 2
    along, across = np.array([0, 0.8]), np.array([0.64, -0.48])
    np.testing.assert_allclose(gradient[0], 2 * along, atol=1e-6)
    np.testing.assert_allclose(gradient[1], 2 * across - across, atol=1e-6)
    np.testing.assert_allclose(gradient[2], along, atol=1e-6)


def test_tie_goes_to_the_lowest_index():
    x = np.array([[1, 0], [0, 1], [0, -1]], np.float32)  # row 0 is as near to both others
    loss = lambda x: regular_face(x, reducer=lambda term: (term.values[0], None))
    gradient = jax.jit(jax.grad(partial(alone, loss)))(x)
    np.testing.assert_allclose(gradient, [[0, 1], [1, 0], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("filling", [0, 1, np.nan])
def test_padding_equals_fewer_rows(filling):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    where = np.array([1, 1, 0, 0, 1, 1])
    long = np.full((6, 3), filling, np.float32)
    long[where > 0] = x
    expected = by_all(x)
    for name, (value, gradient) in by_all(long, where).items():
        np.testing.assert_allclose(value, expected[name][0], rtol=1e-5, err_msg=name)
        gradient = np.asarray(gradient)
        np.testing.assert_allclose(gradient[where > 0], expected[name][1], rtol=1e-5, atol=1e-6)
        assert not np.any(gradient[where == 0]), name


@pytest.mark.slow
def test_padding_alone_is_nothing():
    for name, (value, gradient) in by_all(np.ones((4, 3), np.float32), np.zeros(4)).items():
        assert value == 0 and not np.any(gradient), name


@pytest.mark.parametrize("regularizer", [lp, center_invariant, zero_mean])
def test_row_weights_are_multiplicities(regularizer):
    weighed = jax.jit(partial(alone, partial(regularizer, where=np.float32([2, 1, 0]))))(ROWS)
    repeated = jax.jit(partial(alone, regularizer))(ROWS[[0, 0, 1]])
    np.testing.assert_allclose(weighed, repeated, rtol=1e-6)


def test_a_pair_of_centers_needs_both():
    where = np.array([True, False, True, True])
    run = lambda **options: jax.jit(partial(alone, partial(sparse, where=where, **options)))
    np.testing.assert_allclose(run()(CENTERS), 2**-0.5, rtol=1e-6)
    np.testing.assert_allclose(run(reducer=reducers.sum)(CENTERS), 2**0.5, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x[1, 1] = bad
    for name, (value, _) in by_all(x).items():
        assert not np.isfinite(value) or name == "lp_0", name


@pytest.mark.slow
def test_double_precision():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(4, 3))
        values = lambda x: {name: value for name, (value, _) in by_all(x).items()}
        assert {value.dtype.name for value in values(x).values()} == {"float64"}
        check_grads(values, (x,), order=1, modes=["rev"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    x = jnp.array(EDGES["zero_rows"], dtype)
    exact = by_all(x.astype(jnp.float32))
    for name, (value, gradient) in by_all(x).items():
        assert value.dtype == "float32" and gradient.dtype == dtype
        np.testing.assert_allclose(value, exact[name][0], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            np.float32(gradient), exact[name][1], rtol=0.02, atol=1e-3, err_msg=name
        )


def test_weight_may_be_traced():
    @jax.jit
    def by_weight(weight):
        terms = {name: f(ROWS[:2], weight=weight) for name, f in REGULARIZERS.items()}
        return {name: reduce(term)[0] for name, term in terms.items()}

    weights = jnp.array([0.0, 1, 2.5])
    for name, values in jax.vmap(by_weight)(weights).items():
        assert values[1] != 0, name
        np.testing.assert_allclose(values, weights * values[1], rtol=1e-5, err_msg=name)
    for name, slope in jax.jacfwd(by_weight)(jnp.float32(3)).items():
        np.testing.assert_allclose(slope, by_weight(1.0)[name], rtol=1e-5, err_msg=name)


@every_regularizer
def test_name_of_the_term(name):
    regularizer = REGULARIZERS[name]
    (default,) = jax.eval_shape(regularizer, ROWS[:2])
    assert name.startswith(default.removesuffix("_reg"))
    assert list(jax.eval_shape(partial(regularizer, name="mine"), ROWS[:2])) == ["mine"]


def test_the_reducer_of_the_loss_leaves_it_alone():
    some = lambda: merge(lp(ROWS), zero_mean(ROWS, reducer=reducers.sum), sparse(CENTERS))
    terms = jax.jit(some)()
    expected = {"lp_reg": 8 / 3, "zero_mean_reg": 10, "sparse_centers_reg": 2**-0.5}
    every = None, reducers.sum, reducers.threshold(low=100), reducers.per_anchor()
    for loss, parts in jax.jit(lambda: [reduce(terms, reducer) for reducer in every])():
        for name, value in expected.items():
            np.testing.assert_allclose(parts[name], value, rtol=1e-5)
        np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)


def test_mean_over_devices_equals_one_batch():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    rows = {"lp": lp, "zero_mean": partial(zero_mean, reducer=reducers.threshold(low=0.5))}
    rows["sparse_centers"] = sparse
    loss = lambda x: {n: reduce(f(x), axis_name="devices")[0] for n, f in rows.items()}
    values = jax.jit(jax.vmap(loss, axis_name="devices"))(x.reshape(2, 4, 3))
    expected = jax.jit(lambda x: {name: alone(f, x) for name, f in rows.items()})(x)
    for name in rows:
        np.testing.assert_allclose(values[name], [expected[name]] * 2, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lp(ROWS[0]), ValueError, r"regularizers.lp: `x` .*\(2,\)"),
        (lambda: zero_mean(ROWS > 0), TypeError, r"regularizers.zero_mean: `x` .*bool"),
        (lambda: center_invariant(ROWS[None]), ValueError, r"center_invariant: `x` .*\(1, 3, 2\)"),
        (lambda: regular_face(ROWS[0]), ValueError, r"regularizers.regular_face: `x` .*\(2,\)"),
        (lambda: regular_face(ROWS, distance=LpDistance()), TypeError, r"face: `distance` .*simil"),
        (lambda: sparse(ROWS), ValueError, r"sparse_centers: `centers_per_class` .*rows 3, got 2"),
        (lambda: sparse_centers(CENTERS, centers_per_class=1), ValueError, "at least 2.*got 1"),
        (lambda: sparse(CENTERS, distance=DOT), TypeError, "`distance` .*Cosine.*got DotProduct"),
        (lambda: lp(ROWS, where=jnp.ones(2)), ValueError, r"lp: `where` .*\(2,\)"),
        (lambda: sparse(CENTERS[0]), ValueError, r"regularizers.sparse_centers: `x` .*\(2,\)"),
    ],
)
def test_errors_name_function_and_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
