"""What the figures and the report share: images, histograms, and points in the plane."""

import numpy as np

from metricjax._optional import needed

ROUNDING = 1e-3  # an image that was resized or normalized may be slightly outside of [0, 1]


def not_empty(function, name, x):
    if not np.size(x) or not len(x):
        raise ValueError(f"{function}: `{name}` must not be empty, got nothing to draw.")


def check_finite(function, x):
    finite = np.isfinite(np.asarray(x, np.float64)).all(1)
    if not finite.all():
        raise ValueError(
            f"{function}: `embeddings` must be finite, got NaN or infinity in row "
            f"{np.argmin(finite)}. Leave such rows out."
        )


def as_images(function, name, images, axes):
    """Returns images from 0 to 1, in color, or in shades of gray without a channel axis."""
    images = np.asarray(images)
    not_empty(function, name, images)
    if images.ndim == axes + 3 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != axes + 2 and (images.ndim != axes + 3 or images.shape[-1] not in (3, 4)):
        raise ValueError(
            f"{function}: `{name}` must be images [..., H, W] or [..., H, W, 1, 3 or 4] after "
            f"{axes} axes, got {images.shape}."
        )
    if images.dtype == np.uint8:
        return images / 255
    images = images.astype(float)
    if not np.all((images >= -ROUNDING) & (images <= 1 + ROUNDING)):
        raise ValueError(
            f"{function}: `{name}` must be bytes (uint8) or floats from 0 to 1, got "
            f"{images.min():.4g} to {images.max():.4g}. Scale them, or use `.astype(np.uint8)`."
        )
    return np.clip(images, 0, 1)


def shares(distances, weights, edges):
    """Returns the share of the weight in each bin; all are 0 if nothing weighs anything."""
    counts = np.histogram(distances, edges, weights=weights)[0]
    total = counts.sum()
    return counts / total if total else counts


def pca(x):
    """Projects on the two directions of most variance; the largest weight of each is positive."""
    x = x - x.mean(0)
    # The triangle of QR has the same directions as x, and at most D rows.
    _, scale, directions = np.linalg.svd(np.linalg.qr(x, mode="r"), full_matrices=False)
    largest = np.argmax(np.abs(directions), 1)[:, None]
    directions = (directions * np.sign(np.take_along_axis(directions, largest, 1)))[:2]
    missing = 2 - len(directions)  # with one feature or one embedding
    plane = np.pad(x @ directions.T, [(0, 0), (0, missing)])
    parts = np.pad(scale[:2] ** 2, (0, missing)) / max(np.sum(scale**2), 1e-300)
    return plane, [f"direction {i}: {share:.0%} of the variance" for i, share in
                   enumerate(parts, start=1)]  # fmt: skip


def umap(function, x, seed):
    advice = "`method='umap'` needs UMAP: pip install 'metricjax[umap]'"
    make = needed("umap", f"{function}: {advice}").UMAP
    init = "spectral" if len(x) >= 5 else "random"  # too few points for a start from eigenvectors
    neighbors = max(2, min(15, len(x) - 1))
    model = make(n_neighbors=neighbors, random_state=seed, n_jobs=1, init=init)
    return model.fit_transform(x), ["UMAP 1", "UMAP 2"]
