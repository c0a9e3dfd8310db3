"""MoCo: a queue of keys by a slow copy of the network, and why the copy is slow.

    python -m examples.moco

As in `examples.self_supervised`, two disturbed views of an image belong together. The batch is
small, 32 images, but each is compared with the last 1024 keys: embeddings of other images that were
computed in earlier steps. They must come from a network that hardly changes, or old keys and new
ones do not go together. So keys are made by a copy that follows slowly, and the example shows what
happens if it does not.
"""

import jax
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import metricjax as mj
from examples import _shared

MOMENTA = {"momentum 0.98": 0.98, "momentum 0.9": 0.9, "no momentum": 0.0}


@nnx.jit
def step(model, slow, optimizer, queue, images, ids, momentum, key):
    one, other = (_shared.disturb(key, images) for key in jax.random.split(key))
    nnx.update(slow, optax.incremental_update(nnx.state(model), nnx.state(slow), 1 - momentum))
    queue = queue.enqueue(slow(other), ids)

    def total(model):
        # The label of an image is its number: its own keys are positives, all others negatives.
        return mj.reduce(mj.losses.ntxent(model(one), ids, refs=queue.refs(), temperature=0.1))

    (loss, _), grads = nnx.value_and_grad(total, has_aux=True)(model)
    optimizer.update(model, grads)
    return queue, loss


@nnx.jit
def embed(model, images):
    return model(images)


def train(images, momentum, steps, measure):
    """What `measure` says of the network, every tenth of the way."""
    model, slow = (_shared.Network(nnx.Rngs(0)) for _ in range(2))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    queue = mj.memory.MemoryBank.create(1024, 64)  # a pytree; slots nothing is in do not count
    rng, curve, every = np.random.default_rng(0), [(0, measure(model))], max(steps // 10, 1)
    for i in range(1, steps + 1):
        ids = rng.choice(len(images), 32, replace=False).astype(np.int32)
        key = jax.random.fold_in(jax.random.key(0), i)
        queue, _ = step(model, slow, optimizer, queue, images[ids], ids, momentum, key)
        if i % every == 0:
            curve.append((i, measure(model)))
    return np.array(curve)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=400, argv=argv)
    images, labels = _shared.load_digits()
    images, held_out, labels = images[:1200], images[1200:], labels[1200:]
    held_out = jax.jit(_shared.disturb)(jax.random.key(1), held_out)
    measure = lambda model: _shared.map_at_r(embed(model, held_out), labels)

    curves = {name: train(images, m, options.steps, measure) for name, m in MOMENTA.items()}
    figures = {"pixels": _shared.map_at_r(held_out.reshape(len(held_out), -1), labels)}
    figures["untrained"] = curves["no momentum"][0, 1]
    figures |= {name: curve[-1, 1] for name, curve in curves.items()}

    picture = Figure((6.5, 4), layout="constrained")
    axes = picture.subplots()
    _shared.draw_curves(
        axes, {name: curve.T for name, curve in curves.items()}, {"pixels": figures["pixels"]}
    )
    axes.set(title="A queue needs keys by a network that hardly changes")
    axes.set(ylabel="MAP@R, disturbed held-out digits")
    axes.set_ylim(bottom=0)
    return _shared.finish(
        "MAP@R on disturbed held-out digits", figures, picture, options.out / "moco.png"
    )


if __name__ == "__main__":
    main()
