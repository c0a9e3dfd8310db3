"""Faces: ArcFace with a thousand people and a sample of them per step, tested on strangers.

    python -m examples.faces

The faces are drawn, not photographed: twenty numbers make a person (shape of the head, hair, eyes,
brows, ...), and ten others a picture of the person (where the head is, light, smile, ...). The
network learns to tell 1000 people apart, and then 200 others are verified: is this the same person?
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metricjax as mj
from examples import _shared

PEOPLE, SIZE = 1000, 24
EUCLIDEAN = mj.distances.LpDistance()


def draw(person, view):
    """One picture ``[24, 24, 3]`` of a person ``[20]`` in a view ``[10]``, numbers from 0 to 1."""
    person, view = iter(person), iter(view)
    between = lambda numbers, low, high: low + (high - low) * next(numbers)

    angle, zoom = between(view, -0.25, 0.25), between(view, 0.9, 1.1)
    right, down = between(view, -0.12, 0.12), between(view, -0.12, 0.12)
    axis = jnp.linspace(-1, 1, SIZE)
    x, y = axis[None, :], axis[:, None]
    x, y = x * jnp.cos(angle) + y * jnp.sin(angle), y * jnp.cos(angle) - x * jnp.sin(angle)
    x, y = (x - right) / zoom, (y - down) / zoom

    inside = lambda outside: jax.nn.sigmoid(-1.2 * SIZE * outside)  # with soft edges
    box = lambda across, along, w, h: inside(jnp.maximum(jnp.abs(across) - w, jnp.abs(along) - h))
    disc = lambda cx, cy, w, h: inside(
        (jnp.hypot((x - cx) / w, (y - cy) / h) - 1) * jnp.minimum(w, h)
    )
    image = jnp.broadcast_to(jnp.array([0.75, 0.82, 0.9]), (SIZE, SIZE, 3))
    paint = lambda image, mask, color: image + (color - image) * mask[..., None]

    tone, pink = between(person, 0, 1), between(person, -0.06, 0.06)
    skin = jnp.array([0.45, 0.28, 0.18]) + tone * jnp.array([0.55, 0.56, 0.54])
    skin = skin + pink * jnp.array([0.0, 1.0, 1.0])
    fair, red = between(person, 0, 0.8), between(person, 0, 0.35)
    hair = fair * jnp.array([0.9, 0.75, 0.45]) + red * jnp.array([0.3, 0.0, 0.0])
    width, height = between(person, 0.5, 0.68), between(person, 0.66, 0.82)
    fringe, volume = between(person, -0.5, -0.2), between(person, 1.04, 1.3)
    image = paint(image, disc(0, -0.08, width * volume, height * (volume + 1) / 2), hair)
    head = disc(0, 0.05, width, height)
    image = paint(image, head, skin)
    image = paint(image, head * inside(y - fringe + 0.25 * x**2), hair)

    apart, level = between(person, 0.2, 0.32), between(person, -0.1, 0.06)
    eye, brow, tilt = between(person, 0.07, 0.12), between(person, 0.12, 0.2), next(person) - 0.5
    blue = next(person)
    iris = jnp.stack([0.35 - 0.3 * blue, 0.2 + 0.15 * blue, 0.1 + 0.5 * blue])
    opened, gaze = between(view, 0.5, 1), between(view, -0.03, 0.03)
    for side in (-1, 1):
        away = x - side * apart
        above = y - level + eye + 0.6 * brow + side * tilt * away
        image = paint(image, disc(side * apart, level, 1.25 * eye, eye * opened), jnp.ones(3))
        pupil = disc(side * apart + gaze, level, 0.6 * eye, 0.75 * eye * opened)
        image = paint(image, pupil, iris)
        image = paint(image, box(above, away, 0.03, 0.15), 0.7 * hair)

    long, wide = between(person, 0.12, 0.3), between(person, 0.05, 0.12)
    nose = 0.6 * disc(0, level + 0.1 + long / 2, wide, long / 2)
    image = paint(image, nose, 0.75 * skin)
    below = level + long + between(person, 0.18, 0.28)
    half, lips = between(person, 0.14, 0.3), between(person, 0.03, 0.07)
    smile = between(view, -0.1, 0.12)
    bent = y - below + smile * ((x / half) ** 2 - 0.5)
    image = paint(image, box(bent, x, lips, half), jnp.array([0.7, 0.25, 0.25]))

    light, slope = between(view, 0.8, 1.1), between(view, -0.25, 0.25)
    warm = 1 + between(view, -0.08, 0.08) * jnp.array([1.0, 0.0, -1.0])
    return image * (light + slope * x)[..., None] * warm


def photos(key, people, each):
    """`each` pictures of each of some random people, with some noise: ``[N, 24, 24, 3]`` bytes."""
    keys = jax.random.split(key, 3)
    persons = jnp.repeat(jax.random.uniform(keys[0], (people, 20)), each, 0)
    views = jax.random.uniform(keys[1], (people * each, 10))
    images = jax.jit(jax.vmap(draw))(persons, views)
    images = jnp.clip(images + 0.02 * jax.random.normal(keys[2], images.shape), 0, 1)
    return np.asarray(255 * images).astype(np.uint8), np.repeat(np.arange(people), each)


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        layer = lambda inputs, outputs: nnx.Conv(inputs, outputs, (3, 3), strides=2, rngs=rngs)
        self.layers = nnx.List([layer(3, 16), layer(16, 32), layer(32, 64)])
        self.out = nnx.Linear(3 * 3 * 64, 64, rngs=rngs)

    def __call__(self, images):
        x = jax.nn.standardize(images / 255, axis=(1, 2, 3), epsilon=1e-3)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(x.reshape(len(x), -1))


@nnx.jit
def step(model, head, optimizer, images, labels, key, margin):
    """One update, with the people in the batch and some others: 256 in all (Partial FC)."""
    some = mj.sample_classes(key, labels, PEOPLE, 256 / PEOPLE)

    def total(both):
        model, head = both
        centers = head.weights[...][some.ids]
        return mj.reduce(
            mj.losses.arcface(model(images), some.labels, centers, margin=margin, scale=16.0)
        )

    (loss, _), grads = nnx.value_and_grad(total, has_aux=True)((model, head))
    optimizer.update((model, head), grads)
    return loss


@nnx.jit
def embed(model, images):
    return model(images)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=600, argv=argv)
    images, labels = photos(jax.random.key(0), PEOPLE, 8)
    strangers, names = photos(jax.random.key(1), 200, 6)

    model = Network(nnx.Rngs(0))
    # Short centers, as here, turn faster than those of length 8 that are usual.
    head = mj.nn.ArcFace(PEOPLE, 64, weight_init=nnx.initializers.normal(0.02), rngs=nnx.Rngs(1))
    rate = optax.cosine_decay_schedule(2e-3, options.steps)
    optimizer = nnx.Optimizer((model, head), optax.adam(rate), wrt=nnx.Param)
    margin = optax.linear_schedule(0.0, 10.0, options.steps // 2)  # degrees
    found = {
        "pixels": (strangers / 255).reshape(len(strangers), -1),
        "untrained": embed(model, strangers),
    }
    rng = np.random.default_rng(0)
    for i in range(options.steps):
        rows, key = rng.integers(0, len(images), 128), jax.random.fold_in(jax.random.key(0), i)
        step(model, head, optimizer, images[rows], labels[rows], key, margin(i))
    found["trained"] = embed(model, strangers)

    figures = {}
    for name, x in found.items():
        scores = mj.evaluation.retrieval_metrics(x, names)
        figures[f"{name}: recall@1"] = float(scores["precision_at_1"])
        pairs = mj.inference.pair_distances(x, names)
        error = mj.inference.equal_error_rate(*pairs, distance=EUCLIDEAN)
        figures[f"{name}: equal error rate"] = error.rate

    index = mj.inference.Index(found["trained"], labels=names, distance=EUCLIDEAN)
    queries = rng.choice(200, 6, replace=False) * 6  # the first picture of some strangers
    nearest = index.nearest(index.embeddings[queries], 7).ids[:, 1:]  # the first is the query
    picture = mj.pictures.retrieval_sheet(
        strangers[queries], names[queries], strangers[nearest], index.labels_of(nearest),
        title="Strangers, and the nearest of 1200 pictures",
    )  # fmt: skip
    return _shared.finish(
        "200 people never trained on", figures, picture, options.out / "faces.png"
    )


if __name__ == "__main__":
    main()
