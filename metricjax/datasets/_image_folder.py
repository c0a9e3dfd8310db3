"""A folder with a folder of images for each class."""

import difflib
import hashlib
import os
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Literal

from metricjax._core.check import check_choice
from metricjax.datasets._arrays import whole
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, load

NAME = "datasets.image_folder"
SOURCE = "a folder for each class, with its images"
SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def image_folder(
    folder: str | os.PathLike,
    split: str = "all",
    *,
    test_classes: float | Collection[str] = 0.5,
    seed: int = 0,
    damaged: Literal["keep", "raise", "skip"] = "keep",
) -> Dataset:
    """Loads images of your own: a folder for each class, as for torchvision's ``ImageFolder``.

    The name of a class is the name of its folder, and classes are sorted by name. Images may also
    be in folders inside the folder of a class. Hidden files and folders, and files that are no
    images by their name, are left out. Gray images, palettes and transparent images become RGB,
    and photos are turned upright as their EXIF data says.

    Metric learning is evaluated on classes that were never trained on. So "train" and "test"
    divide the classes, and not the images of a class.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from metricjax import datasets
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "owl"):
        ...     (folder / name).mkdir()
        ...     Image.new("L", (3, 2)).save(folder / name / "0.png")
        >>> train = datasets.image_folder(folder, "train", test_classes=["owl"])
        >>> print(train, train.class_names)
        Dataset(2 images, 2 classes) ('cat', 'dog')

    Args:
        folder: the folder of the folders. Links must stay inside of it. Links to folders are
            followed only if they are the folder of a class.
        split: "train", "test", or "all" for all classes.
        test_classes: the names of the classes for test, or the share of the classes, drawn at
            random. Both splits have at least one class.
        seed: of the random draw. The same names and seed give the same split on every machine.
        damaged: what to do with damaged images. "keep" decodes nothing; an image that is damaged
            raises an `OSError` when it is read. "raise" and "skip" decode every image of the split
            once, in threads. "raise" names the damaged files in one error. "skip" leaves them out
            and names them in a warning of the Python logger ``metricjax``. Of more than 20 damaged
            files, 20 are named and the others counted.

    Raises:
        FileNotFoundError: if `folder` is no folder, or if it or the folder of a class has no
            images.
        ValueError: if `test_classes` are not classes, or leave no class for one of the splits; or
            if a link leads out of the folder.
        OSError: if images are damaged, with ``damaged="raise"``; if all of them are, with "skip".
    """
    check_choice(NAME, "split", split, SPLITS)
    check_choice(NAME, "damaged", damaged, ("keep", "raise", "skip"))
    folder = Path(folder).expanduser().absolute()
    classes = _classes(folder)
    if split != "all":
        held_out = _test_classes(classes, test_classes, seed)
        classes = [name for name in classes if (name in held_out) == (split == "test")]
    rows = [Row(path, name, name) for name in classes for path in _images(folder, name)]
    dataset = load(NAME, folder, SOURCE, "its folders", rows)
    if damaged == "keep":
        return dataset
    kept = whole(NAME, dataset, raises=damaged == "raise")
    return load(NAME, folder, SOURCE, "its folders", [rows[i] for i in kept])


def _classes(folder):
    """Returns the sorted names of the folders in `folder`, without hidden ones."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{NAME}: `folder` must have {SOURCE}, got {str(folder)!r}, which is no folder."
        )
    entries = sorted(os.listdir(folder))
    names = [x for x in entries if not x.startswith(".") and (folder / x).is_dir()]
    if not names:
        images = sum(x.lower().endswith(SUFFIXES) for x in entries)
        raise FileNotFoundError(
            f"{NAME}: `folder` must have {SOURCE}, got {str(folder)!r}, which has {images:,} "
            f"images and no folders. Move the images of each class into a folder of their own."
        )
    return names


def _images(folder, name):
    """Returns the paths of a class in `folder`, in the same order on every machine."""
    paths = []

    def fail(error):
        raise error

    for parent, folders, files in os.walk(folder / name, onerror=fail):
        folders[:] = [x for x in folders if not x.startswith(".")]
        images = (x for x in files if x.lower().endswith(SUFFIXES) and not x.startswith("."))
        paths += [os.path.relpath(os.path.join(parent, x), folder) for x in images]
    if not paths:
        raise FileNotFoundError(
            f"{NAME}: the folder of each class must have images ({', '.join(SUFFIXES)}), got none "
            f"in {name!r} of {str(folder)!r}. Remove this folder, or convert its images."
        )
    return sorted(paths, key=lambda path: path.split(os.sep))


def _test_classes(classes, chosen, seed):
    """Returns the names of the classes for test, of names or of a share of all classes."""
    if isinstance(chosen, str):  # a string is a collection of strings, too
        chosen = [chosen]
    if isinstance(chosen, Real):
        if not 0 < chosen < 1:
            raise ValueError(
                f"{NAME}: `test_classes` must be a share between 0 and 1, or names of classes, got "
                f'{chosen}. For all classes give `split="all"`.'
            )
        count = min(max(round(chosen * len(classes)), 1), len(classes) - 1)
        # Hashes do not depend on the version of NumPy, and a new class moves few of the others.
        draw = lambda name: hashlib.sha256(os.fsencode(f"{seed} {name}")).digest()
        chosen = sorted(classes, key=draw)[:count]
    chosen = set(map(str, chosen))
    for name in sorted(chosen - set(classes)):
        near = difflib.get_close_matches(name, classes, 3) or classes[:3]
        raise ValueError(
            f"{NAME}: `test_classes` must be folders of `folder`, got {name!r}. There is "
            f"{', '.join(map(repr, near))}."
        )
    if not 0 < len(chosen) < len(classes):
        raise ValueError(
            f"{NAME}: `test_classes` must leave a class for both splits, got {len(chosen)} of "
            f'{len(classes)} classes. For all classes give `split="all"`.'
        )
    return chosen
