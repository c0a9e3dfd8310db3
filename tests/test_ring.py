"""Losses whose references go around the devices: value and gradient of the whole batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

import metricjax as mj

N, D = 24, 6
E = jax.random.normal(jax.random.key(0), (N, D))
Y = jax.random.randint(jax.random.key(1), (N,), 0, 7)
WHERE = jnp.arange(N, dtype=jnp.float32) % 5
KERNEL = jax.random.normal(jax.random.key(2), (D, D)) / 3
# each with an option that must stay traced
LOSSES = {
    "circle": ("m", 0.3),
    "contrastive": ("neg_margin", 0.8),
    "generalized_lifted_structure": ("neg_margin", 0.8),
    "multi_similarity": ("base", 0.4),
    "nca": ("softmax_scale", 0.7),
    "ntxent": ("temperature", 0.3),
    "siglip": ("bias", -3.0),
    "signal_to_noise_ratio_contrastive": ("neg_margin", 0.8),
    "sup_con": ("temperature", 0.3),
    "tuplet_margin": ("scale", 6.0),
    "intra_pair_variance": ("pos_eps", 0.1),
    "threshold_consistent_margin": ("margin_minus", 0.1),
    "ranked_list": ("margin", 0.3),
}
QUICK = ["contrastive"]
every_loss = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LOSSES],
)


def mesh(devices=8):
    return jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))


def spread(run, devices=8, **options):
    shard = jax.P("batch")
    specs = (jax.P(), jax.P(), shard, shard, shard)
    return jax.shard_map(run, mesh=mesh(devices), in_specs=specs, out_specs=jax.P(), **options)


def step(loss, option, axis_name=None, reducer=None, **static):
    """Value and gradients of kernel and option; the two towers share the kernel."""

    def run(kernel, value, e, y, where):
        def total(kernel, value):
            x = jnp.tanh(e @ kernel.astype(e.dtype))
            given = {option: value.astype(e.dtype)}
            options = static | given
            if axis_name is None:
                terms = loss(x, y, where=where, **options)
            else:
                terms = mj.ring(loss)(x, y, where=where, axis_name=axis_name, **options)
            return mj.reduce(terms, reducer, axis_name=axis_name)[0]

        value, grads = jax.value_and_grad(total, (0, 1))(kernel, value)
        return value, grads if axis_name is None else jax.lax.pmean(grads, axis_name)

    return run


def close(got, want, tolerance):
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


@every_loss
def test_a_ring_is_one_device(name):
    option, value = LOSSES[name]
    loss, data = getattr(mj.losses, name), (KERNEL, jnp.float32(value), E, Y, WHERE)
    want = jax.jit(step(loss, option))(*data)
    assert abs(want[1][1]) > 1e-4 and jnp.abs(want[1][0]).max() > 1e-4
    close(jax.jit(spread(step(loss, option, "batch")))(*data), want, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "siglip", "ntxent"])
def test_forward_mode_and_hessian_vector_products_are_one_device(name):
    loss = getattr(mj.losses, name)
    along = jnp.cos(E), jnp.float32(1)

    def total(x, value, y, axis_name=None):
        options = {LOSSES[name][0]: value}
        if axis_name is None:
            return mj.reduce(loss(x, y, **options))[0]
        terms = mj.ring(loss)(x, y, axis_name=axis_name, **options)
        return mj.reduce(terms, axis_name=axis_name)[0]

    shard = jax.P("batch")
    run = jax.shard_map(
        lambda x, value, y: total(x, value, y, "batch"),
        mesh=mesh(4),
        in_specs=(shard, jax.P(), shard),
        out_specs=jax.P(),
    )

    def derivatives(fn):
        of = lambda *moving: fn(*moving, Y)
        at = E, jnp.float32(LOSSES[name][1])
        return jax.jit(lambda: (jax.jvp(of, at, along), jax.jvp(jax.grad(of, (0, 1)), at, along)))()

    close(derivatives(run), derivatives(total), 1e-4)


@pytest.mark.parametrize("name", ["contrastive", pytest.param("ntxent", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_double_precision_is_exact(name):
    option, value = LOSSES[name]
    loss = getattr(mj.losses, name)
    with jax.enable_x64(True):
        double = lambda x: x.astype("float64") if x.dtype == "float32" else x
        data = jax.tree.map(double, (KERNEL, jnp.float32(value), E, Y, WHERE))
        got = jax.jit(spread(step(loss, option, "batch")))(*data)
        assert got[0].dtype == "float64"
        close(got, jax.jit(step(loss, option))(*data), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip", "multi_similarity"])
def test_pmap_and_unchecked_types_are_one_device(name):
    option, value = LOSSES[name]
    loss, data = getattr(mj.losses, name), (KERNEL, jnp.float32(value), E, Y, WHERE)
    want = jax.jit(step(loss, option))(*data)
    run = step(loss, option, "batch")
    split = lambda x: x.reshape(4, -1, *x.shape[1:])
    mapped = jax.pmap(run, axis_name="batch", in_axes=(None, None, 0, 0, 0))
    got = mapped(*data[:2], *map(split, data[2:]))
    close(jax.tree.map(lambda x: x[0], got), want, 1e-5)
    close(jax.jit(spread(run, check_vma=False))(*data), want, 1e-5)


@pytest.mark.parametrize(
    "name, reducer",
    [
        pytest.param("ntxent", mj.reducers.threshold(high=1.0), marks=pytest.mark.slow),
        pytest.param("siglip", mj.reducers.mean, marks=pytest.mark.slow),
    ],
    ids=["threshold", "mean"],
)
def test_reducers_add_up_over_blocks(name, reducer):
    option, value = LOSSES[name]
    loss, data = getattr(mj.losses, name), (KERNEL, jnp.float32(value), E, Y, WHERE)
    want = jax.jit(step(loss, option, reducer=reducer))(*data)
    close(jax.jit(spread(step(loss, option, "batch", reducer), 4))(*data), want, 1e-5)


def two_towers(loss, axis_name=None, **options):
    def total(x, r, y):
        refs = mj.Refs(r, y, where=jnp.ones(len(y)))
        if axis_name is None:
            return mj.reduce(loss(x, y, refs=refs, **options))[0]
        recipe = mj.objective(mj.ring(loss), axis_name=axis_name, **options)
        return recipe(x, y, refs=refs)[0]

    return total


@pytest.mark.parametrize(
    "name", ["siglip", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ntxent", "sup_con"))]
)
def test_gradients_go_home_to_the_other_tower(name):
    loss = getattr(mj.losses, name)
    data = E, jnp.cos(E), jnp.arange(N)
    run = jax.shard_map(
        two_towers(loss, "batch"), mesh=mesh(4), in_specs=jax.P("batch"), out_specs=jax.P()
    )
    want = jax.jit(jax.value_and_grad(two_towers(loss), (0, 1)))(*data)
    close(jax.jit(jax.value_and_grad(run, (0, 1)))(*data), want, 1e-5)


@pytest.mark.slow
def test_a_relation_and_a_recipe():
    soft = lambda a, b: jnp.where(a[:, None] == b[None, :], 0.8, 0.1)
    recipe = lambda axis_name, loss: (
        lambda x, y: mj.objective(loss, axis_name=axis_name, match=soft)(x, y)[0]
    )
    whole, part = recipe(None, mj.losses.sup_con), recipe("batch", mj.ring(mj.losses.sup_con))
    run = jax.shard_map(part, mesh=mesh(4), in_specs=jax.P("batch"), out_specs=jax.P())
    want = jax.jit(jax.value_and_grad(whole))(E, Y)
    close(jax.jit(jax.value_and_grad(run))(E, Y), want, 1e-5)


def ragged(kind):
    if kind == "one class":
        return E, jnp.zeros(N, Y.dtype), jnp.ones(N)
    if kind == "all unique":
        return E, jnp.arange(N), jnp.ones(N)
    if kind == "all equal":
        return jnp.ones_like(E), Y, jnp.ones(N)
    return E, Y, jnp.zeros(N)  # nothing there


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "sup_con", "ntxent", "multi_similarity"])
def test_degenerate_batches_are_one_device(name):
    option, value = LOSSES[name]
    loss = getattr(mj.losses, name)
    part, whole = jax.jit(spread(step(loss, option, "batch"))), jax.jit(step(loss, option))
    for kind in ("one class", "all unique", "all equal", "nothing"):
        data = (KERNEL, jnp.float32(value), *ragged(kind))
        got = part(*data)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(got)), kind
        close(got, whole(*data), 2e-5)
    nan = part(KERNEL, jnp.float32(value), E.at[3, 2].set(jnp.nan), Y, WHERE)
    assert jnp.isnan(nan[0])


def local_memory(n, name, ring):
    """Temporaries on each of 8 devices, of n rows on all of them."""
    loss = getattr(mj.losses, name)

    def total(x, y):
        if ring:
            return mj.reduce(mj.ring(loss)(x, y, axis_name="batch"), axis_name="batch")[0]
        terms = loss(x, y, refs=mj.gather_refs(x, y, "batch"))
        return mj.reduce(terms, axis_name="batch")[0]

    run = jax.shard_map(total, mesh=mesh(), in_specs=jax.P("batch"), out_specs=jax.P())
    put = lambda shape, t: jax.ShapeDtypeStruct(
        shape, t, sharding=jax.sharding.NamedSharding(mesh(), jax.P("batch"))
    )
    step = jax.jit(jax.value_and_grad(run))
    made = step.lower(put((n, 64), "float32"), put((n,), "int32")).compile()
    return made.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "siglip", "ntxent"])
@pytest.mark.optimized
def test_no_device_holds_all_pairs_of_its_anchors(name):
    n = 4096
    ring, gathered = (local_memory(n, name, ring) for ring in (True, False))
    assert ring < 8 * 4 * (n // 8) ** 2 < gathered


def test_other_losses_say_what_to_do():
    head = mj.nn.SigLIP()
    for loss in (mj.losses.triplet_margin, mj.losses.arcface, head, lambda x, y: {}):
        with pytest.raises(ValueError, match="ring: `loss` must be one of .* got .*gather_refs"):
            mj.ring(loss)
    mined = mj.tuples.all_pairs(Y)
    with pytest.raises(ValueError, match="ring: `mined`"):
        mj.ring(functools.partial(mj.losses.ntxent, mined=mined))
    loss = mj.ring(mj.losses.ntxent)
    with pytest.raises(TypeError, match="losses.ntxent: `refs` must be `metricjax.Refs`"):
        loss(E, Y, axis_name="batch", refs=E)
    with pytest.raises(TypeError, match="axis_name"):
        loss(E, Y)
    with pytest.raises(TypeError, match="mined"):
        loss(E, Y, axis_name="batch", mined=mined)


def test_rows_of_pairs_are_nowhere_whole():
    run = lambda x, y: mj.reduce(
        mj.ring(mj.losses.ntxent)(x, y, axis_name="batch"), mj.reducers.per_anchor()
    )[0]
    with pytest.raises(ValueError, match="per_anchor.*whole rows"):
        jax.eval_shape(jax.vmap(run, axis_name="batch"), E.reshape(4, 6, D), Y.reshape(4, 6))
    show = lambda x, y: mj.ring(mj.losses.ntxent)(x, y, axis_name="batch")["loss"].dense()
    with pytest.raises(ValueError, match="never on one device"):
        jax.eval_shape(jax.vmap(show, axis_name="batch"), E.reshape(4, 6, D), Y.reshape(4, 6))


@pytest.mark.slow
def test_half_precision_is_computed_in_single():
    x = E.astype("bfloat16")
    loss = functools.partial(mj.losses.ntxent, temperature=0.3)
    part = lambda x, y: mj.reduce(mj.ring(loss)(x, y, axis_name="batch"), axis_name="batch")[0]
    run = jax.shard_map(part, mesh=mesh(4), in_specs=jax.P("batch"), out_specs=jax.P())
    value, grad = jax.jit(jax.value_and_grad(run))(x, Y)
    want, want_grad = jax.jit(jax.value_and_grad(lambda x: mj.reduce(loss(x, Y))[0]))(x)
    assert value.dtype == "float32" and grad.dtype == "bfloat16"
    close(value, want, 1e-5)
    close(grad.astype("float32"), want_grad.astype("float32"), 2e-2)
