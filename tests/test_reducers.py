"""Reducers: worked numbers, and what holds for all of them, on dense and streamed terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricjax import LossTerm, losses, reduce
from metricjax.reducers import (
    avg_non_zero,
    class_weighted,
    divisor,
    mean,
    per_anchor,
    sum,
    threshold,
)

N, M = 6, 5
CLASS_WEIGHTS = jnp.array([1.0, 0.5, 3.0, 1.0, 0.0, 2.0])
REDUCERS = {
    "divisor": divisor,
    "mean": mean,
    "sum": sum,
    "avg_non_zero": avg_non_zero,
    "low": threshold(low=0.4),
    "high": threshold(high=0.9),
    "low_high_sum": threshold(low=0.2, high=1.1, then=sum),
    "per_anchor": per_anchor(),
    "per_anchor_non_zero": per_anchor(then=avg_non_zero),
    "threshold_per_anchor": threshold(low=0.4, then=per_anchor()),
    "class_weighted": class_weighted(CLASS_WEIGHTS),
    "class_weighted_divisor": class_weighted(CLASS_WEIGHTS, then=divisor),
    "class_weighted_threshold": class_weighted(CLASS_WEIGHTS, then=threshold(high=1.0)),
}
every_reducer = pytest.mark.parametrize("name", REDUCERS)


@jax.jit
def by_all(term):
    """Of each reducer: what it gives, the reduced value, the gradient by the values."""

    def by(reducer):
        loss = lambda values: reduce({"loss": term._replace(values=values)}, reducer)[0]
        return reducer(term), *jax.value_and_grad(loss)(term.values)

    return {name: by(reducer) for name, reducer in REDUCERS.items()}


def reduced(name, term):
    return by_all(term)[name][1:]


def pairs(seed=0):
    """A hinge-like term of pairs: zeros, ones, repeats, an anchor without pairs."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, (N, M)).astype(np.float32)
    weights[3] = 0
    values = np.maximum(rng.normal(size=(N, M)), 0).astype(np.float32) * (weights > 0)
    return LossTerm(
        jnp.array(values),
        jnp.array(weights),
        jnp.float32(np.sum(weights * (values > 0))),
        jnp.arange(N),
        jnp.ones(N),
    )


def elements(values, weights=None, **rest):
    values = jnp.array(values, jnp.float32)
    return LossTerm(values, jnp.ones_like(values) if weights is None else weights, **rest)


FOUR = elements([3, 7, 1, 13])
ROWS = LossTerm(  # (0, 1)=1, (0, 2)=3, (1, 0)=5, (3, 2)=0
    jnp.zeros((4, 4)).at[(0, 0, 1), (1, 2, 0)].set(jnp.array([1.0, 3.0, 5.0])),
    jnp.zeros((4, 4)).at[(0, 0, 1, 3), (1, 2, 0, 2)].set(1),
    anchor_weights=jnp.ones(4),
)
SIGNED = elements([-1, 0, 2, 4])
TWICE = elements([3, 7, 1, 13], jnp.array([1.0, 0.0, 2.0, 0.5]))
BY_CLASS = jnp.array([1.0, 1, 10, 10])


