"""Training steps and metrics on several processes; `test_processes.py` runs the same in one.

python tests/processes.py PORT COUNT INDEX OUT.pickle {some,each}
"""

import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, one_of_each_kind
from jax.experimental.multihost_utils import process_allgather
from layouts import LAYOUTS, on_mesh

import metricjax as mj

BATCH, D, CLASSES, QUERIES = 32, 6, 10, 40
LABELS = np.random.default_rng(0).integers(0, CLASSES, 200, dtype=np.int32)
DATA = np.random.default_rng(1).normal(size=(200, D)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(D, D)).astype(np.float32) / 3
SOME = "contrastive", "arcface", "lifted_structure"


def table(which):
    """The layouts with their precision, and the losses, that the processes run.

    There is one layout for each way to spread a step, and one loss for each kind. The program of a
    step is that of as many devices in one process, where `test_layouts.py` runs all of them.
    """
    if which == "some":
        return [("shard_map", "float32")], tuple(c for c in CASES if str(c) in SOME)
    spread = "auto", "shard_map", "ring", "classes over their axis", "classes over the batch's axis"
    return [(name, "float64") for name in spread], one_of_each_kind()


def rows(step, index=0, count=1):
    """The samples of a step that a process feeds."""
    return mj.samplers.m_per_class(
        LABELS, 4, batch_size=BATCH, seed=0, step=step, shard_index=index, shard_count=count
    )


def train(kernel, x, y, axis_name=None):
    """What two batches leave behind; on a device's part of them, if there is an `axis_name`."""
    bank = mj.memory.MemoryBank.create(48, D)
    encode = lambda kernel, x: jnp.tanh(x @ kernel)
    for _ in range(2):
        refs = bank.refs(encode(kernel, x), y, axis_name=axis_name)
        bank = bank.enqueue(encode(kernel, x), y, axis_name=axis_name)

    def total(kernel):
        terms = mj.losses.contrastive(encode(kernel, x), y, refs=refs)
        return mj.reduce(terms, axis_name=axis_name)[0]

    loss, grad = jax.value_and_grad(total)(kernel)
    if axis_name is not None:
        grad = jax.lax.pmean(grad, axis_name)
    return {"loss": loss, "grad": grad, "bank": bank}


def evaluate(query, labels, reference, ref_labels):
    """The metrics of queries that are the first references."""
    ev = mj.evaluation
    sides = query, labels, reference, ref_labels
    calculator = ev.AccuracyCalculator(
        ("precision_at_1", "mean_average_precision_at_r", "recall_at_5", "NMI"), k=30
    )
    return {
        "retrieval_metrics": jax.device_get(ev.retrieval_metrics(*sides, ref_includes_query=True)),
        "get_accuracy": dict(calculator.get_accuracy(*sides, ref_includes_query=True)),
        "match_ranks": ev.match_ranks(*sides),
        "tar_at_far": tuple(ev.tar_at_far(*sides, far=0.1)),
    }


def evaluate_spread():
    """The metrics with the references on a mesh, and with everything on a mesh."""
    query, labels = DATA[:QUERIES], LABELS[:QUERIES]
    kinds = jax.sharding.AxisType

    def placed(kind, *arrays):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        spread = jax.sharding.NamedSharding(mesh, jax.P("data"))
        return [jax.make_array_from_callback(x.shape, spread, lambda i, x=x: x[i]) for x in arrays]

    return {
        "references": evaluate(query, labels, *placed(kinds.Auto, DATA), LABELS),
        "auto": evaluate(*placed(kinds.Auto, query, labels, DATA, LABELS)),
        "explicit": evaluate(*placed(kinds.Explicit, query, labels, DATA, LABELS)),
    }


def main(port, count, index, out, which):
    """What one of `count` processes does."""
    count, index = int(count), int(index)
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_disable_most_optimizations", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    assert jax.process_count() == count and jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, shard = jax.P(), jax.P("batch")
    run = jax.shard_map(
        lambda *args: train(*args, axis_name="batch"),
        mesh=mesh,
        in_specs=(everywhere, shard, shard),
        out_specs=everywhere,
    )
    own = rows(0, jax.process_index(), jax.process_count())
    spread = jax.sharding.NamedSharding(mesh, shard)
    x, y = (jax.make_array_from_process_local_data(spread, d[own]) for d in (DATA, LABELS))
    results = {"own": own, "train": jax.device_get(jax.jit(run)(KERNEL, x, y))}
    results["evaluate"] = evaluate_spread()
    layouts, cases = table(which)
    for name, dtype in layouts:
        with jax.enable_x64(dtype == "float64"):
            some = [c for c in cases if LAYOUTS[name].has(c)]
            results[name, dtype] = process_allgather(on_mesh(name, some, dtype), tiled=True)
    Path(out).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
