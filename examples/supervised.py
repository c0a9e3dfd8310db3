"""Supervised: semihard triplets with a margin that grows, judged by classes never trained on.

    python -m examples.supervised

The classes are numbers of two handwritten digits. The network is trained on 70 of them, and is
asked for the other 30: does a search by one of their images find those of the same number? That is
what metric learning is for: not to know classes, but to tell apart new ones.
"""

import jax
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import metricjax as mj
from examples import _shared


@nnx.jit
def step(model, optimizer, images, labels, margin):
    """One update. The margin is an argument like any other: a new one compiles nothing again."""

    def total(model):
        x = model(images)
        mined = mj.miners.triplet_margin(x, labels, margin=margin, type_of_triplets="semihard")
        terms = mj.losses.triplet_margin(x, labels, mined=mined, margin=margin)
        # Terms are a dict: a regularizer, here one that keeps embeddings short, joins them by `|`.
        loss, _ = mj.reduce(terms | mj.regularizers.lp(x, weight=1e-3))
        return loss, mj.statistics(terms, mined)["triplets"]

    (_, triplets), grads = nnx.value_and_grad(total, has_aux=True)(model)
    optimizer.update(model, grads)
    return triplets


@nnx.jit
def embed(model, images):
    return model(images)


def train(schedule, steps, measure):
    """Every tenth of the way: the step, what `measure` says of the network, triplets per batch."""
    (images, labels), _ = _shared.load_numbers()
    # Batches of 4 images of each of 24 numbers: a function of the labels, the seed and the step.
    batches = mj.samplers.Batches(
        mj.samplers.m_per_class, labels, m=4, batch_size=96, seed=0, steps=steps
    )
    model = _shared.Network(nnx.Rngs(0), width=16)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    curve, triplets, every = [(0, measure(model), np.nan)], [], max(steps // 10, 1)
    for i, rows in enumerate(batches, start=1):
        triplets.append(step(model, optimizer, images[rows], labels[rows], schedule(i)))
        if i % every == 0:
            curve.append((i, measure(model), np.mean(jax.device_get(triplets[-every:]))))
    return np.array(curve)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=300, argv=argv)
    _, (images, labels) = _shared.load_numbers()  # what is searched among
    measure = lambda model: _shared.map_at_r(embed(model, images), labels)
    schedules = {
        "margin 0.1": optax.constant_schedule(0.1),
        "margin 0.4": optax.constant_schedule(0.4),
        "margin from 0.1 to 0.4": optax.linear_schedule(0.1, 0.4, options.steps),
    }
    curves = {name: train(margin, options.steps, measure) for name, margin in schedules.items()}
    pixels = _shared.map_at_r(images.reshape(len(images), -1), labels)
    figures = {"pixels": pixels, "untrained": curves["margin 0.1"][0, 1]}
    figures |= {name: curve[-1, 1] for name, curve in curves.items()}

    picture = Figure((9, 4), layout="constrained")
    left, right = picture.subplots(1, 2)
    scores = {name: curve[:, :2].T for name, curve in curves.items()}
    triplets = {name: curve[1:, ::2].T for name, curve in curves.items()}
    _shared.draw_curves(left, scores, {"pixels": pixels})
    _shared.draw_curves(right, triplets)
    left.set(title="Search among 30 unseen numbers", ylabel="MAP@R", ylim=(0, 1))
    right.set(title="What is left to learn from", ylabel="semihard triplets per batch")
    right.set(yscale="log")
    return _shared.finish("MAP@R", figures, picture, options.out / "supervised.png")


if __name__ == "__main__":
    main()