@pytest.mark.parametrize(
    ("reducer", "term", "expected"),
    [
        (mean, FOUR, 6),
        (sum, FOUR, 24),
        (divisor, FOUR, 6),
        (divisor, FOUR._replace(divisor=jnp.float32(8)), 3),
        (divisor, FOUR._replace(divisor=jnp.float32(-8)), -3),
        (divisor, FOUR._replace(divisor=jnp.float32(0)), 0),
        (mean, FOUR._replace(divisor=jnp.float32(8)), 6),
        (sum, FOUR._replace(divisor=jnp.float32(8)), 24),
        (mean, TWICE, 11.5 / 3.5),
        (sum, TWICE, 11.5),
        (threshold(low=6), FOUR, 10),
        (threshold(high=6), FOUR, 2),
        (threshold(low=1, high=7), FOUR, 3),  # strict at both ends
        (threshold(low=1, high=13, then=sum), FOUR, 10),
        (threshold(low=20), FOUR, 0),
        (threshold(low=6, then=divisor), FOUR._replace(divisor=jnp.float32(8)), 10),
        (threshold(high=0), SIGNED, -1),
        (avg_non_zero, elements([0, 2, 0, 3]), 2.5),
        (avg_non_zero, SIGNED, 3),
        (avg_non_zero, elements([0, 0]), 0),
        (class_weighted(BY_CLASS), FOUR, 37.5),
        (class_weighted(BY_CLASS, then=sum), FOUR, 150),
        (class_weighted(BY_CLASS, then=threshold(high=10)), FOUR, 5),
        (class_weighted(BY_CLASS[1:]), FOUR._replace(anchor=jnp.array([0, 0, 1, 2])), 37.5),
        (class_weighted(BY_CLASS), ROWS, 2.25),
        (class_weighted(BY_CLASS[::-1]), ROWS, 22.5),
        (per_anchor(), ROWS, 1.75),
        (per_anchor(then=sum), ROWS, 7),
        (per_anchor(then=avg_non_zero), ROWS, 3.5),
        (per_anchor(), FOUR, 6),
        (per_anchor(then=threshold(low=6)), FOUR, 10),
        (per_anchor(), ROWS._replace(anchor_weights=jnp.array([2.0, 1, 1, 0])), 2.25),
        (per_anchor(), ROWS._replace(weights=ROWS.weights.at[0, 2].set(3)), 7.5 / 4),
    ],
)
def test_worked_numbers(reducer, term, expected):
    loss, parts = reduce({"loss": term}, reducer)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(parts["loss"], expected, rtol=1e-6)


def test_total_and_count_stay_apart():
    assert [float(x) for x in mean(FOUR)] == [24, 4]
    assert [float(x) for x in divisor(FOUR._replace(divisor=jnp.float32(8)))] == [24, 8]
    assert [float(x) for x in threshold(low=6)(FOUR)] == [20, 2]
    assert [float(x) for x in class_weighted(BY_CLASS)(FOUR)] == [150, 4]
    assert [float(x) for x in per_anchor()(ROWS)] == [7, 4]
    assert sum(FOUR)[1] is None


@every_reducer
def test_weights_are_multiplicities(name):
    term = pairs()
    assert set(np.unique(term.weights)) == {0, 1, 2}
    weights = np.concatenate([np.asarray(term.weights) > k for k in (0, 1)], 1, dtype=np.float32)
    listed = term._replace(values=np.tile(term.values, 2) * weights, weights=weights)
    np.testing.assert_allclose(reduced(name, term)[0], reduced(name, listed)[0], rtol=1e-5)


@every_reducer
def test_only_the_ratio_of_weights_matters_but_for_sums(name):
    term = pairs()
    double = term._replace(
        weights=2 * term.weights, divisor=2 * term.divisor, anchor_weights=2 * term.anchor_weights
    )
    factor = 2 if name.endswith("sum") else 1
    np.testing.assert_allclose(reduced(name, double)[0], factor * reduced(name, term)[0], rtol=1e-5)


def cut(term, rows):
    """The term of some of the anchors."""
    values, weights, _, anchor, anchor_weights = (x[rows] if x.ndim else x for x in term)
    active = jnp.sum(jnp.where(values > 0, weights, 0))
    return LossTerm(values, weights, active, anchor, anchor_weights)


@every_reducer
def test_totals_and_counts_add_up_over_anchors(name):
    term = pairs()
    parts = [cut(term, slice(0, 3)), cut(term, slice(3, N))]
    whole, *parts = (by_all(x)[name][0] for x in (term, *parts))
    total, count = (None if x is None else x + y for x, y in zip(*parts, strict=True))
    np.testing.assert_allclose(whole[0], total, rtol=1e-5)
    assert (whole[1] is None) == (count is None)
    if count is not None:
        np.testing.assert_allclose(whole[1], count, rtol=1e-6)


