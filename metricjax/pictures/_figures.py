"""Figures of matplotlib: maps of embeddings, curves and histograms of pairs, sheets of images."""

import itertools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from metricjax._core.check import check_choice, check_embeddings, check_rows
from metricjax._core.names import column
from metricjax._core.names import names as label_names
from metricjax._optional import needed
from metricjax.distances import Distance, normalize
from metricjax.inference import equal_error_rate, operating_point, roc_auc
from metricjax.inference import roc_curve as rates
from metricjax.inference._pairs import the_distance
from metricjax.inference._thresholds import arrays_of_pairs
from metricjax.pictures._shared import as_images, check_finite, not_empty, pca, shares, umap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colors, distinct with any color vision; wine replaces yellow, too pale for points.
COLORS = "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 black #882255".split()
MARKERS = "o^sD"
BLUE = "#0072B2"  # one to a line: the docs cannot read a tuple that is exported again
ORANGE = "#E69F00"
RED = "#D55E00"
GRAY = "0.8"
MOST_CLASSES = len(COLORS) * len(MARKERS)
PITCH, TILE = 1.28, 0.86  # step between rows of images, and side of an image


def embedding_map(
    embeddings: Float[ArrayLike, "n d"] | dict[str, Any],
    labels: Any,
    *,
    method: str = "pca",
    normalize_embeddings: bool = True,
    seed: int = 0,
    title: str = "",
) -> "Figure":
    """Draws the embeddings in the plane, with a color and a shape for each label.

    If there are more than 32 labels, the eight most frequent have colors, and the others are gray.

    Args:
        embeddings: ``[N, D]``; or a dict of names and embeddings of the same samples, for panels
            side by side.
        labels: ``[N]`` integers or strings.
        method: "pca" for the two directions of most variance, or "umap", which keeps neighbors
            together and needs ``pip install 'metricjax[umap]'``.
        normalize_embeddings: divide each row by its Euclidean norm first, as distances do.
        seed: seed of UMAP.
        title: above the picture.

    Raises:
        ValueError: if shapes do not match, or there are no embeddings.
    """
    name = "pictures.embedding_map"
    check_choice(name, "method", method, ("pca", "umap"))
    panels = embeddings if isinstance(embeddings, dict) else {"": embeddings}
    not_empty(name, "embeddings", panels)
    for x in map(np.asarray, panels.values()):
        check_embeddings(name, "embeddings", x)
        not_empty(name, "embeddings", x)
        check_finite(name, x)
        labels = column(name, "labels", labels, "embeddings", len(x))
    groups = _groups(labels)
    width = 5.6 * len(panels)
    longest = max(len(style["label"]) for _, style in groups)
    lines = -(-len(groups) // max(1, int(width / (0.4 + 0.085 * longest))))  # lines of the legend
    figure = _figure(name, (width, 6 + 0.22 * lines))
    figure.suptitle(title)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel, x) in zip(places, panels.items(), strict=True):
        x = np.asarray(normalize(jnp.asarray(x)) if normalize_embeddings else x, np.float64)
        plane, names = pca(x) if method == "pca" else umap(name, x, seed)
        for rows, style in reversed(groups):
            axes.scatter(*plane[rows].T, rasterized=True, **style)
        axes.set(title=panel, xlabel=names[0], ylabel=names[1], xticks=[], yticks=[])
        low, high = plane.min(0), plane.max(0)
        half, center = 0.54 * max(*(high - low), 1e-6), (low + high) / 2
        axes.set(xlim=center[0] + [-half, half], ylim=center[1] + [-half, half], box_aspect=1)
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], texts[::-1], loc="outside lower center", ncols=-(-len(texts) // lines),
        frameon=False, markerscale=1.5, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
    return figure


def roc_curve(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
    threshold: float | None = None,
    title: str = "",
) -> "Figure":
    """Draws true against false matches at every threshold, and marks where both errors are equal.

    If the equal error rate is below 5%, the axis of false matches is logarithmic.

    Args:
        distances, is_match, weights, of, distance: labeled pairs, as in `inference.roc_curve`.
        threshold: a threshold to mark; none by default.
        title: above the picture.
    """
    pairs = distances, is_match, weights, of
    curve = rates(*pairs, distance=distance)
    error = equal_error_rate(*pairs, distance=distance)
    area = roc_auc(*pairs, distance=distance)
    figure = _figure("pictures.roc_curve", (5.6, 5.4))
    axes = figure.subplots()
    log = error.rate < 0.05
    left = curve.fmr[curve.fmr > 0].min() / 2 if log else 0  # where a rate of 0 is drawn
    at = lambda fmr: np.maximum(fmr, left)
    axes.plot(at(curve.fmr), curve.tmr, color=BLUE, linewidth=2, label=f"ROC, area {area:.4f}")
    line = np.geomspace(left, 1) if log else np.array([0, 1])
    axes.plot(line, line, color="0.6", linestyle=":", label="chance")
    style = {"linestyle": "none", "clip_on": False, "zorder": 3}
    axes.plot(
        at(error.rate), 1 - error.rate, "o", color="black", markerfacecolor="none", markersize=13,
        markeredgewidth=1.5, label=f"equal error rate {error.rate:.2%}", **style,
    )  # fmt: skip
    if threshold is not None:
        point = operating_point(*pairs, threshold=threshold, distance=distance)
        name = f"threshold {threshold:.3g}: FMR {point.fmr:.2%}, TMR {point.tmr:.2%}"
        axes.plot(at(point.fmr), point.tmr, "D", color=RED, markersize=7, label=name, **style)
    span = (left, 1) if log else (-0.01, 1.01)
    axes.set(xscale="log" if log else "linear", xlim=span, ylim=(-0.01, 1.01))
    axes.set(title=title, xlabel="false match rate (FMR)", ylabel="true match rate (TMR)")
    axes.legend(frameon=False, loc="center" if log else "lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def distance_histogram(
    distances: Any,
    is_match: Any,
    weights: Any = None,
    of: Distance | None = None,
    *,
    distance: Distance | None = None,
    threshold: float | None = None,
    bins: int = 60,
    title: str = "",
) -> "Figure":
    """Draws histograms of the distances of matches and of other pairs, each as shares of its kind.

    Args:
        distances, is_match, weights, of, distance: labeled pairs, as in `inference.roc_curve`.
        threshold: a threshold to mark; none by default.
        bins: number of bins.
        title: above the picture.
    """
    name = "pictures.distance_histogram"
    not_empty(name, "distances", distances)
    distances, is_match, weights = arrays_of_pairs(name, distances, is_match, weights)
    kept = weights > 0
    distances, is_match, weights = distances[kept].astype(np.float64), is_match[kept], weights[kept]
    edges = np.histogram_bin_edges(distances, bins)
    figure = _figure(name, (7, 4))
    axes = figure.subplots()
    kinds = ("matches", is_match, BLUE, "-"), ("other pairs", ~is_match, ORANGE, "--")
    for kind, rows, color, line in kinds:
        heights = shares(distances[rows], weights[rows], edges)
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(heights, edges, color=color, linewidth=2, linestyle=line, label=kind)
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1.5, label=f"threshold {threshold:.3g}")
    what = "similarity" if the_distance(name, of, distance).is_similarity else "distance"
    axes.set(title=title, xlabel=what, ylabel="share of pairs")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def retrieval_sheet(
    query_images: ArrayLike,
    query_labels: Any,
    neighbor_images: ArrayLike,
    neighbor_labels: Any,
    *,
    title: str = "",
) -> "Figure":
    """Draws images and their nearest neighbors, row by row.

    Queries have a blue frame and their label. Neighbors with the same label have a green frame.
    Neighbors with another label have a dashed red frame and their label.

    Args:
        query_images: ``[Q, H, W]`` or ``[Q, H, W, 1]`` in shades of gray, where 0 is black, or
            ``[Q, H, W, 3]`` or ``[Q, H, W, 4]`` in color; floats from 0 to 1, or bytes.
        query_labels: ``[Q]`` integers or strings.
        neighbor_images: ``[Q, K, H, W]``, or with channels as above; nearest first.
        neighbor_labels: ``[Q, K]``.
        title: above the picture.
    """
    name = "pictures.retrieval_sheet"
    queries = as_images(name, "query_images", query_images, 1)
    neighbors = as_images(name, "neighbor_images", neighbor_images, 2)
    others = label_names(name, "neighbor_labels", neighbor_labels)
    q, k = neighbors.shape[:2]
    check_rows(name, "query_images", queries, "neighbor_images", q)
    labels = column(name, "query_labels", query_labels, "query_images", q)
    if others.shape != (q, k):
        raise ValueError(
            f"{name}: `neighbor_labels` must have shape {(q, k)} to match `neighbor_images`, "
            f"got {others.shape}."
        )
    figure = _figure(name, (0.8 * (k + 1.5), 0.8 * PITCH * q + 0.5))
    figure.suptitle(title)
    axes = figure.subplots()
    for y in range(q):
        _tile(axes, 0, y, queries[y], BLUE, f"{labels[y]}")
        for x in range(k):
            wrong = others[y, x] != labels[y]
            style = (RED, f"\N{BALLOT X} {others[y, x]}", "--") if wrong else ("#009E73",)
            _tile(axes, x + 1.4, y, neighbors[y, x], *style)
    axes.set(xlim=(-0.1, k + 1.4), ylim=(q * PITCH, -0.1), aspect="equal")
    axes.axis("off")
    return figure


