"""Self-supervised: two disturbed views of each image are the same thing, and no label is seen.

    python -m examples.self_supervised

Each digit is turned, scaled, moved, made fainter and noisy, twice. The views of one image are to
be close, those of different images apart (SimCLR). The labels only judge the result: images that
were not trained on, disturbed in the same way, should find others of the same digit.
"""

import jax
import numpy as np
import optax
from flax import nnx

import metricjax as mj
from examples import _shared

# Any loss that compares with references becomes one of views; this one pulls and pushes by softmax.
loss_of_views = mj.self_supervised(mj.losses.ntxent)


@nnx.jit
def step(model, optimizer, images, key):
    views = [_shared.disturb(key, images) for key in jax.random.split(key)]

    def total(model):
        return mj.reduce(loss_of_views(*map(model, views), temperature=0.5))

    (loss, _), grads = nnx.value_and_grad(total, has_aux=True)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def embed(model, images):
    return model(images)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=400, argv=argv)
    images, labels = _shared.load_digits()
    images, held_out, labels = images[:1200], images[1200:], labels[1200:]
    held_out = jax.jit(_shared.disturb)(jax.random.key(1), held_out)

    model = _shared.Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    found = {"pixels": held_out.reshape(len(held_out), -1), "untrained": embed(model, held_out)}
    rng = np.random.default_rng(0)
    for i in range(options.steps):
        batch = images[rng.choice(len(images), 128, replace=False)]
        step(model, optimizer, batch, jax.random.fold_in(jax.random.key(0), i))
    found["trained without labels"] = embed(model, held_out)

    figures = {name: _shared.map_at_r(x, labels) for name, x in found.items()}
    picture = mj.pictures.embedding_map(
        {
            f"{name}: MAP@R {figures[name]:.2f}": x
            for name, x in found.items()
            if name != "untrained"
        },
        labels,
        title="Disturbed images that were not trained on",
    )
    return _shared.finish(
        "MAP@R on disturbed held-out digits", figures, picture, options.out / "self_supervised.png"
    )


if __name__ == "__main__":
    main()
