"""Data sets of other libraries."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset, relabel, rgb


def from_records(
    records: Any,
    *,
    image: str = "image",
    label: str = "label",
    super_label: str | None = None,
    classes: Iterable | None = None,
) -> Dataset:
    """A data set of Hugging Face or of tensorflow-datasets, or any sequence of dictionaries.

    Other collections split the images of each class, where metric learning splits the classes: take
    both of their parts, and keep some of the classes by `classes`. The guide of the data sets has
    the numbers.

    Example:
        >>> import numpy as np
        >>> from metricjax import datasets
        >>> blank = np.zeros((2, 3, 3), np.uint8)
        >>> records = [{"image": blank, "label": label} for label in (0, 1, 2, 3)]
        >>> test = datasets.from_records(records, classes=range(2, 4))
        >>> print(test.labels, test.class_names)
        [0 1] ('2', '3')

    Args:
        records: with ``len(records)`` and ``records[i]``: a `datasets.Dataset`, what
            ``tfds.data_source`` returns, or a list. Images are arrays, Pillow images or the bytes
            of a file. Labels are read at once, by column where there are columns: ask
            tensorflow-datasets not to decode images, with
            ``decoders={"image": tfds.decode.SkipDecoding()}``.
        image, label, super_label: their names in a record; no super classes by default.
        classes: those to keep, by their label in the records; all by default.

    Raises:
        TypeError: for several splits at once, or without random access.
    """
    name = "datasets.from_records"
    if isinstance(records, Mapping):
        raise TypeError(
            f"{name}: `records` must be one split, got {', '.join(map(str, records))}. Choose one, "
            f"or concatenate them."
        )
    if not (hasattr(records, "__len__") and hasattr(records, "__getitem__")):
        raise TypeError(
            f"{name}: `records` must have a length and items, got {type(records).__name__}. Load "
            f"the data set without streaming; of tensorflow-datasets take `tfds.data_source`."
        )
    if not len(records):
        raise ValueError(f"{name}: `records` must not be empty.")
    ids = _column(name, records, "label", label)
    rows = np.arange(len(ids))
    if classes is not None:
        rows = np.flatnonzero(np.isin(ids, list(classes)))
        if not len(rows):
            raise ValueError(
                f"{name}: `classes` must have some of the labels {ids.min()} to {ids.max()} of the "
                f"records, got none."
            )
    _column_names(name, records, "image", image)
    labels, class_names = relabel(ids[rows], _class_names(records, label))
    supers: Any = ()
    if super_label is not None:
        super_ids = _column(name, records, "super_label", super_label)[rows]
        supers = relabel(super_ids, _class_names(records, super_label))
    return Dataset(_Images(records, rows, image), labels, class_names, *supers)


@dataclasses.dataclass(frozen=True)
class _Images(Sequence):
    records: Any
    rows: np.ndarray
    key: str

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return rgb(self.records[int(self.rows[i])][self.key])


def _column_names(function, records, argument, key):
    """The columns, where there are any; `key` has to be one, or in the records."""
    columns = getattr(records, "column_names", None)
    check_choice(function, argument, key, list(records[0] if columns is None else columns))
    return columns


def _column(function, records, argument, key):
    if _column_names(function, records, argument, key) is None:
        return np.asarray([record[key] for record in records])
    return np.asarray(records[key][:])


def _class_names(records, key):
    """From a label to the name that the features of the library have for it."""
    features = getattr(getattr(records, "dataset_info", records), "features", None) or {}
    names = getattr(features[key], "names", None) if key in features else None
    return names.__getitem__ if names else str
