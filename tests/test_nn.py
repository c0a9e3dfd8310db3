"""Flax modules: trained, split, bridged to Linen, regularised, asked for logits."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import metricjax as mj

C, D = 5, 8
X = jax.random.normal(jax.random.key(0), (12, D))
Y = jnp.arange(12) % C
MODULES = [mj.nn.ArcFace, mj.nn.ProxyAnchor]
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


@every_module
def test_nnx_optimizer_trains_the_class_weights(module):
    head = module(C, D, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(head, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(head, optimizer):
        loss, grads = nnx.value_and_grad(lambda head: mj.reduce(head(X, Y))[0])(head)
        optimizer.update(head, grads)
        return loss

    losses = [step(head, optimizer) for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]


@every_module
def test_plain_jit_over_split_state_gives_the_same_gradient(module):
    head = module(C, D, rngs=nnx.Rngs(0))
    graph, state = nnx.split(head)

    @jax.jit
    def gradient(state):
        return jax.grad(lambda s: mj.reduce(nnx.merge(graph, s)(X, Y))[0])(state)

    want = jax.grad(lambda w: mj.reduce(module.loss(X, Y, w))[0])(head.weights[...])
    chex.assert_trees_all_close(gradient(state)["weights"][...], want, rtol=1e-5)


@every_module
def test_linen_users_get_the_same_module(module):
    linen = nnx.bridge.to_linen(module, C, D, margin=0.2)
    variables = linen.init(jax.random.key(0), X, Y)
    (weights,) = jax.tree.leaves(variables)
    assert weights.shape == (C, D)
    run = jax.jit(jax.value_and_grad(lambda v, m: mj.reduce(linen.apply(v, X, Y, margin=m))[0]))
    value, grads = run(variables, 0.3)
    loss = lambda w: mj.reduce(module.loss(X, Y, w, margin=0.3))[0]
    want, want_grad = jax.value_and_grad(loss)(weights)
    chex.assert_trees_all_close((value, *jax.tree.leaves(grads)), (want, want_grad), rtol=1e-5)
    default = mj.reduce(linen.apply(variables, X, Y))[0]
    assert default == mj.reduce(module.loss(X, Y, weights, margin=0.2))[0]


@every_module
def test_any_regularizer_takes_the_weights(module):
    head = module(2 * C, D, rngs=nnx.Rngs(0))
    regularizers = mj.regularizers
    for regularizer in (
        regularizers.lp,
        regularizers.center_invariant,
        regularizers.regular_face,
        regularizers.zero_mean,
        lambda w: regularizers.sparse_centers(w, centers_per_class=2),
    ):
        grads = nnx.grad(lambda head, r=regularizer: mj.reduce(r(head.weights[...]))[0])(head)
        assert jnp.isfinite(grads.weights[...]).all() and (grads.weights[...] != 0).any()


@every_module
def test_logits_grow_with_closeness(module):
    head = module(C, D, rngs=nnx.Rngs(0))
    assert (head.logits(head.weights[...]).argmax(1) == jnp.arange(C)).all()
    assert head.logits(X).shape == (12, C)


def test_logits_of_a_distance_are_negated():
    head = mj.nn.ProxyAnchor(C, D, distance=mj.distances.LpDistance(), rngs=nnx.Rngs(0))
    assert (head.logits(head.weights[...]).argmax(1) == jnp.arange(C)).all()
    assert (head.logits(X) <= 0).all()


def test_logits_use_the_scale_of_the_module():
    small, large = (mj.nn.ArcFace(C, D, scale=s, rngs=nnx.Rngs(0)) for s in (1.0, 10.0))
    chex.assert_trees_all_close(large.logits(X), 10 * small.logits(X), rtol=1e-5)


def test_initial_weights():
    arcface = mj.nn.ArcFace(500, 64, rngs=nnx.Rngs(0)).weights[...]
    proxies = mj.nn.ProxyAnchor(500, 64, rngs=nnx.Rngs(0)).weights[...]
    assert abs(float(arcface.std()) - 1) < 0.02
    assert abs(float(proxies.std()) - (2 / 500) ** 0.5) < 0.002
    ones = mj.nn.ArcFace(
        3, 4, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16, weight_init=nnx.initializers.ones
    )
    assert ones.weights[...].dtype == jnp.bfloat16 and (ones.weights[...] == 1).all()


def test_a_traced_option_at_the_call_does_not_retrace():
    head, traces = mj.nn.ArcFace(C, D, rngs=nnx.Rngs(0)), []

    @nnx.jit
    def loss(head, margin):
        traces.append(1)
        return mj.reduce(head(X, Y, margin=margin))[0]

    values = [loss(head, jnp.float32(m)) for m in (0.0, 20.0, 40.0)]
    assert len(traces) == 1 and values[0] < values[1] < values[2]


def test_wrong_options_say_which_there_are():
    with pytest.raises(TypeError, match="nn.ArcFace: no option 'margn'; there are margin, scale"):
        mj.nn.ArcFace(C, D, margn=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="nn.ArcFace: 'margin' is an array"):
        mj.nn.ArcFace(C, D, margin=jnp.float32(1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"losses.arcface: `weights` must have shape \[C, 4\]"):
        mj.nn.ArcFace(C, D, rngs=nnx.Rngs(0))(X[:, :4], Y)
