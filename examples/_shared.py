"""What the examples share: the command line, digits and how to disturb them, a network, the end."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.ndimage import map_coordinates
from sklearn import datasets

import metricjax as mj


def options(doc: str, steps: int, argv: list[str] | None) -> argparse.Namespace:
    """``--steps`` and ``--out``, for an example whose docstring is `doc`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("examples_out"), help="folder of the picture: %(default)s"
    )
    chosen = parser.parse_args(argv)
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 handwritten digits ``[N, 8, 8, 1]`` from 0 to 1, in random order, and what they are."""
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images / 16).astype(np.float32)[..., None]
    return images[order], digits.target[order].astype(np.int32)


def load_numbers():
    """Numbers from 0 to 99, put together from two digits: ``[N, 8, 16, 1]``, and which they are.

    70 numbers to train on, and the 30 others to search among, which share no image of a digit.
    """
    images, labels = load_digits()
    rng = np.random.default_rng(0)
    numbers = rng.permutation(100)

    def compose(digits, which, each):
        of = [np.flatnonzero(labels[digits] == digit) for digit in range(10)]
        which = np.repeat(which, each)
        halves = [images[digits][[rng.choice(of[d]) for d in half]] for half in divmod(which, 10)]
        return np.concatenate(halves, axis=2), which.astype(np.int32)

    return compose(slice(1200), numbers[:70], 30), compose(slice(1200, None), numbers[70:], 20)


def map_at_r(embeddings, labels) -> float:
    """How much of the surroundings of each is of its class, 1 at best."""
    scores = mj.evaluation.retrieval_metrics(embeddings, labels)
    return float(scores["mean_average_precision_at_r"])


class Network(nnx.Module):
    """Two convolutions and a linear map: images ``[N, height, width, channels]`` to ``[N, 64]``."""

    def __init__(self, rngs: nnx.Rngs, height: int = 8, width: int = 8, channels: int = 1):
        self.conv1 = nnx.Conv(channels, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.out = nnx.Linear(height // 2 * width // 2 * 32, 64, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.conv1(images))
        x = nnx.avg_pool(x, (2, 2), (2, 2))
        x = nnx.relu(self.conv2(x))
        return self.out(x.reshape(len(x), -1))


def disturb(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image turned, scaled, moved, made fainter and noisy, all at random: another view."""

    def one(key, image):
        keys = jax.random.split(key, 5)
        angle = jax.random.uniform(keys[0], minval=-0.35, maxval=0.35)  # 20 degrees
        scale = jax.random.uniform(keys[1], (2,), minval=0.8, maxval=1.2)
        shift = jax.random.uniform(keys[2], (2, 1, 1), minval=-1.0, maxval=1.0)
        strength = jax.random.uniform(keys[3], minval=0.6, maxval=1.0)
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        turn = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])]) / scale
        grid = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij")) - 3.5
        places = jnp.einsum("ij,jhw->ihw", turn, grid) + 3.5 + shift
        moved = map_coordinates(image[..., 0], list(places), order=1)[..., None]
        return strength * moved + 0.05 * jax.random.normal(keys[4], image.shape)

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def draw_curves(axes, curves: dict[str, tuple], baseline: dict[str, float] | None = None) -> None:
    """A line for each ``(steps, values)``, and a dotted one for each baseline."""
    for (name, (steps, values)), color in zip(curves.items(), mj.pictures.COLORS, strict=False):
        axes.plot(steps, values, "o-", color=color, markersize=4, label=name)
    for name, value in (baseline or {}).items():
        axes.axhline(value, color="0.4", linestyle=":", label=name)
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def finish(measure: str, figures: dict[str, float], picture, path: Path) -> dict[str, float]:
    """Prints the figures, writes the picture, and returns the figures."""
    print(measure)
    for name, value in figures.items():
        print(f"  {name:<40} {value:.3f}")
    picture.savefig(path, dpi=100)
    print(f"wrote {path}")
    return figures