@jax.jit
def on_two_devices(parts):
    """Of each reducer: what it gives on both, and the gradient by the values of the second's."""

    def by(reducer):
        def loss(values):
            one = lambda part: reduce({"loss": part}, reducer, axis_name="devices")[0]
            both = jax.vmap(one, axis_name="devices")(parts._replace(values=values))
            return both[1], both

        return jax.value_and_grad(loss, has_aux=True)(parts.values)

    return {name: by(reducer) for name, reducer in REDUCERS.items()}


@every_reducer
def test_psum_equals_one_batch(name):
    term = pairs()
    parts = cut(term, slice(0, 3)), cut(term, slice(3, N))
    (_, both), gradient = on_two_devices(jax.tree.map(lambda *x: np.stack(x), *parts))[name]
    expected, expected_gradient = reduced(name, term)
    np.testing.assert_allclose(both, np.full(2, expected), rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(N, M), expected_gradient, rtol=1e-5, atol=1e-6)


BOUNDED = {"high", "low_high_sum", "class_weighted_threshold"}


@pytest.mark.parametrize("anchor", [0, 1, 4])
@every_reducer
def test_nan_and_infinity_stay_visible(name, anchor):
    term = pairs()
    j = np.argmax(term.weights[anchor])
    for bad in (np.nan,) if name in BOUNDED else (np.nan, np.inf):
        loss, _ = reduced(name, term._replace(values=term.values.at[anchor, j].set(bad)))
        assert np.isnan(loss) if np.isnan(bad) else not np.isfinite(loss)


@every_reducer
def test_nan_stays_visible_where_nothing_is_counted(name):
    term = pairs()._replace(divisor=jnp.float32(0))  # as of a loss that counts what is above 0
    loss, _ = reduced(name, term._replace(values=jnp.where(term.weights > 0, jnp.nan, 0)))
    assert np.isnan(loss)


@every_reducer
def test_nothing_reduces_to_zero(name):
    nothing = pairs()
    nothing = nothing._replace(
        values=0 * nothing.values, weights=0 * nothing.weights, divisor=jnp.float32(0)
    )
    loss, gradient = reduced(name, nothing)
    assert loss == 0 and not np.any(gradient)


@pytest.mark.parametrize("shape", [(0, M), (N, 0)])
@every_reducer
def test_no_elements_reduce_to_zero(name, shape):
    n = shape[0]
    term = LossTerm(jnp.zeros(shape), jnp.zeros(shape), jnp.float32(0), jnp.arange(n), jnp.ones(n))
    loss, gradient = reduced(name, term)
    assert loss == 0 and gradient.shape == shape


@every_reducer
def test_elements_equal_rows_of_one(name):
    term = pairs()
    values, weights = term.values[:, 0], term.weights[:, 0]
    column = LossTerm(values, weights, term.divisor, term.anchor, anchor_weights=weights)
    expected = column._replace(values=values[:, None], weights=weights[:, None])
    np.testing.assert_allclose(reduced(name, column)[0], reduced(name, expected)[0], rtol=1e-5)


def test_gradient_reaches_what_is_kept():
    reduced = lambda x: reduce({"loss": elements(x)}, threshold(low=1, high=9))[0]
    gradient = jax.jit(jax.grad(reduced))
    np.testing.assert_allclose(gradient(jnp.array([3.0, 7, 1, 13])), [0.5, 0.5, 0, 0])
    reduced = lambda x: reduce({"loss": ROWS._replace(values=x)}, per_anchor())[0]
    gradient = jax.jit(jax.grad(reduced))
    expected = np.zeros((4, 4))
    expected[0, 1:3], expected[1, 0], expected[3, 2] = 1 / 8, 1 / 4, 1 / 4
    np.testing.assert_allclose(gradient(ROWS.values), expected)


