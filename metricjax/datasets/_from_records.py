"""Data sets of other libraries."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metricjax._core.check import check_choice
from metricjax._core.names import column, names
from metricjax.datasets._dataset import Dataset, relabel
from metricjax.datasets._decode import rgb
from metricjax.datasets._folder import inside

NAME = "datasets.from_records"


def from_records(
    records: Any,
    *,
    image: str = "image",
    label: str = "label",
    super_label: str | None = None,
    classes: Iterable | None = None,
    folder: str | os.PathLike | None = None,
) -> Dataset:
    """Wraps a data set of Hugging Face or tensorflow-datasets, or any sequence of dictionaries.

    Splits in these libraries often divide the images of each class, but metric learning splits the
    classes. In that case, concatenate both parts and use `classes` to keep some of the classes. The
    guide on data sets has the class numbers.

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
            ``tfds.data_source`` returns, or a list. Images are Pillow images, the bytes of a file,
            or arrays ``[H, W]`` or ``[H, W, C]`` of bool, uint8 or uint16; 16 bits are scaled to 8.
            Each record has one label, an integer or a string. All labels are read at once, by
            column if there are columns. Tell tensorflow-datasets not to decode images for this:
            ``decoders={"image": tfds.decode.SkipDecoding()}``.
        image, label, super_label: names of the fields in a record; no super classes by default.
        classes: the classes to keep, as labels in the records; all by default. Use it also to leave
            out records without a label, which have the label -1 in other libraries.
        folder: the folder of the image files, if the images are paths. Paths and links must stay
            inside the folder. No file is opened by default.

    Raises:
        TypeError: if `records` are several splits or have no random access, or if labels have other
            types.
        ValueError: if a label is -1 or otherwise no class, if a record has several labels, or if a
            key does not exist.
    """
    if isinstance(records, Mapping):
        raise TypeError(
            f"{NAME}: `records` must be one split, got {', '.join(map(str, records))}. Choose one, "
            f"or concatenate them."
        )
    if not (hasattr(records, "__len__") and hasattr(records, "__getitem__")):
        raise TypeError(
            f"{NAME}: `records` must have a length and items, got {type(records).__name__}. Load "
            f"the data set without streaming; of tensorflow-datasets take `tfds.data_source`."
        )
    if not len(records):
        raise ValueError(f"{NAME}: `records` must not be empty, got none. Look at the split.")
    ids = _column(records, "label", label)
    rows = np.arange(len(ids))
    if classes is not None:
        rows = np.flatnonzero(np.isin(ids, names(NAME, "classes", list(classes))))
        if not len(rows):
            there = np.unique(ids).tolist()
            raise ValueError(
                f"{NAME}: `classes` must have some of the labels {there[0]!r} to {there[-1]!r} of "
                f"the records, got none. Look at `label={label!r}` of the records."
            )
    _column_names(records, "image", image)
    labels, class_names = _coded(records, "label", label, ids[rows])
    supers: Any = ()
    if super_label is not None:
        super_ids = _column(records, "super_label", super_label)[rows]
        supers = _coded(records, "super_label", super_label, super_ids)
    root = None if folder is None else Path(folder).expanduser().absolute()
    return Dataset(_Images(records, rows, image, root), labels, class_names, *supers)


@dataclasses.dataclass(frozen=True)
class _Images(Sequence):
    records: Any
    rows: np.ndarray
    key: str
    folder: Path | None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = int(self.rows[i])
        image = self.records[row][self.key]
        where = f"{NAME}: `image={self.key!r}` of record {row}"
        if isinstance(image, Mapping):  # from Hugging Face without decoding
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str | os.PathLike):
            where += f" ({str(image)!r})"
            if self.folder is None:
                raise TypeError(
                    f"{where} must be an image, got a path. Pass the folder of the image files as "
                    f"`folder`."
                )
            image = inside(where, self.folder, image).read_bytes()
        return rgb(where, image)


def _column_names(records, argument, key):
    """Returns the columns, if there are any; `key` must be a column, or a key of the records."""
    columns = getattr(records, "column_names", None)
    if columns is None and not isinstance(records[0], Mapping):
        raise TypeError(
            f"{NAME}: `records` must be dictionaries, got {type(records[0]).__name__}. Give each "
            f"its {argument} by a name."
        )
    check_choice(NAME, argument, key, list(records[0] if columns is None else columns))
    return columns


def _column(records, argument, key):
    """Returns the values at `key` of all records: one integer or string each."""
    columns = _column_names(records, argument, key)
    try:
        values = records[key][:] if columns else [record[key] for record in records]
    except KeyError as error:
        raise ValueError(
            f"{NAME}: `{argument}` must be in every record, got some without {key!r}. Leave these "
            f"out."
        ) from error
    return column(NAME, f"{argument}={key!r}", values, "records", len(records))


def _coded(records, argument, key, ids):
    """Returns labels from 0, and the name of each from the features of the library, if any."""
    features = getattr(getattr(records, "dataset_info", records), "features", None) or {}
    known = getattr(features[key], "names", None) if key in features else None
    if ids.dtype.kind == "i":
        # -1 means "no label" in these libraries, but as an index it is the last class in Python
        unknown = (ids < 0) | (ids >= len(known)) if known else ids == -1
        if unknown.any():
            kind = f"class ids from 0 to {len(known) - 1}" if known else "labels other than -1"
            raise ValueError(
                f"{NAME}: `{argument}={key!r}` must have {kind}, got {ids[unknown][0]} in "
                f"{unknown.sum():,} of {len(ids):,} records. Leave these out: filter the records, "
                f"or choose labels by `classes`."
            )
    return relabel(ids, known.__getitem__ if known and ids.dtype.kind == "i" else str)
