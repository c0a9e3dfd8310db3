"""Draws the pictures of the front page: ``python -m docs._picture``, in a checkout.

The network and the data are those of `examples.supervised`: numbers of two handwritten digits, 70
to train on and 30 others to search among. Each sheet has queries in its first column, followed by
the nearest images, before and after training. It takes about half a minute on one CPU core.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

import metricjax as mj
from examples import _shared, supervised

FOLDER = Path(__file__).parent / "images"
STEPS, MARGIN = 300, 0.4  # of the example
QUERIES, NEIGHBORS = 5, 8


def train(model: nnx.Module) -> None:
    (images, labels), _ = _shared.load_numbers()
    batches = mj.samplers.Batches(
        mj.samplers.m_per_class, labels, m=4, batch_size=96, seed=0, steps=STEPS
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    for rows in batches:
        supervised.step(model, optimizer, images[rows], labels[rows], MARGIN)


def sheet(embeddings: jax.Array, images: np.ndarray, labels: np.ndarray, title: str):
    """The same queries for all embeddings, drawn at random, with their neighbors."""
    queries = np.random.default_rng(0).choice(len(labels), QUERIES, replace=False)
    found = mj.evaluation.knn(embeddings[queries], embeddings, NEIGHBORS, self_index=queries)
    neighbors = np.asarray(found.indices)
    # 8 x 16 pixels, on square tiles, with dark ink on white
    square = 1 - np.pad(images, ((0, 0), (4, 4), (0, 0), (0, 0)))
    names = np.array([f"{label:02d}" for label in labels])
    return mj.pictures.retrieval_sheet(
        square[queries], names[queries], square[neighbors], names[neighbors],
        title=f"{title}: MAP@R {_shared.map_at_r(embeddings, labels):.2f}",
    )  # fmt: skip


def main() -> None:
    _, (images, labels) = _shared.load_numbers()
    model = _shared.Network(nnx.Rngs(0), width=16)
    before = sheet(supervised.embed(model, images), images, labels, "Before training")
    train(model)
    after = sheet(supervised.embed(model, images), images, labels, "After training")
    FOLDER.mkdir(exist_ok=True)
    for name, figure in {"before": before, "after": after}.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
