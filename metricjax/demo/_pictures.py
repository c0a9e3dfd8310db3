"""Pictures of the training: those of `metricjax.pictures`, and the loss."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from metricjax import inference, pictures
from metricjax.demo._data import NUM_SEEN, Digits
from metricjax.distances import LpDistance
from metricjax.evaluation import knn

NEIGHBORS = 10


def loss_curve(losses: list[float], recipe: str) -> Figure:
    """Draws the loss of every step and its running mean."""
    window = min(20, 1 + len(losses) // 5)
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    steps = np.arange(1, len(losses) + 1)
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(steps[window - 1 :], mean, color=pictures.BLUE, label=f"mean over {window}")
    axes.set(title=f"Training loss: {recipe}", xlabel="step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def maps(before: jax.Array, after: jax.Array, labels: np.ndarray) -> Figure:
    """Draws the embeddings before and after training."""
    names = [f"{digit}" if digit < NUM_SEEN else f"{digit} (unseen)" for digit in labels]
    panels = {"before training": before, "after training": after}
    title = "Embeddings of images that were not trained on"
    return pictures.embedding_map(panels, names, title=title)


def thresholds(embeddings: jax.Array, labels: np.ndarray) -> dict[str, Figure]:
    """Draws the distances of all pairs and their ROC curve; marks the threshold of the best F1."""
    distance = LpDistance()
    pairs = inference.pair_distances(embeddings, labels, distance=distance)
    best = inference.best_threshold(*pairs, distance=distance).threshold
    title = "Pairs of images that were not trained on"
    options: dict = {"distance": distance, "threshold": best, "title": title}
    drawn = {"distances.png": pictures.distance_histogram, "roc.png": pictures.roc_curve}
    return {name: draw(*pairs, **options) for name, draw in drawn.items()}


def neighbors(embeddings: jax.Array, digits: Digits, seed: int) -> dict[str, Figure]:
    """Draws a random query and the worst query of each digit, with their nearest neighbors."""
    places = jnp.arange(len(embeddings))
    nearest = np.asarray(knn(embeddings, embeddings, NEIGHBORS, self_index=places).indices)
    images, labels = 1 - digits.images, digits.labels  # dark ink on white
    wrong = np.sum(labels[nearest] != labels[:, None], 1)
    rng = np.random.default_rng(seed)
    of_digit = [np.flatnonzero(labels == digit) for digit in range(10)]

    def sheet(kind, rows):
        title = f"{kind} images and their {NEIGHBORS} nearest neighbors"
        found = images[nearest[rows]], labels[nearest[rows]]
        return pictures.retrieval_sheet(images[rows], labels[rows], *found, title=title)

    return {
        "neighbours.png": sheet("Random", [rng.choice(rows) for rows in of_digit]),
        "worst.png": sheet("The worst", [rows[np.argmax(wrong[rows])] for rows in of_digit]),
    }


def report(folder: Path, embeddings: jax.Array, digits: Digits) -> Path:
    """Writes a page with scores, curves and a map of images that were not trained on."""
    title = "Embeddings of images that were not trained on"
    return pictures.report(folder, embeddings, digits.labels, 1 - digits.images, title=title)