@pytest.mark.parametrize("reducer", [None, *REDUCERS.values()], ids=["default", *REDUCERS])
def test_reduced_terms_pass_through(reducer):
    plain, ratio = LossTerm(jnp.float32(2.5), jnp.float32(1)), jnp.float32(5)
    terms = {"a": plain, "b": plain._replace(divisor=ratio), "c": plain._replace(values=-ratio)}
    loss, parts = reduce(terms, reducer)
    assert {name: float(x) for name, x in parts.items()} == {"a": 2.5, "b": 0.5, "c": -5}
    assert float(loss) == -2


def test_each_term_with_its_own_reducer():
    terms = {"a": FOUR, "b": FOUR._replace(divisor=jnp.float32(8)), "c": SIGNED}
    loss, parts = reduce(terms, {"a": sum, "c": avg_non_zero})
    assert {name: float(x) for name, x in parts.items()} == {"a": 24, "b": 3, "c": 3}
    assert float(loss) == 30


def test_a_function_of_ones_own():
    largest_of_two = lambda term: (jnp.sum(jnp.sort(term.values)[-2:]), jnp.float32(2))
    assert float(reduce({"loss": FOUR}, largest_of_two)[0]) == 10
    assert float(reduce({"loss": FOUR}, threshold(high=13, then=largest_of_two))[0]) == 5


def test_bounds_and_weights_may_be_traced():
    def loss(low, high, weights):
        reducer = threshold(low=low, high=high, then=class_weighted(weights))
        return reduce({"loss": FOUR}, reducer)[0]

    run = jax.jit(jax.vmap(jax.value_and_grad(loss, 2), (0, 0, None)))
    values, gradients = run(jnp.array([0.0, 2, 6]), jnp.array([20.0, 9, 20]), BY_CLASS)
    np.testing.assert_allclose(values, [37.5, 5, 68.5])
    np.testing.assert_allclose(
        gradients, [[0.75, 1.75, 0.25, 3.25], [1.5, 3.5, 0, 0], [0, 3.5, 0, 6.5]]
    )


def test_streamed_terms_equal_dense_ones():
    x, y = jax.random.normal(jax.random.key(0), (N, 3)), jnp.array([0, 0, 0, 1, 1, 2])
    some = ["divisor", "mean", "sum", "low", "class_weighted_threshold"]

    @jax.jit
    def run():
        terms = losses.triplet_margin(x, y, margin=0.5)
        return [reduce(terms, REDUCERS[name])[0] for name in some]

    term = losses.triplet_margin(x, y, margin=0.5)["loss"].dense()
    assert term.values.shape == (N, 2, N)
    dense = jax.jit(lambda term: [reduce({"loss": term}, REDUCERS[name])[0] for name in some])
    for name, value, expected in zip(some, run(), dense(term), strict=True):
        assert expected > 0
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


TRIPLETS = lambda: losses.triplet_margin(jnp.eye(3), jnp.array([0, 0, 1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold(), "reducers.threshold: .*`low`, `high`"),
        (lambda: reduce({"loss": FOUR}, {"lost": sum}), r"reduce: .*\['lost'\].*\['loss'\]"),
        (lambda: reduce(TRIPLETS(), per_anchor()), r"reducers.per_anchor: .*\(3, 3\).*triplets"),
        (
            lambda: reduce({"loss": FOUR}, class_weighted(jnp.ones(3))),
            r"reducers.class_weighted: `anchor_weights` .*\(4,\).*\(3,\)",
        ),
        (
            lambda: reduce({"loss": ROWS}, class_weighted(jnp.ones((4, 1)))),
            r"reducers.class_weighted: `anchor_weights` .*\(4,\).*\(4, 1\)",
        ),
    ],
)
def test_errors_name_function_and_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