def _tile(axes, x, row, image, color, name="", line="-"):
    """Draws an image in a frame, with its name, if any, below it."""
    from matplotlib.patches import Rectangle

    y = row * PITCH
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(x, x + TILE, y + TILE, y))
    axes.add_patch(Rectangle((x, y), TILE, TILE, fill=False, color=color, linewidth=2, ls=line))
    short = _shorter(name, 12)
    size = 8 if len(short) <= 9 else 6
    axes.text(x + TILE / 2, y + 1.06, short, color=color, fontsize=size, ha="center", va="center",
              parse_math=False)  # fmt: skip


def _shorter(name, most):
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _legible(name):
    """Legends leave out names that start with "_", and typeset what is between "$"."""
    name = _shorter(name, 24).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _groups(labels):
    """Returns groups of rows to draw together, each with its style."""
    distinct, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    colored = np.arange(len(distinct))
    groups = []
    base = {"edgecolors": "white", "linewidths": 0.4, "s": 20 if len(labels) < 5000 else 8}
    if len(distinct) > MOST_CLASSES:
        colored = np.sort(np.argsort(-counts, kind="stable")[: len(COLORS)])
    looks = itertools.product(MARKERS, COLORS)
    for which, (marker, color) in zip(colored, looks, strict=False):
        style = {"color": color, "marker": marker, "label": _legible(f"{distinct[which]}")}
        groups.append((of == which, base | style))
    if len(colored) < len(distinct):
        others = f"{len(distinct) - len(colored)} others"
        groups.append((~np.isin(of, colored), base | {"color": GRAY, "label": others}))
    return groups


def _figure(function, size):
    advice = f"{function} needs matplotlib: pip install 'metricjax[plots]'"
    figure = needed("matplotlib.figure", advice).Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure
