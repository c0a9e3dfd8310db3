"""Embedding in chunks is embedding at once, with fewer activations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.sharding import AxisType, NamedSharding

import metricjax as mj


class Encoder(linen.Module):
    """A small transformer over sequences ``[N, length, features]``."""

    features: int = 16
    layers: int = 2
    dropout: float = 0.0
    attention: bool = True
    dtype: type = jnp.float32

    @linen.compact
    def __call__(self, x, train=False):
        options = {"dtype": self.dtype, "param_dtype": self.dtype}
        for _ in range(self.layers):
            if self.attention:
                y = linen.LayerNorm(force_float32_reductions=False, **options)(x)
                x += linen.MultiHeadDotProductAttention(2, **options)(y, y)
            y = linen.Dense(4 * self.features, **options)(
                linen.LayerNorm(force_float32_reductions=False, **options)(x)
            )
            y = linen.Dropout(self.dropout, deterministic=not train)(linen.gelu(y))
            x += linen.Dense(self.features, **options)(y)
        return jnp.mean(x, 1)


def start(n, dtype=jnp.float32, **options):
    model = Encoder(dtype=dtype, **options)
    x = jnp.array(np.random.default_rng(0).normal(size=(n, 6, 16)), dtype)
    return model, jax.jit(model.init)(jax.random.key(1), x[:1]), x


def total(embed, y):
    return lambda params, x: mj.reduce(mj.losses.contrastive(embed(params, x), y))[0]


@pytest.mark.parametrize(
    "n, dtype, layers",
    [
        (10, "float64", 1),
        pytest.param(10, "float64", 2, marks=pytest.mark.slow),
        pytest.param(12, "float64", 2, marks=pytest.mark.slow),
        pytest.param(10, "float32", 2, marks=pytest.mark.slow),
    ],
)
def test_value_and_gradients_are_those_of_the_whole_batch(n, dtype, layers):
    with jax.enable_x64(dtype == "float64"):
        model, params, x = start(n, jnp.dtype(dtype), layers=layers)
        y = jnp.arange(n) % 3
        chunked = lambda params, x: mj.embed_in_chunks(model.apply, params, x, 4)
        want, got = (
            jax.jit(jax.value_and_grad(total(embed, y), (0, 1)))(params, x)
            for embed in (model.apply, chunked)
        )
        tolerance = 1e-10 if dtype == "float64" else 1e-5
        chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n, size", [(0, 3), (1, 3), (7, 3), (7, 7), (7, 100)])
def test_rows_keep_their_order_and_pytrees_their_form(n, size):
    x = {"a": jnp.arange(n), "b": jnp.arange(2.0 * n).reshape(n, 2)}
    apply = lambda params, x: (x["a"], params * x["b"])
    run = jax.jit(lambda x: mj.embed_in_chunks(apply, 2.0, x, size))
    chex.assert_trees_all_equal(run(x), apply(2.0, x))


def test_filling_up_the_last_chunk_leaves_no_trace():
    apply = lambda params, x: params * x / jnp.linalg.norm(x, axis=1, keepdims=True)
    x = np.arange(1.0, 15.0, dtype=np.float32).reshape(7, 2)
    chunked = lambda *args: mj.embed_in_chunks(apply, *args, 4)
    grads, want = (
        jax.jit(jax.grad(lambda *args: jnp.sum(embed(*args) ** 3), (0, 1)))(2.0, x)  # noqa: B023
        for embed in (chunked, apply)
    )
    chex.assert_trees_all_close(grads, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_each_chunk_has_its_own_dropout_the_same_in_both_passes(attention):
    model, params, x = start(8, dropout=0.5, layers=1, attention=attention)
    y = jnp.arange(8) % 2
    key = jax.random.key(2)
    apply = lambda params, x, key: model.apply(params, x, train=True, rngs={"dropout": key})

    def by_hand(params, x):
        parts = [apply(params, x[4 * k : 4 * k + 4], jax.random.fold_in(key, k)) for k in range(2)]
        return jnp.concatenate(parts)

    chunked = lambda params, x: mj.embed_in_chunks(apply, params, x, 4, key=key)
    want, got = (
        jax.jit(jax.value_and_grad(total(embed, y)))(params, x) for embed in (by_hand, chunked)
    )
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-5)
    run = jax.jit(lambda params, x: (chunked(params, x), model.apply(params, x)))
    assert not np.allclose(*run(params, x))


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.optimized
def test_memory_is_that_of_a_chunk(attention):
    model, params, _ = start(1, layers=1 if attention else 2, attention=attention)
    x = jax.ShapeDtypeStruct((4096, 6, 16), jnp.float32)
    scale = jnp.linspace(0, 1, 16)[None, :]

    def temporaries(embed):
        to_mean = lambda params, x: jnp.sum(jnp.cos(embed(params, x)) * scale)
        step = jax.jit(jax.value_and_grad(to_mean)).lower(params, x).compile()
        return step.memory_analysis().temp_size_in_bytes

    chunked = lambda params, x: mj.embed_in_chunks(model.apply, params, x, 256)
    assert temporaries(chunked) * 8 < temporaries(model.apply)


@pytest.mark.slow
def test_mapped_over_and_on_many_devices():
    apply = lambda params, x: jnp.tanh(x @ params)
    rng = np.random.default_rng(0)
    x, params = rng.normal(size=(48, 4)), rng.normal(size=(4, 3))
    x, params, y = x.astype(np.float32), params.astype(np.float32), np.arange(48) % 5
    loss = total(functools.partial(mj.embed_in_chunks, apply, chunk_size=4), y)
    want = jax.jit(jax.value_and_grad(total(apply, y), (0, 1)))(params, x)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)

    both = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    got = jax.device_get(both(np.stack([params, params]), np.stack([-x, x])))
    close(jax.tree.map(lambda x: x[1], got), want)

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            sharded = jax.device_put(x, NamedSharding(mesh, jax.P("batch")))
            whole = jax.device_put(params, NamedSharding(mesh, jax.P()))
            close(jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1)))(whole, sharded)), want)

    def step(params, x, y):
        recipe = mj.objective(mj.losses.contrastive, axis_name="batch")
        one = lambda params, x: recipe(mj.embed_in_chunks(apply, params, x, 4), y)[0]
        value, grad = jax.value_and_grad(one)(params, x)
        return value, jax.lax.pmean(grad, "batch")

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    some = jax.P("batch")
    run = jax.shard_map(step, mesh=mesh, in_specs=(jax.P(), some, some), out_specs=jax.P())
    close(jax.jit(run)(params, x, y), (want[0], want[1][0]))


def test_what_does_not_come_apart_is_refused():
    x = jnp.ones((6, 2))
    with pytest.raises(ValueError, match="embed_in_chunks: `apply` must return a row for each"):
        mj.embed_in_chunks(lambda params, x: (x, jnp.mean(x, 0)), None, x, 4)
    with pytest.raises(ValueError, match="`inputs` must hold arrays with the same leading axis"):
        mj.embed_in_chunks(lambda params, x: x, None, (x, x[:3]), 4)
    with pytest.raises(ValueError, match="embed_in_chunks: `inputs` must hold arrays"):
        mj.embed_in_chunks(lambda params, x: x, None, jnp.float32(1), 4)
    with pytest.raises(ValueError, match="embed_in_chunks: `chunk_size` must be"):
        mj.embed_in_chunks(lambda params, x: x, None, x, 0)
