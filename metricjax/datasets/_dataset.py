"""The data set that every loader returns: images, decoded on access, and labels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with labels: ``dataset[i]`` decodes an RGB image and returns it with its label.

    The labels are ready for `metricjax.samplers` and for losses with class weights. A `Dataset` is
    a sequence of pairs, so it is also a source for Grain and a data set for torch.

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
        images: a sequence of `PIL.Image.Image`. Images from a folder also have ``images.paths``.
            Pixels of 16 bits are scaled to 8 bits. A damaged image raises an `OSError` that names
            the image.
        labels: ``[N]`` integers from 0 to C - 1, in the order of the class ids of this split.
        class_names: the name of each label.
        super_labels: ``[N]`` integers from 0, the super class of each image; or None.
        super_class_names: the name of each super label.
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
        """Is short, and the same in every process, because Grain compares it on restore."""
        supers = f", {len(self.super_class_names)} super classes" if self.super_class_names else ""
        return f"Dataset({len(self):,} images, {len(self.class_names):,} classes{supers})"


def relabel(ids, names=str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels from 0 in the order of the ids, and their names; `names` maps ids to names."""
    distinct, labels = np.unique(np.asarray(ids), return_inverse=True)
    return labels.astype(np.int64), tuple(map(names, distinct.tolist()))
