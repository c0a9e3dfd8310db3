"""What training did, in three pictures."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metricjax.demo._data import NUM_SEEN, Digits
from metricjax.evaluation import knn

# Okabe and Ito's colours, told apart with any colour vision; unseen digits differ in shape as well.
SEEN_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
UNSEEN_MARKERS = ("^", "s", "D")
BLUE, RED = "#0072B2", "#D55E00"


def loss_curve(losses: list[float], recipe: str) -> Figure:
    """The loss of every step, and its running mean."""
    window = min(20, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    steps = np.arange(1, len(losses) + 1)
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(steps[window - 1 :], mean, color=BLUE, linewidth=2, label=f"mean of {window} steps")
    axes.set(title=f"Training loss: {recipe}", xlabel="step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def maps(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Figure:
    """The embeddings before and after training, each seen along its two main directions."""
    figure = Figure((11, 5.6), layout="constrained")
    figure.suptitle("Images that were not trained on, in embedding space")
    panels = figure.subplots(1, 2)
    for axes, title, x in zip(panels, ("before", "after"), (before, after), strict=True):
        plane, share = pca(np.asarray(x))
        for digit in range(10):
            points = plane[labels == digit].T
            if digit < NUM_SEEN:
                style = {"color": SEEN_COLORS[digit], "s": 14}
                name = f"{digit}"
            else:
                style = {"marker": UNSEEN_MARKERS[digit - NUM_SEEN], "s": 16, "linewidths": 0.7}
                style |= {"facecolors": "none", "edgecolors": "black"}
                name = f"{digit} (never trained on)"
            axes.scatter(*points, label=name, **style)
        axes.set(title=f"{title} training ({share:.0%} of the variance)", xticks=[], yticks=[])
        axes.set_aspect("equal", "datalim")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=10, frameon=False)
    return figure


def pca(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit vectors projected onto their two main directions, and the variance these hold."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return left[:, :2] * scale[:2], np.sum(scale[:2] ** 2) / np.sum(scale**2)


def neighbours(embeddings: np.ndarray, digits: Digits, seed: int, k: int = 8) -> Figure:
    """For each digit a random query and the worst one, with their nearest neighbours."""
    _, nearest = knn(embeddings, embeddings, k, self_index=jnp.arange(len(embeddings)))
    nearest = np.asarray(nearest)
    wrong = digits.labels[nearest] != digits.labels[:, None]
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(digits.labels == digit) for digit in range(10)]
    chosen = {
        "a random image of each digit": [rng.choice(row) for row in rows],
        "the worst image of each digit": [row[np.argmax(wrong[row].sum(1))] for row in rows],
    }
    figure = Figure((11, 7), layout="constrained")
    figure.suptitle(
        f"Query (blue) and its {k} nearest neighbours; wrong ones are crossed out and named"
    )
    for axes, (title, queries) in zip(figure.subplots(1, 2), chosen.items(), strict=True):
        axes.set(title=title, xlim=(-0.2, k + 1.6), ylim=(10, -0.1), aspect="equal")
        axes.axis("off")
        for y, query in enumerate(queries):
            _tile(axes, 0, y, digits.images[query], BLUE)
            for x, index in enumerate(nearest[query], start=1):
                _tile(axes, x + 0.4, y, digits.images[index], RED if wrong[query, x - 1] else None)
                if wrong[query, x - 1]:
                    axes.text(x + 0.4, y, f"{digits.labels[index]}", color=RED)
    return figure


def _tile(axes, x, y, image, frame):
    """One image in the unit square at `x`, `y`, framed."""
    axes.imshow(image[..., 0], cmap="gray_r", extent=(x, x + 0.85, y + 0.85, y))
    if frame:
        axes.add_patch(Rectangle((x, y), 0.85, 0.85, fill=False, color=frame, linewidth=2.5))
