"""A training step on several processes; `test_processes.py` launches it, and runs it in one.

python tests/processes.py PORT COUNT INDEX OUT.npz
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import metricjax as mj

BATCH, D, CLASSES = 32, 6, 10
LABELS = np.random.default_rng(0).integers(0, CLASSES, 200, dtype=np.int32)
DATA = np.random.default_rng(1).normal(size=(200, D)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(D, D)).astype(np.float32) / 3
WEIGHTS = np.random.default_rng(3).normal(size=(CLASSES, D)).astype(np.float32)
PAIR_LOSSES = ("contrastive", "ntxent", "triplet_margin")


def rows(step, index=0, count=1):
    """The samples of a step that a process feeds."""
    return mj.samplers.m_per_class(
        LABELS, 4, batch_size=BATCH, seed=0, step=step, shard_index=index, shard_count=count
    )


def train(kernel, weights, x, y, axis_name=None):
    """What two batches leave behind; on a device's part of them, if there is an `axis_name`."""
    bank = mj.memory.MemoryBank.create(48, D)
    encode = lambda kernel, x: jnp.tanh(x @ kernel)
    for _ in range(2):
        refs = bank.refs(encode(kernel, x), y, axis_name=axis_name)
        bank = bank.enqueue(encode(kernel, x), y, axis_name=axis_name)

    def total(kernel, weights):
        e = encode(kernel, x)
        given = None if axis_name is None else mj.gather_refs(e, y, axis_name)
        terms = {name: getattr(mj.losses, name)(e, y, refs=given) for name in PAIR_LOSSES}
        terms["arcface"] = mj.losses.arcface(e, y, weights)
        terms["memory"] = mj.losses.contrastive(e, y, refs=refs)
        ring = mj.losses.sup_con
        if axis_name is not None:
            ring = functools.partial(mj.ring(ring), axis_name=axis_name)
        terms["ring"] = ring(e, y)
        return mj.reduce(mj.merge(**terms), axis_name=axis_name)

    grad = jax.value_and_grad(total, (0, 1), has_aux=True)
    (loss, parts), grads = grad(kernel, weights)
    if axis_name is not None:
        grads = jax.lax.pmean(grads, axis_name)
    return {"loss": loss, "grads": grads, "bank": bank, **parts}


def named(tree):
    """Arrays by their path, as `numpy.savez` takes them."""
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree.leaves_with_path(tree)}


def main(port, count, index, out):
    """What one of `count` processes does."""
    count, index = int(count), int(index)
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    assert jax.process_count() == count and jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, shard = jax.P(), jax.P("batch")
    run = jax.shard_map(
        lambda *args: train(*args, axis_name="batch"),
        mesh=mesh,
        in_specs=(everywhere, everywhere, shard, shard),
        out_specs=everywhere,
    )
    own = rows(0, jax.process_index(), jax.process_count())
    spread = jax.sharding.NamedSharding(mesh, shard)
    x, y = (jax.make_array_from_process_local_data(spread, d[own]) for d in (DATA, LABELS))
    np.savez(out, own=own, **named(jax.jit(run)(KERNEL, WEIGHTS, x, y)))


if __name__ == "__main__":
    main(*sys.argv[1:])
