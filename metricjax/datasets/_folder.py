"""Folders of data sets: required files, lists, and errors that say what was expected where."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metricjax.datasets._dataset import Dataset, relabel
from metricjax.datasets._decode import rgb

SPLITS = ("train", "test", "all")


class Row(NamedTuple):
    """An image in a list."""

    path: str  # relative to the folder
    class_id: int | str
    class_name: str
    super_class: str | None = None


@dataclasses.dataclass(frozen=True)
class ImageFiles(Sequence):
    paths: tuple[str, ...]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        path = self.paths[i]
        return rgb(f"datasets: {path!r}", Path(path).read_bytes())


def find(function, folder, source, *layouts: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """Returns the folder and the first of `layouts` whose files and folders are all in it."""
    folder = Path(folder).expanduser().absolute()
    for layout in layouts:
        if not _lacking(folder, layout):
            for name in layout:
                inside(function, folder, name)
            return folder, layout
    expected = "; or ".join(map(", ".join, layouts))
    message = f"{function}: `folder` must have {expected} ({source}), got {str(folder)!r}, "
    if not folder.is_dir():
        raise FileNotFoundError(f"{message}which is no folder.")
    there = sorted(path.name for path in folder.iterdir())
    lacking = min((_lacking(folder, layout) for layout in layouts), key=len)
    message += f"without {', '.join(lacking)}. It has {_some(there)}."
    for near in (folder.parent, *(folder / name for name in there)):
        if any(not _lacking(near, layout) for layout in layouts):
            message += f" Did you mean {str(near)!r}?"
    raise FileNotFoundError(message)


def inside(where, folder, path) -> Path:
    """Resolves `path` in `folder`, and raises if it leads out of `folder`.

    Paths are not trusted, because lists and records come from strangers.
    """
    target = (folder / path).resolve()  # follows links
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{where}: paths must stay inside `folder`, {str(folder)!r}, got {str(path)!r}. Remove "
            f"it, or replace a link by what it leads to."
        )
    return target


def _lacking(folder, layout):
    return [name for name in layout if not (folder / name).exists()]


def _some(names):
    if len(names) > 8:
        names = [*names[:8], f"{len(names) - 8:,} more"]
    return ", ".join(names) or "nothing in it"


def read(function, path, /, **columns):
    """Reads the rows of a text file and converts each column; skips a line of the column names."""
    rows = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            values = line.strip().split(maxsplit=len(columns) - 1)
            if not values or values == list(columns):
                continue
            try:
                kinds = zip(columns.values(), values, strict=True)
                rows.append([kind(value) for kind, value in kinds])
            except ValueError as error:
                raise ValueError(
                    f"{function}: each line of {str(path)!r} must be '{' '.join(columns)}', "
                    f"got {line.strip()[:80]!r} in line {number}. Unpack the file again."
                ) from error
    return rows


def natural(text) -> int:
    """Converts a class id; ids count from 1, so it raises for 0 and -1, which mean "no class"."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def by_class(function, rows: Iterable[Row], split, last) -> list[Row]:
    """Keeps the rows of a split: the first `last` classes for training, as many others for test."""
    rows = list(rows)
    for row in rows:
        if row.class_id not in range(1, 2 * last + 1):
            raise ValueError(
                f"{function}: the lists must have class ids from 1 to {2 * last}, got "
                f"{row.class_id} of {row.path!r}. Unpack the data set again."
            )
    return [row for row in rows if split == "all" or (row.class_id <= last) == (split == "train")]


def load(function, folder, source, listing, rows: list[Row]) -> Dataset:
    """Makes a data set of the rows that `listing` has for the split."""
    if not rows:
        raise ValueError(
            f"{function}: {listing} in {str(folder)!r} must name images of this split, got none. "
            f"Unpack all of it again: {source}."
        )
    paths, ids, names, supers = zip(*rows, strict=True)
    _check_files(function, folder, source, listing, paths)
    images = ImageFiles(tuple(os.path.join(folder, path) for path in paths))
    labels, class_names = relabel(ids, dict(zip(ids, names, strict=True)).__getitem__)
    super_classes: Any = () if supers[0] is None else relabel(supers)
    return Dataset(images, labels, class_names, *super_classes)


def _check_files(function, folder, source, listing, paths):
    """Checks that files exist, with one scan of each folder: there may be half a million files."""
    files, links = {}, set()
    for parent in {os.path.dirname(path) for path in paths}:
        place = inside(function, folder, parent)
        entries = list(os.scandir(place)) if place.is_dir() else []
        files[parent] = {entry.name for entry in entries}
        links |= {os.path.join(parent, entry.name) for entry in entries if entry.is_symlink()}
    for path in links.intersection(paths):
        inside(function, folder, path)
    missing = [x for x in paths if os.path.basename(x) not in files[os.path.dirname(x)]]
    if missing:
        raise FileNotFoundError(
            f"{function}: {listing} names {len(paths):,} images of this split, and "
            f"{len(missing):,} of them are not in {str(folder)!r}, the first {missing[0]!r}. "
            f"Unpack all of it again: {source}."
        )
