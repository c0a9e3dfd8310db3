"""Losses whose references go around the devices: value and gradient of the whole batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
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
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def mesh(devices=8):
    return jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))


def spread(run, devices=8, **options):
    shard = jax.P("batch")
    specs = (jax.P(), jax.P(), shard, shard, shard)
    return jax.shard_map(
        run, mesh=mesh(devices), in_specs=specs, out_specs=jax.P(), **options
    )


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
