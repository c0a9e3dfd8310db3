"""Images of a data set as one array of pixels, and which of them are damaged.

Decoding takes nearly all of the time. Pillow does not hold Python's lock while it decodes, so
threads share the work.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from metricjax._core.check import check_at_least
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import ImageFiles

NAME = "datasets.decode"
THREADS = 8
"""Each thread keeps a core busy and holds one decoded image, so their number is bounded."""
SHOWN = 20
"""How many damaged images a message names. It counts the others."""


def decode(
    images: Dataset | Sequence[str | os.PathLike] | str | os.PathLike,
    size: int | tuple[int, int],
    rows: Sequence[int] | np.ndarray | None = None,
    *,
    threads: int = THREADS,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes images, and brings all of them to one size.

    An image is scaled, with its proportions kept, until it just covers ``H x W``. Then its center
    is cut out. Divide by 255 on the device: the array is a quarter of the same array in float32.

    Example:
        >>> import numpy as np
        >>> from metricjax import datasets
        >>> records = [{"image": np.full(x, 9, np.uint8), "label": 0} for x in [(4, 6), (5, 3, 3)]]
        >>> images = datasets.decode(datasets.from_records(records), 2)
        >>> print(images.shape, images.dtype, images.max())
        (2, 2, 2, 3) uint8 9

    Args:
        images: a `Dataset`, or paths of image files; or one path.
        size: the height and the width, or one number for both.
        rows: which images to decode, such as a batch of `metricjax.samplers.Batches`; all of them
            by default.
        threads: how many images to decode at the same time, >= 1.

    Returns:
        RGB pixels ``[N, H, W, 3]``, in the order of `rows`.

    Raises:
        OSError: if images are damaged. One error names all of them, up to 20.
    """
    check_at_least(NAME, "threads", threads, 1)
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    check_at_least(NAME, "size", min(height, width), 1)
    if isinstance(images, str | os.PathLike):
        images = [images]
    source = images.images if isinstance(images, Dataset) else ImageFiles(tuple(map(str, images)))
    rows = np.arange(len(source)) if rows is None else np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"{NAME}: `rows` must be row numbers [B], got {rows.dtype} of shape {rows.shape}. Of a "
            f"mask give `np.flatnonzero(mask)`."
        )
    pixels = np.empty((len(rows), height, width, 3), np.uint8)

    def fill(i, image):
        from PIL import ImageOps

        pixels[i] = ImageOps.fit(image, (width, height))

    if errors := _each(source, rows, fill, threads):
        raise OSError(_named(NAME, errors, len(rows), "Replace these, or leave them out."))
    return pixels


def whole(function: str, dataset: Dataset, *, raises: bool) -> list[int]:
    """Decodes every image, and returns the rows of those that are not damaged.

    Damaged images are named: in an error if it `raises` or if no image is left, otherwise in a
    warning.
    """
    rows = np.arange(len(dataset))
    errors = _each(dataset.images, rows, lambda i, image: None, THREADS)
    if raises and errors or len(errors) == len(rows):
        advice = 'Replace these, or leave them out by `damaged="skip"`.'
        raise OSError(_named(function, errors, len(rows), advice))
    if errors:
        text = _named(function, errors, len(rows), "They are left out.")
        logging.getLogger("metricjax").warning(text)
    return [i for i in range(len(rows)) if i not in errors]


def _each(images, rows, use: Callable, threads) -> dict[int, Exception]:
    """Calls ``use(i, image)`` for each of the rows, and returns the errors of damaged images."""
    errors = {}

    def one(i, row):
        try:
            image = images[int(row)]
        except (OSError, TypeError, ValueError) as error:  # all that `rgb` raises
            errors[i] = error
        else:
            use(i, image)

    def share(first):
        for i in range(first, len(rows), threads):
            one(i, rows[i])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))  # a list, so that other errors are raised
    return dict(sorted(errors.items()))


def _named(function, errors, total, advice):
    lines = [f"\n  {error}" for error in errors.values()]
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"\n  and {len(lines) - SHOWN:,} more"]
    return (
        f"{function}: images must be whole, got {len(errors):,} damaged of {total:,}. "
        f"{advice}{''.join(lines)}"
    )
