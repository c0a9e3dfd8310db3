"""What every loader returns, and its images, decoded by Pillow when they are asked for."""

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from metricjax._optional import needed


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with labels: ``dataset[i]`` is an RGB image, decoded now, and its label.

    The labels are ready for `metricjax.samplers` and for losses with class weights. As a sequence
    of pairs it is also a source for Grain and a data set for torch.

    Example:
        >>> import numpy as np
        >>> from metricjax import datasets
        >>> records = [{"image": np.zeros((2, 3, 3), np.uint8), "label": x} for x in (5, 9, 5)]
        >>> dataset = datasets.from_records(records)
        >>> print(dataset, dataset.labels, dataset.class_names)
        Dataset(3 images, 2 classes) [0 1 0] ('5', '9')
        >>> image, label = dataset[1]
        >>> print(np.asarray(image.resize((8, 8))).shape, label)
        (8, 8, 3) 1

    Attributes:
        images: a sequence of `PIL.Image.Image`. Those of a folder have ``images.paths``.
        labels: ``[N]`` integers from 0 to C - 1, in the order of the class ids of this split.
        class_names: of each label.
        super_labels: ``[N]``, from 0 on, the super class of each image; or None.
        super_class_names: of each super label.
    """

    images: Sequence[Any]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    super_labels: Int[np.ndarray, " n"] | None = None
    super_class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.images[i], int(self.labels[i])

    def __repr__(self):
        """Short. The same in every process: Grain compares it when it restores."""
        supers = f", {len(self.super_class_names)} super classes" if self.super_class_names else ""
        return f"Dataset({len(self):,} images, {len(self.class_names):,} classes{supers})"


def relabel(ids, names=str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels from 0 on in the order of the ids, and the name of each: a function of the id."""
    distinct, labels = np.unique(np.asarray(ids), return_inverse=True)
    return labels.astype(np.int64), tuple(map(names, distinct.tolist()))


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
