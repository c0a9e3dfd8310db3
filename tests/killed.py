"""A training that kills itself; `test_training.py` starts it until it is done.

python tests/killed.py FOLDER WHEN ...: one training after the other, each in a process of its own,
whose exit status is printed. `WHEN` is "never", "batch:I", "evaluation:I", or "write:I", the I-th
time that a file or folder of the checkpoints is made, renamed or deleted.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metricjax as mj

jax.config.update("jax_disable_most_optimizations", True)

CLASSES, FEATURES, SIZE, STEPS = 4, 6, 5, 12
LABELS = np.arange(40, dtype=np.int32) % CLASSES
DATA = np.random.default_rng(0).normal(size=(40, FEATURES)).astype(np.float32)
ROWS = mj.samplers.Batches(mj.samplers.m_per_class, LABELS, m=3, batch_size=12, seed=0)
OPTIMIZER = optax.partition(
    {"network": optax.adam(1e-2), "loss": optax.sgd(0.5, momentum=0.9)},
    {"network": "network", "loss": "loss"},
)


def network(params, x, key, variables):
    """Dropout, a running mean and a layer in half precision."""
    x = x * jax.random.bernoulli(key, 0.8, x.shape)
    y = jnp.tanh(x @ params["kernel"].astype(jnp.float32) + params["bias"][None])
    return y - variables[None], 0.9 * variables + 0.1 * y.mean(0)


def begin():
    kernel = jax.random.normal(jax.random.key(1), (FEATURES, SIZE), jnp.bfloat16)
    params = {
        "network": {"kernel": kernel, "bias": jnp.zeros(SIZE)},
        "loss": jax.random.normal(jax.random.key(2), (CLASSES, SIZE)),
    }
    variables = jnp.zeros(SIZE)
    return mj.training.State.create(params, OPTIMIZER, variables=variables, key=jax.random.key(3))


def step():
    return mj.training.metric_loss_only(network, mj.objective(mj.losses.arcface), OPTIMIZER)


def batch(i):
    return DATA[ROWS[i]], LABELS[ROWS[i]]


def evaluate(state):
    """Worse and worse from step 4 on."""
    return {"score": 10.0 - int(state.step), "norm": jnp.abs(state.params["loss"]).sum()}


def train(folder, *, batch=batch, evaluate=evaluate, **options):
    options = {"save_every": 3, "evaluate_every": 4, "patience": 9, "steps": STEPS} | options
    return mj.training.fit(
        step(), begin(), batch, folder=folder / "states", evaluate=evaluate, score="score",
        loggers=[mj.training.CsvLog(folder / "log.csv")], log_every=2, **options,
    )  # fmt: skip


def named(tree):
    """Arrays by path, as integers of their bits: equal if and only if they are bit for bit."""
    out = {}
    for path, x in jax.tree.leaves_with_path(jax.tree.map(jnp.asarray, tree)):
        name = f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}"
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        out[name] = np.frombuffer(np.asarray(x).tobytes(), np.uint8)
    return out


def main(folder, when):
    kind, _, count = when.partition(":")
    passed = {"batch": 0, "evaluation": 0, "write": 0}

    def pass_by(what):
        if what == kind and passed[what] == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        passed[what] += 1

    def watch(event, arguments):
        touched = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        written = event == "open" and arguments[1] and "w" in str(arguments[1])
        inside = str(folder / "states") in str(arguments[:1]) or (
            event in ("os.remove", "os.rmdir") and arguments[-1] not in (-1, None)
        )
        if (written or event in touched) and inside:
            pass_by("write")

    def watched(function, what):
        def call(x):
            pass_by(what)
            return function(x)

        return call

    sys.addaudithook(watch)
    done = train(folder, batch=watched(batch, "batch"), evaluate=watched(evaluate, "evaluation"))
    np.savez(folder / "done.npz", **named(done))


def in_a_process(folder, when):
    """The exit status of a training, in a fork: to import JAX takes longer than to train.

    A process can be forked as long as JAX has not started its threads, which nothing above does.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        main(folder, when)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    for folder, when in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        print(in_a_process(Path(folder), when), flush=True)
