"""Images by Pillow, which is imported when the first one is decoded."""

import io
import os

import numpy as np

from metricjax._optional import needed


def rgb(image):
    """A file, its bytes, pixels or a Pillow image (of any mode) as a Pillow image in RGB."""
    needed("PIL", "datasets: images need Pillow: pip install 'metricjax[datasets]'")
    from PIL import Image

    if isinstance(image, dict):  # of Hugging Face, where it does not decode
        image = image["bytes"] or image["path"]
    if isinstance(image, str | os.PathLike):
        with Image.open(image) as file:
            return file.convert("RGB")
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    return image.convert("RGB")
