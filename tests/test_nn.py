"""Flax modules: trained, split, bridged to Linen, regularised, asked for logits."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from flax import nnx

import metricjax as mj

C, D = 5, 8
X = jnp.array(np.random.default_rng(0).normal(size=(12, D)), jnp.float32)
Y = jnp.array(np.arange(12) % C)
CENTERS = {c.module: c.centers for c in CASES if c.centers and c.takes("labels")}
SOME = mj.nn.ArcFace, mj.nn.ProxyAnchor, mj.nn.SoftTriple
OPTION = {c.module: next(iter(c.options), {}) for c in CASES}


def modules(some):
    """All but one are slow."""
    slow = lambda m: [] if m is mj.nn.ProxyAnchor else [pytest.mark.slow]
    some = [pytest.param(m, marks=slow(m), id=m.__name__) for m in some]
    return pytest.mark.parametrize("module", some)


some_modules = modules(SOME)
every_module = pytest.mark.parametrize("module", CENTERS, ids=lambda m: m.__name__)


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


@some_modules
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


@some_modules
def test_plain_jit_over_split_state_gives_the_same_gradient(module):
    head = module(C, D, rngs=nnx.Rngs(0))
    graph, state = nnx.split(head)

    @jax.jit
    def gradient(state):
        return jax.grad(lambda s: mj.reduce(nnx.merge(graph, s)(X, Y))[0])(state)

    loss = lambda w: mj.reduce(module.loss(X, Y, w))[0]
    want = jax.jit(jax.grad(loss))(head.weights[...])
    chex.assert_trees_all_close(gradient(state)["weights"][...], want, rtol=1e-5, atol=1e-5)


@modules(CENTERS)
def test_linen_users_get_the_same_module(module):
    options = OPTION[module]
    linen = nnx.bridge.to_linen(module, C, D, **options)
    drawn = {"key": jax.random.key(1)} if module is mj.nn.ElasticFace else {}
    variables = jax.jit(functools.partial(linen.init, **drawn))(jax.random.key(0), X, Y)
    state = {name: x for name, x in variables.items() if name != "params"}
    (weights,) = jax.tree.leaves(variables["params"])
    assert weights.shape == (C * CENTERS[module], D)

    def total(params):
        terms, new = linen.apply(state | {"params": params}, X, Y, **drawn, mutable=list(state))
        return mj.reduce(terms)[0], new

    (value, new), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])
    was, now = jax.tree.leaves(state), jax.tree.leaves(new)
    assert len(was) == len(now) and all((a != b).all() for a, b in zip(was, now, strict=True))
    pure = functools.partial(module.loss, X, Y, **options, **drawn)
    if module.first_state is not None:
        pure = lambda w: module.loss(X, Y, w, state=module.first_state(C), **options)[0]
    loss = lambda w: mj.reduce(pure(w))[0]
    want, want_grad = jax.jit(jax.value_and_grad(loss))(weights)
    got = (value, *jax.tree.leaves(grads))
    chex.assert_trees_all_close(got, (want, want_grad), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@some_modules
def test_any_regularizer_takes_the_weights(module):
    head = module(2 * C, D, rngs=nnx.Rngs(0))
    every = (
        mj.regularizers.lp,
        mj.regularizers.center_invariant,
        mj.regularizers.regular_face,
        mj.regularizers.zero_mean,
        lambda w: mj.regularizers.sparse_centers(w, centers_per_class=2),
    )
    gradient = lambda head, r: nnx.grad(lambda head: mj.reduce(r(head.weights[...]))[0])(head)
    for grads in nnx.jit(lambda head: [gradient(head, r) for r in every])(head):
        weights = np.asarray(grads.weights[...])
        assert np.isfinite(weights).all() and weights.any()


@every_module
def test_logits_grow_with_closeness(module):
    head = module(C, D, rngs=nnx.Rngs(0))
    centers = np.asarray(head.weights[...]).reshape(C, -1, D)
    directions = centers / np.linalg.norm(centers, axis=-1, keepdims=True)
    head.weights[...] = jnp.array(directions.reshape(-1, D))
    logits = nnx.jit(lambda head, x: head.logits(x))
    assert (logits(head, directions[:, 0]).argmax(1) == np.arange(C)).all()
    assert jax.eval_shape(head.logits, X).shape == (12, C)


def test_proxies_of_no_class_have_no_logits():
    with pytest.raises(TypeError, match="nn.Manifold: `logits` do not exist"):
        mj.nn.Manifold(C, D, rngs=nnx.Rngs(0)).logits(X)


@pytest.mark.slow
def test_logits_are_what_the_loss_takes_the_softmax_of():
    @nnx.jit
    def both(head, scale):
        want = optax.softmax_cross_entropy_with_integer_labels(scale * head.logits(X), Y)
        return head(X, Y)["loss"].values, want

    for module, no_margin, scale, atol in (
        (mj.nn.NormalizedSoftmax, {}, 1.0, 1e-6),
        (mj.nn.ProxyNCA, {}, 1.0, 1e-6),
        (mj.nn.LargeMarginSoftmax, {"margin": 1}, 1.0, 1e-6),
        (mj.nn.SphereFace, {"margin": 1}, 1.0, 1e-6),
        (mj.nn.ArcFace, {"margin": 0.0}, 1.0, 1e-5),
        (mj.nn.CosFace, {"margin": 0.0}, 1.0, 1e-5),
        (mj.nn.SubCenterArcFace, {"margin": 0.0}, 1.0, 1e-5),
        (mj.nn.SoftTriple, {"margin": 0.0}, 20.0, 1e-5),
    ):
        got, want = both(module(C, D, rngs=nnx.Rngs(0), **no_margin), scale)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=atol)


def test_logits_of_a_distance_are_negated():
    head = mj.nn.ProxyAnchor(C, D, distance=mj.distances.LpDistance(), rngs=nnx.Rngs(0))
    own, others = jax.jit(lambda head: (head.logits(head.weights[...]), head.logits(X)))(head)
    assert (np.argmax(own, 1) == np.arange(C)).all()
    assert (np.asarray(others) <= 0).all()


def test_logits_use_the_scale_of_the_module():
    small, large = (mj.nn.ArcFace(C, D, scale=s, rngs=nnx.Rngs(0)) for s in (1.0, 10.0))
    chex.assert_trees_all_close(large.logits(X), 10 * small.logits(X), rtol=1e-5)


def test_initial_weights():
    normal = "ArcFace CosFace LargeMarginSoftmax NormalizedSoftmax SphereFace ProxyNCA Center"
    for name in normal.split():
        weights = getattr(mj.nn, name)(500, 64, rngs=nnx.Rngs(0)).weights[...]
        assert weights.shape == (500, 64) and abs(float(weights.std()) - 1) < 0.02
    weights = mj.nn.SubCenterArcFace(200, 64, rngs=nnx.Rngs(0)).weights[...]
    assert weights.shape == (600, 64) and abs(float(weights.std()) - 1) < 0.02
    proxies = mj.nn.ProxyAnchor(500, 64, rngs=nnx.Rngs(0)).weights[...]
    assert abs(float(proxies.std()) - (2 / 500) ** 0.5) < 0.002
    centers = mj.nn.SoftTriple(100, 64, rngs=nnx.Rngs(0), centers_per_class=4).weights[...]
    bound = (1 / 400) ** 0.5
    assert centers.shape == (400, 64) and 0.95 * bound < float(jnp.abs(centers).max()) <= bound
    assert abs(float(centers.std()) - bound / 3**0.5) < 0.02 * bound
    directions = mj.nn.P2SGrad(50, 8, rngs=nnx.Rngs(0)).weights[...]
    chex.assert_trees_all_close(jnp.linalg.norm(directions, axis=1), jnp.ones(50), rtol=1e-6)
    assert abs(float(directions.mean())) < 0.05
    ones = mj.nn.ArcFace(
        3, 4, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16, weight_init=nnx.initializers.ones
    )
    assert ones.weights[...].dtype == jnp.bfloat16 and (ones.weights[...] == 1).all()


def test_outliers_are_far_from_the_dominant_center():
    head = mj.nn.SubCenterArcFace(3, 2, sub_centers=2, rngs=nnx.Rngs(0))
    head.weights[...] = jnp.array([[1.0, 0], [0, 1], [-1, 0], [0, -1], [1, 1], [1, -1]])
    x = jnp.array([[1.0, 0.1], [2, -0.1], [0.1, 1], [-0.1, -1], [-1, 0.1], [0.1, -3]])
    y = jnp.array([0, 0, 0, 1, 1, 1])
    outliers, centers = jax.jit(lambda head: head.outliers(x, y))(head)
    # classes 0 and 1 have two samples near one center, and a lone one at a right angle to it
    assert outliers.tolist() == [False, False, True, False, True, False]
    assert centers.tolist() == [[1, 0], [0, -1], [0, 0]]
    assert not jax.jit(lambda head: head.outliers(x, y, threshold=179.0)[0].any())(head)


@pytest.mark.parametrize(
    ("classes", "shape"), [pytest.param(None, (), marks=pytest.mark.slow), (C, (C,))]
)
def test_margin_learns_its_boundary(classes, shape):
    module = mj.nn.Margin(classes, beta=1.0, nu=0.1)
    got = nnx.jit(lambda module: mj.reduce(module(X, Y))[1])(module)
    want = jax.jit(lambda beta: mj.reduce(mj.losses.margin(X, Y, beta, nu=0.1))[1])
    chex.assert_trees_all_close(got, want(np.ones(shape, np.float32)))
    grads = nnx.jit(nnx.grad(lambda m: mj.reduce(m(X, Y))[0]))(module)
    assert grads.beta[...].shape == shape and (grads.beta[...] != 0).all()


def test_siglip_learns_scale_and_bias():
    module = mj.nn.SigLIP()
    ids = np.arange(12)
    refs = mj.Refs(X[:, ::-1], ids)
    run = nnx.jit(nnx.value_and_grad(lambda m: mj.reduce(m(X, ids, refs=refs))[0]))
    value, grads = run(module)

    @jax.jit
    def papers_pseudocode(x, y):
        logits = 10 * mj.distances.CosineSimilarity()(x, y) - 10
        return -jnp.sum(jax.nn.log_sigmoid((2 * jnp.eye(12) - 1) * logits)) / 12

    chex.assert_trees_all_close(value, papers_pseudocode(X, X[:, ::-1]), rtol=1e-5)
    assert grads.log_scale[...] != 0 and grads.bias[...] != 0


def test_dynamic_soft_margin_keeps_its_histogram():
    module = mj.nn.DynamicSoftMargin(num_bins=20, min_val=-3.0)

    @nnx.jit
    def step(module, x):
        def loss(module, x):
            return mj.reduce(module(x, Y))[0]

        return nnx.value_and_grad(loss, argnums=1)(module, x)

    @jax.jit
    def by_hand(x, state):
        terms, state = mj.losses.dynamic_soft_margin(
            x, Y, histogram=state, num_bins=20, min_val=-3.0
        )
        return mj.reduce(terms)[0], state

    state = np.zeros(20, np.float32)
    for x in (X, X[::-1], X + 1):
        value, grad = step(module, x)
        want, state = by_hand(x, state)
        chex.assert_trees_all_close(value, want, rtol=1e-5)
        chex.assert_trees_all_close(module.histogram[...], state, rtol=1e-5)
        assert np.isfinite(grad).all() and np.any(grad)
    assert not jax.tree.leaves(nnx.state(module, nnx.Param))


@pytest.mark.slow
def test_manifold_draws_or_is_given_its_proxies():
    module = mj.nn.Manifold(C, D, rngs=nnx.Rngs(0), alpha=0.5)
    by_hand = lambda w: mj.losses.manifold(X, w, proxy_ids=Y, alpha=0.5)
    want = jax.jit(by_hand)(module.weights[...])
    chex.assert_trees_all_equal(nnx.jit(lambda module: module(X, Y))(module), want)
    draw = nnx.jit(lambda module, key: mj.reduce(module(X, key=key))[0])
    drawn = [float(draw(module, jax.random.key(s))) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ValueError, match="losses.manifold: give `proxy_ids` or `key`"):
        module(X)


def test_p2s_grad_is_projected_back():
    head = mj.nn.P2SGrad(C, D, rngs=nnx.Rngs(0))
    before = head.weights[...]
    head.weights[...] = 3 * before
    head.project()
    chex.assert_trees_all_close(head.weights[...], before, rtol=1e-6)


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
