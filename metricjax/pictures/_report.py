"""`report`: one HTML page about embeddings and their labels.

The page is a template, `_page/report.html`, with a style and a script, and the numbers as JSON.
Long arrays are base64 inside of the JSON: 20,000 points are decoded in milliseconds.
"""

import base64
import io
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from metricjax._core.check import check_choice, check_embeddings
from metricjax._core.names import column
from metricjax._core.rounding import check_distance
from metricjax._optional import needed
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._knn import in_space_of
from metricjax.inference._thresholds import criterion
from metricjax.pictures._numbers import numbers
from metricjax.pictures._shared import as_images, check_finite, pca, umap

MOST_SAMPLES = 2000  # with images or texts: about 10 MiB of small color images
SIDE = 48  # of a small image, in pixels
LETTERS = 200  # of a text


def report(
    path: str | os.PathLike,
    embeddings: Float[ArrayLike, "n d"],
    labels: Any,
    images: Any = None,
    texts: Any = None,
    *,
    distance: Distance = LpDistance(),
    by: str | tuple[str, float] = "f1",
    method: str = "pca",
    seed: int = 0,
    title: str = "Embeddings",
) -> Path:
    """Writes one HTML page about embeddings and their labels, which opens without a network.

    The page shows retrieval metrics with bootstrap intervals, recall and precision of the first k
    neighbors, precision and recall of thresholds, histograms of distances with a threshold, scores
    of each class, the most confused classes, the worst queries with their neighbors, hubs,
    candidates for wrong labels, and a map. Hover a sample of the map to see it; click it to see its
    10 nearest neighbors.

    Each sample searches among all others. The threshold is the best one for the pairs of these same
    samples: choose the threshold that you use on other data than those you test on.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from metricjax import pictures
        >>> labels = np.arange(60) % 3
        >>> x = np.eye(3)[labels] + np.random.default_rng(0).normal(size=(60, 3), scale=0.3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = pictures.report(folder, x, labels, texts=[f"sample {i}" for i in range(60)])
        ...     print(page.name, "<html" in page.read_text())
        report.html True

    Args:
        path: a file that ends in ``.html``, or a folder for ``report.html``. Missing folders are
            created.
        embeddings: ``[N, D]``, finite.
        labels: ``[N]`` integers or strings.
        images: ``[N, H, W]`` or ``[N, H, W, 1]`` in shades of gray, where 0 is black, or
            ``[N, H, W, 3]`` or ``[N, H, W, 4]`` in color; floats from 0 to 1, or bytes. They are
            shrunk to 48 pixels.
            The page has images and texts of at most 2,000 samples: of those in its lists first, and
            of a random sample of the others.
        texts: ``[N]`` strings, cut after 200 characters.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``.
        by: how the threshold is chosen; see `inference.threshold`.
        method: the map: "pca" for the two directions of most variance, or "umap", which keeps
            neighbors together and needs ``pip install 'metricjax[umap]'``.
        seed: seed of the intervals, of the sampled pairs and images, and of UMAP.
        title: above the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: if shapes do not match, if embeddings are not finite, or if there are not at
            least two classes, one of them with two samples.
        TypeError: for other dtypes.
        ImportError: if there are images and no Pillow, which ``pip install 'metricjax[plots]'``
            installs.
    """
    name = "pictures.report"
    check_choice(name, "method", method, ("pca", "umap"))
    check_distance(name, distance)
    criterion(name, by)
    x = jnp.asarray(embeddings)
    check_embeddings(name, "embeddings", x)
    labels = column(name, "labels", labels, "embeddings", len(x))
    _check_content(name, x, labels)
    for what, values in ("images", images), ("texts", texts):
        if values is not None and len(values) != len(x):
            raise ValueError(
                f"{name}: `{what}` must have {len(x)} entries to match `embeddings`, got "
                f"{len(values)}."
            )
    if images is not None:  # before the search, which may take minutes
        images = np.asarray(images)
        as_images(name, "images", images[:1], 1)
        _pillow(name)
    content = numbers(name, x, labels, distance=distance, by=by, seed=seed)
    space = np.asarray(in_space_of(distance, x), np.float64)
    plane, axes = pca(space) if method == "pca" else umap(name, space, seed)
    content |= {"title": title, "plane": plane.astype(np.float32), "axes": axes}
    content["samples"] = _samples(name, content, images, texts, seed)
    path = Path(path)
    path = path if path.suffix == ".html" else path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(content), "utf-8")
    return path


def _check_content(function, x, labels):
    check_finite(function, x)
    classes = len(np.unique(labels))
    if not 1 < classes < len(labels):
        raise ValueError(
            f"{function}: `labels` must have two classes or more, one of them with two samples, "
            f"got {classes} classes of {len(labels)} samples. There is nothing to tell apart."
        )


def _samples(function, content, images, texts, seed) -> dict:
    """Returns the rows whose images or texts the page has, and these images and texts."""
    if images is None and texts is None:
        return {"rows": np.zeros(0, np.int32)}
    queries, errors = content["worst"]["rows"], content["label_errors"]["rows"]
    listed = queries, content["neighbors"][queries].ravel(), errors, content["hubness"]["rows"]
    others = np.random.default_rng(seed).permutation(content["count"])
    rows = np.concatenate([*listed, others]).astype(np.int32)
    first = np.sort(np.unique(rows, return_index=True)[1])[:MOST_SAMPLES]  # keeps their order
    rows = rows[first]
    samples: dict[str, Any] = {"rows": rows}
    if images is not None:
        chosen = as_images(function, "images", np.asarray(images)[rows], 1)
        samples["images"] = [_png(function, image) for image in chosen]
    if texts is not None:
        samples["texts"] = [_cut(str(texts[i])) for i in rows]
    return samples


def _cut(text):
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _png(function, image) -> str:
    """Encodes an image from 0 to 1 as a data URI with sides of at most `SIDE` pixels."""
    pixels, file = np.uint8(np.round(image * 255)), io.BytesIO()
    small = _pillow(function).fromarray(pixels)
    small.thumbnail((SIDE, SIDE))
    small.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _pillow(function):
    return needed("PIL.Image", f"{function}: `images` need Pillow: pip install 'metricjax[plots]'")


def _page(content) -> str:
    """Fills the template. The data come last: their texts may look like a part of the template."""
    part = lambda name: (files("metricjax.pictures") / "_page" / name).read_text("utf-8")
    page = part("report.html")
    page = page.replace("/* report.css */", part("report.css"))
    page = page.replace("/* report.js */", part("report.js"))
    data = json.dumps(_plain(content), allow_nan=False)
    return page.replace("{{data}}", data.replace("<", r"\u003c"))  # no text ends the script


def _plain(value):
    """Converts a value to one that JSON can hold. NaN and infinity become null."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, np.ndarray) and value.dtype in (np.int32, np.float32):
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        return {"type": str(value.dtype), "base64": base64.b64encode(data).decode()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
