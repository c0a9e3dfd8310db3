"""Classes in blocks, on many devices, and only some of them: the losses stay what they are."""

import dataclasses
import functools
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from test_losses import cases, of_each_kind

import metricjax as mj
from metricjax._core import tuning
from metricjax.losses import _class_blocks

N, D, C = 24, 8, 14
some_class_losses = cases(lambda c: c.centers and c.takes("class_axis"), quick="arcface")


def batch(case, dtype=jnp.float32, classes=C):
    rng = np.random.default_rng(0)
    e, w = rng.normal(size=(N, D)), rng.normal(size=(classes * case.centers, D))
    y = np.arange(N, dtype=np.int32) * 5 % (classes + 1)  # one label is outside
    return jnp.array(e, dtype), jnp.array(y), jnp.array(w, dtype)


def options_of(case):
    """A float option that the similarities depend on, to be differentiated."""
    return {name: x for name, x in {"scale": 8.0, "gamma": 0.3}.items() if case.takes(name)}


def step(case):
    """``(embeddings, labels, weights) -> loss, gradients``, of the float options, too."""
    floats = options_of(case)

    def total(e, w, y, floats):
        return mj.reduce(case.fn(e, y, w, **floats))[0]

    run = jax.value_and_grad(total, (0, 1, 3))
    return lambda e, y, w: run(e, w, y, floats)


@functools.cache
def on_one_device(case):
    return jax.jit(step(case))(*batch(case))


def close(got, want, tolerance=1e-5):
    size = max(float(np.abs(x).max(initial=0)) for x in jax.tree.leaves(want))
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance * max(1, size))


@cases(
    lambda c: c.centers and c.takes("labels"),
    quick="p2s_grad",
)
def test_classes_in_blocks_are_all_at_once(case, monkeypatch):
    with jax.enable_x64(True):
        args = batch(case, jnp.float64, classes=7)
        want = jax.jit(step(case))(*args)
        sizes = {"class_kept": 0, "class_block": 3 * N * case.centers}  # of 7 classes
        monkeypatch.setattr(tuning, "CPU", dataclasses.replace(tuning.CPU, **sizes))
        close(jax.jit(step(case))(*args), want, 1e-10)


def test_blocks_are_of_equal_size_where_that_is_possible():
    cut_classes = _class_blocks.cut_classes
    cut = cut_classes(1_000_000, 256)
    assert cut.size * cut.count == 1_000_000 and 256 * cut.size <= tuning.CPU.class_block
    assert cut_classes(5, 24).count == 1 and cut_classes(0, 24).count == 0
    cut = cut_classes(999_983, 256)  # a prime
    assert 999_983 <= cut.size * cut.count < 999_983 + cut.count


@pytest.mark.parametrize(
    "name",
    [
        "arcface",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("proxy_anchor", "p2s_grad", "adaface", "curricularface")
        ),
    ],
)
@pytest.mark.optimized
def test_nothing_is_samples_by_classes(name):
    n, c, d = 512, 100_000, 16
    loss = getattr(mj.losses, name)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (c, d))]
    total = lambda e, w: mj.reduce(loss(e, jnp.arange(n), w))[0]
    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * c / 2


@pytest.mark.slow
def test_a_million_classes_take_less_than_two_gibibytes():
    script = """
        import jax, jax.numpy as jnp, metricjax as mj
        e = jax.random.normal(jax.random.key(0), (256, 64))
        w = jax.random.normal(jax.random.key(1), (1_000_000, 64))
        total = lambda e, w: mj.reduce(mj.losses.arcface(e, jnp.arange(256), w))[0]
        loss, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(e, w)
        assert jnp.isfinite(loss) and all(jnp.isfinite(g).all() for g in grads)
        with open("/proc/self/status") as status:
            print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) * 1024 < 2 * 2**30


# --- devices ----------------------------------------------------------------------------------


@some_class_losses
def test_classes_on_each_device_are_all_on_one(case):
    (e, y, w), want = batch(case), on_one_device(case)
    mesh = jax.make_mesh((2, 2), ("data", "classes"), axis_types=(AxisType.Auto,) * 2)

    def total(e, w, y, floats):
        own = {"axis_name": "data"} if case.takes("axis_name") else {}
        terms = case.fn(e, y, w, **floats, **own, class_axis="classes")
        return mj.reduce(terms, axis_name="data")[0]

    floats = options_of(case)
    whole = lambda e, w, floats: jax.shard_map(
        total,
        mesh=mesh,
        in_specs=(jax.P("data"), jax.P("classes"), jax.P("data"), jax.P()),
        out_specs=jax.P(),
    )(e, w, y, floats)
    close(jax.jit(jax.value_and_grad(whole, (0, 1, 2)))(e, w, floats), want)


@pytest.mark.slow
def test_proxies_on_each_device_are_all_on_one():
    case = next(c for c in CASES if c.loss is mj.losses.proxy_anchor)
    e, y, w = batch(case)
    y = y % C
    mesh = jax.make_mesh((2,), ("classes",), axis_types=(AxisType.Auto,))

    def local(e, w):
        ids = jnp.arange(len(w)) + len(w) * jax.lax.axis_index("classes")
        return mj.reduce(case.loss(e, y, w, class_ids=ids), axis_name="classes")[0]

    run = jax.shard_map(local, mesh=mesh, in_specs=(jax.P(), jax.P("classes")), out_specs=jax.P())
    whole = lambda e, w: mj.reduce(case.loss(e, y, w))[0]
    want, got = (jax.jit(jax.value_and_grad(total, (0, 1)))(e, w) for total in (whole, run))
    close(got, want)


@cases(lambda c: c.centers and c.takes("class_axis"), quick="")
def test_gradients_inside_of_shard_map_are_those_of_one_device(case):
    """Batch and classes over the same axis: embeddings are gathered, weights are not."""
    (e, y, w), (value, (to_e, to_w, _)) = batch(case), on_one_device(case)
    floats = options_of(case)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))

    def local(e, w, y):
        def total(e, w):
            all_of = jax.lax.all_gather((e, y), "batch", tiled=True, to="invarying")
            terms = case.fn(*all_of, w, class_axis="batch", **floats)
            return mj.reduce(terms, axis_name="batch")[0]

        return jax.value_and_grad(total, (0, 1))(e, w)

    spread = jax.P("batch")
    specs = {"in_specs": spread, "out_specs": (jax.P(), (spread, spread))}
    got = jax.jit(jax.shard_map(local, mesh=mesh, **specs))(e, w, y)
    close(got, (value, (to_e, to_w)))


def test_devices_that_share_out_the_classes_must_have_the_same_samples():
    e, y, w = batch(CASES[1])
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    own = lambda e, y, w: mj.reduce(mj.losses.arcface(e, y, w, class_axis="batch"))[0]
    gathered = lambda e, y, w: own(*mj.gather_refs(e, y, "batch")[:2], w)
    for total in own, gathered:  # types do not tell that all have gathered the same
        run = jax.shard_map(total, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P("batch"))
        with pytest.raises(ValueError, match="`embeddings` must be the same on all devices"):
            jax.eval_shape(run, e, y, w)


@pytest.mark.slow
def test_a_recipe_gathers_where_classes_are_spread_as_the_batch_is():
    e, y, w = batch(CASES[1])
    split = lambda x: np.reshape(x, (2, -1, *x.shape[1:]))
    head = mj.nn.ArcFace(C // 2, D, class_axis="batch", rngs=nnx.Rngs(0))
    own = functools.partial(mj.losses.arcface, class_axis="batch")
    weights = np.concatenate([head.weights[...]] * 2)
    for loss, params, whole in ((own, (w,), w), (head, (), weights)):
        recipe = mj.objective(loss, axis_name="batch")
        run = jax.vmap(lambda *args, recipe=recipe: recipe(*args)[0], axis_name="batch")
        want = jax.jit(lambda w: mj.reduce(mj.losses.arcface(e, y, w))[0])(whole)
        close(jax.jit(run)(*map(split, (e, y, *params))), np.stack([want] * 2))


@some_class_losses
def test_sharded_class_weights_are_one_device(case):
    check_sharded(case, AxisType.Explicit, "classes")


@of_each_kind(lambda c: c.centers and c.takes("class_axis"))
@pytest.mark.parametrize(
    "kind, rows",
    [(AxisType.Explicit, "data"), (AxisType.Auto, "classes"), (AxisType.Auto, "data")],
    ids=str,
)
def test_class_weights_are_sharded_in_other_ways(case, kind, rows):
    check_sharded(case, kind, rows)


def check_sharded(case, kind, rows):
    """`rows`: the axis of the batch; the classes', or another."""
    (e, y, w), want = batch(case), on_one_device(case)
    mesh = jax.make_mesh((2, 2), ("data", "classes"), axis_types=(kind,) * 2)
    put = lambda x, axis: jax.device_put(x, NamedSharding(mesh, jax.P(axis)))
    with jax.set_mesh(mesh):
        got = jax.jit(step(case))(put(e, rows), put(y, rows), put(w, "classes"))
        assert kind == AxisType.Auto or got[1][1].sharding.spec[0] == "classes"
    close(jax.device_get(got), want)


# --- some of the classes ----------------------------------------------------------------------


def test_sampled_classes_hold_the_batch_and_others_evenly():
    labels = jnp.array([3, 17, 3, 40, -1, 99])
    draw = jax.jit(jax.vmap(lambda key: mj.sample_classes(key, labels, 50, 0.2)))
    some = draw(jax.random.split(jax.random.key(0), 4000))
    ids = np.asarray(some.ids)
    assert (np.diff(ids, axis=1) > 0).all() and ids.min() >= 0 and ids.max() < 50
    at = np.take_along_axis(ids, np.asarray(some.labels)[:, :4], 1)
    assert (at == labels[:4][None, :]).all() and (some.labels[:, 4:] == -1).all()
    counts = np.bincount(ids.ravel(), minlength=50)
    own = [3, 17, 40]
    assert (counts[own] == 4000).all()
    others, p = np.delete(counts, own), 7 / 47
    assert np.abs(others - 4000 * p).max() < 5 * np.sqrt(4000 * p * (1 - p))
    pairs = (ids[:, :, None] == 1).any((1, 2)) & (ids[:, :, None] == 2).any((1, 2))
    both = 4000 * p * 6 / 46
    assert abs(pairs.sum() - both) < 5 * np.sqrt(both)


def test_padding_and_too_many_classes():
    labels = jnp.array([3, 17, 40, 5])
    draw = jax.jit(mj.sample_classes, static_argnums=(2, 3))
    some = draw(jax.random.key(0), labels, 50, 0.04, where=jnp.array([1, 0, 0.5, 0]))
    np.testing.assert_array_equal(some.ids, [3, 40])
    np.testing.assert_array_equal(some.labels, [0, -1, 1, -1])
    few = draw(jax.random.key(0), labels, 50, 0.04)
    assert (few.labels >= 0).sum() == 2
    everything = draw(jax.random.key(0), labels, 50, 1.0)
    np.testing.assert_array_equal(everything.ids, np.arange(50))
    np.testing.assert_array_equal(everything.labels, labels)


def test_the_gradient_reaches_sampled_classes_only():
    e, y, w = batch(CASES[1])

    def total(w):
        some = mj.sample_classes(jax.random.key(3), y, C, (C - 1) / C)
        return mj.reduce(mj.losses.cosface(e, some.labels, w[some.ids]))[0], some.ids

    grad, ids = map(np.asarray, jax.jit(jax.grad(total, has_aux=True))(w))
    left_out = np.setdiff1d(np.arange(C), ids)
    assert len(left_out) == 1 and not grad[left_out].any()
    assert (np.abs(grad).sum(1) > 0).sum() == C - 1


@pytest.mark.slow
def test_each_device_samples_its_own_classes():
    classes = 32
    e, _, w = batch(CASES[1], classes=classes)
    y = np.arange(N) % 7 * 5
    mesh = jax.make_mesh((4,), ("classes",), axis_types=(AxisType.Auto,))

    def local(e, y, w):
        some = mj.sample_classes(jax.random.key(2), y, 8, 0.75, class_axis="classes")
        terms = mj.losses.arcface(e, some.labels, w[some.ids], class_axis="classes")
        return mj.reduce(terms)[0], some.ids + 8 * jax.lax.axis_index("classes"), some.labels

    spread = jax.P("classes")
    specs = {"in_specs": (jax.P(), jax.P(), spread), "out_specs": (jax.P(), spread, jax.P())}
    loss, *some = jax.jit(jax.shard_map(local, mesh=mesh, **specs))(e, y, w)
    ids, labels = map(np.asarray, some)
    np.testing.assert_array_equal(ids[labels], y)
    want = jax.jit(lambda w: mj.reduce(mj.losses.arcface(e, labels, w[ids]))[0])(w)
    close(loss, want)
    drawn = [tuple(np.setdiff1d(np.arange(8), ids[6 * k : 6 * k + 6] - 8 * k)) for k in range(4)]
    assert len(set(drawn)) > 1


def test_wrong_arguments_to_sample_classes():
    key, y = jax.random.key(0), jnp.arange(3)
    for rate in (0, 1.01, -0.5, float("nan"), 6):
        with pytest.raises(ValueError, match="sample_classes: `sample_rate` must be above 0"):
            mj.sample_classes(key, y, 5, rate)
    with pytest.raises(TypeError, match="sample_classes: `labels` must be integer"):
        mj.sample_classes(key, y.astype("float32"), 5, 0.5)


def test_a_rate_is_a_number_of_classes_rounded_up():
    key, labels = jax.random.key(0), jnp.arange(3)

    def count(classes, rate):
        draw = functools.partial(mj.sample_classes, num_classes=classes, sample_rate=rate)
        return len(jax.eval_shape(draw, key, labels).ids)

    assert [count(30, 0.1), count(31, 0.1), count(5, 1e-9), count(5, 1)] == [3, 4, 1, 5]
    assert all(count(47, k / 47) == k for k in range(1, 48))
