"""Conversion of any image to a Pillow image in RGB with 8 bits for each channel."""

import contextlib
import io

import numpy as np

from metricjax._optional import needed


def rgb(where, image):
    """Converts the bytes of a file, pixels, or a Pillow image (of any mode) to upright RGB.

    Error messages start with `where`, because a damaged image may turn up after hours of training.
    """
    needed("PIL", "datasets: images need Pillow: pip install 'metricjax[datasets]'")
    from PIL import Image, ImageOps

    try:
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        if isinstance(image, Image.Image):
            image.load()  # raises if the pixels are damaged
            # Cameras store a photo as the sensor saw it, and how to turn it in EXIF.
            with contextlib.suppress(Exception):  # damaged EXIF says nothing
                image = ImageOps.exif_transpose(image)
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # Pillow warns of a palette that loses its alpha
            if image.mode[0] not in "FI":
                return image.convert("RGB")
        pixels = np.asarray(image)
        if getattr(image, "mode", "") == "I" and not np.any(pixels >> 16):
            pixels = pixels.astype(np.uint16)  # Pillow stores the 16 bits of some files in 32
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any type of error for damaged files
        raise OSError(
            f"{where} must be a whole image, got {type(error).__name__}: {str(error)[:150]}. "
            f"Replace it or leave it out."
        ) from error
    return Image.fromarray(_eight_bits(where, pixels)).convert("RGB")


def _eight_bits(where, pixels):
    """Checks pixels and scales them to 8 bits.

    Pillow itself would clip 16-bit values at 255, and cut floats in [0, 1] to 0 and 1.
    """
    kind = pixels.dtype if pixels.ndim else type(pixels.item()).__name__
    if pixels.dtype.kind not in "bu" or pixels.dtype.itemsize > 2:
        raise TypeError(
            f"{where} must have pixels of bool, uint8 or uint16, got {kind}. Scale them to 0 to "
            f"255, and convert them by `.astype(np.uint8)`."
        )
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"{where} must have shape [H, W] or [H, W, 1, 3 or 4], got {pixels.shape}. Move the "
            f"channels to the end, and take one image."
        )
    if pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    if pixels.dtype.itemsize == 2:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65,535 = 255 * 257
    return pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
