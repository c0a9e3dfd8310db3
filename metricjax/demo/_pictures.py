"""What training did, in three pictures."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metricjax.demo._data import NUM_SEEN, Digits
from metricjax.evaluation import knn

# Okabe and Ito's colours and a few dark ones, told apart with any colour vision; unseen digits have
# shapes of their own.
COLORS = "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #F0E442 black 0.6 #661100".split()
MARKERS = "o" * NUM_SEEN + "^sD"
BLUE, RED = "#0072B2", "#D55E00"
PITCH = 1.28  # from one row of images to the next


def loss_curve(losses: list[float], recipe: str) -> Figure:
    """The loss of every step, and its running mean."""
    window = min(20, 1 + len(losses) // 5)
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    steps = np.arange(1, len(losses) + 1)
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(steps[window - 1 :], mean, color=BLUE, linewidth=2, label=f"mean over {window}")
    axes.set(title=f"Training loss: {recipe}", xlabel="step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def maps(before: jax.Array, after: jax.Array, labels: np.ndarray) -> Figure:
    """The embeddings before and after training, each along its two main directions."""
    figure = Figure((11, 6.2), layout="constrained")
    figure.suptitle("Embeddings of images that were not trained on")
    panels = figure.subplots(1, 2)
    for axes, when, x in zip(panels, ("before", "after"), (before, after), strict=True):
        plane, share = pca(np.asarray(x))
        for digit, (color, marker) in enumerate(zip(COLORS, MARKERS, strict=True)):
            axes.scatter(
                *plane[labels == digit].T,
                s=20,
                color=color,
                marker=marker,
                edgecolors="white",
                linewidths=0.4,
                label=f"{digit}" if digit < NUM_SEEN else f"{digit} (unseen)",
            )
        axes.set_title(f"{when} training: two directions, {share:.0%} of the variance")
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", "datalim")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=10,
        frameon=False,
        markerscale=1.5,
        handletextpad=0.1,
        columnspacing=1.2,
    )
    return figure


def pca(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit vectors projected onto their two main directions, and the variance these hold."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return left[:, :2] * scale[:2], np.sum(scale[:2] ** 2) / np.sum(scale**2)


def neighbours(embeddings: jax.Array, digits: Digits, seed: int, k: int = 8) -> Figure:
    """For each digit a random query and the worst one, with their nearest neighbours."""
    places = jnp.arange(len(embeddings))
    nearest = np.asarray(knn(embeddings, embeddings, k, self_index=places)[1])
    wrong = digits.labels[nearest] != digits.labels[:, None]
    rng = np.random.default_rng(seed)
    of_digit = [np.flatnonzero(digits.labels == digit) for digit in range(10)]
    worst = [rows[np.argmax(wrong[rows].sum(1))] for rows in of_digit]
    chosen = {
        "a random image of each digit": [rng.choice(rows) for rows in of_digit],
        "the image of each digit with most wrong neighbours": worst,
    }
    figure = Figure((11, 7.4), layout="constrained")
    figure.suptitle(f"Queries (blue) and their {k} nearest neighbours; wrong ones framed and named")
    for axes, (title, queries) in zip(figure.subplots(1, 2), chosen.items(), strict=True):
        for y, query in enumerate(queries):
            _tile(axes, 0, y, digits.images[query], BLUE, f"{digits.labels[query]}")
            for x, index in enumerate(nearest[query], start=1):
                name = f"\N{BALLOT X} {digits.labels[index]}"
                style = (RED, name) if wrong[query, x - 1] else ()
                _tile(axes, x + 0.4, y, digits.images[index], *style)
        axes.set(title=title, xlim=(-0.1, k + 1.4), ylim=(10 * PITCH, -0.1), aspect="equal")
        axes.axis("off")
    return figure


def _tile(axes, x, row, image, color=None, name=""):
    """One image, in a frame and with a name below it if these are given."""
    y, size = row * PITCH, 0.86
    axes.imshow(image[..., 0], cmap="gray_r", extent=(x, x + size, y + size, y))
    if color:
        axes.add_patch(Rectangle((x, y), size, size, fill=False, color=color, linewidth=2))
        axes.text(x + size / 2, y + 1.06, name, color=color, fontsize=8, ha="center", va="center")
