"""CLIP-style: a tower for pictures and one for captions, asked for combinations it never saw.

    python -m examples.clip

The pictures are handwritten digits, painted in a color on a ground, and the captions say so: "a
green four on gray". A fifth of the pairs of color and digit are kept from the training. Afterwards
each of their pictures, of digits that were not trained on either, should pick its caption out of
all 120: to do so, the towers must have learned colors and digits apart.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import metricjax as mj
from examples import _shared

DIGITS = "zero one two three four five six seven eight nine".split()
COLORS = {
    "red": (1.0, 0.2, 0.2), "green": (0.2, 0.9, 0.2), "blue": (0.3, 0.4, 1.0),
    "yellow": (1.0, 0.9, 0.1), "pink": (1.0, 0.5, 0.8), "white": (1.0, 1.0, 1.0),
}  # fmt: skip
GROUNDS = {"black": (0.0, 0.0, 0.0), "gray": (0.4, 0.4, 0.4)}
CONTENTS = np.array(list(itertools.product(range(10), range(6), range(2))))
CAPTIONS = [
    f"a {color} {digit} on {ground}"
    for digit, color, ground in itertools.product(DIGITS, COLORS, GROUNDS)
]
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})
CODES = np.array([[WORDS.index(word) for word in caption.split()] for caption in CAPTIONS])
UNSEEN = (CONTENTS[:, 0] - CONTENTS[:, 1]) % 5 == 0  # 24 of the captions


class Towers(nnx.Module):
    """Both end in the same space. The temperature of the loss is learned with them."""

    def __init__(self, rngs: nnx.Rngs):
        self.pictures = _shared.Network(rngs, channels=3)
        self.words = nnx.Embed(len(WORDS), 64, rngs=rngs)
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, 64, rngs=rngs)
        self.log_temperature = nnx.Param(jnp.log(0.07))

    def captions(self, codes):
        return self.out(nnx.relu(self.hidden(jnp.mean(self.words(codes), 1))))


@nnx.jit
def step(towers, optimizer, pictures, codes):
    def total(towers):
        pair = towers.pictures(pictures), towers.captions(codes)
        temperature = jnp.exp(towers.log_temperature[...])
        return mj.reduce(mj.losses.infonce(*pair, temperature=temperature))

    (loss, _), grads = nnx.value_and_grad(total, has_aux=True)(towers)
    optimizer.update(towers, grads)
    return loss


@nnx.jit
def similarities(towers, pictures):
    cosine = mj.distances.CosineSimilarity()
    return cosine(towers.pictures(pictures), towers.captions(CODES))


class Painter:
    """Paints what captions say, with random ones of some handwritten digits."""

    def __init__(self, images, labels, seed):
        self.of = [images[labels == digit] for digit in range(10)]
        self.rng = np.random.default_rng(seed)

    def __call__(self, captions):
        digit, color, ground = CONTENTS[captions].T
        ink = np.stack([self.rng.choice(self.of[d]) for d in digit])
        paint, behind = (
            np.array(list(colors.values()), np.float32)[which][:, None, None]
            for colors, which in ((COLORS, color), (GROUNDS, ground))
        )
        return ink * paint + (1 - ink) * behind


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=150, argv=argv)
    images, labels = _shared.load_digits()
    paint = Painter(images[:1200], labels[:1200], seed=0)
    seen, unseen = np.flatnonzero(~UNSEEN), np.flatnonzero(UNSEEN)
    truth = np.repeat(np.arange(len(CAPTIONS)), 15)
    pictures = Painter(images[1200:], labels[1200:], seed=1)(truth)

    towers = Towers(nnx.Rngs(0))
    optimizer = nnx.Optimizer(towers, optax.adam(3e-3), wrt=nnx.Param)
    right = lambda cosines: float(np.mean((np.argmax(cosines, 1) == truth)[UNSEEN[truth]]))
    figures = {"chance": 1 / len(CAPTIONS), "untrained": right(similarities(towers, pictures))}
    rng = np.random.default_rng(0)
    for _ in range(options.steps):
        batch = rng.permutation(seen)  # each caption once: no picture has two right ones
        step(towers, optimizer, paint(batch), CODES[batch])
    cosines = np.asarray(similarities(towers, pictures))
    figures["trained"] = right(cosines)

    picture = best_pictures(pictures, truth, cosines, rng.permutation(unseen)[:8])
    return _shared.finish(
        "pictures of unseen combinations that pick their caption out of 120",
        figures, picture, options.out / "clip.png",
    )  # fmt: skip


def best_pictures(pictures, truth, cosines, captions, k=10):
    """For each caption the pictures that are nearest to it, those of another one crossed out."""
    figure = Figure((9, 6), layout="constrained")
    figure.suptitle(f"Captions never trained on, and the nearest of {len(truth)} pictures")
    for i, axes in enumerate(figure.subplots(len(captions), k).flat):
        row, rank = divmod(i, k)
        at = np.argsort(-cosines[:, captions[row]])[rank]
        axes.imshow(pictures[at])
        axes.set(xticks=[], yticks=[])
        if truth[at] != captions[row]:
            axes.plot([-0.5, 7.5], [-0.5, 7.5], color=mj.pictures.RED)
        if rank == 0:
            axes.set_ylabel(CAPTIONS[captions[row]], rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    main()
