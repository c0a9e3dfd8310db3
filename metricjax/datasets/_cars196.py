"""Cars: Stanford Cars, also called Cars-196."""

import os

import numpy as np

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, by_class, find, load, read

NAME = "datasets.cars196"
SOURCE = "the images of Stanford Cars with their annotations, see help(metricjax.datasets.cars196)"
ONE = ("cars_annos.mat", "car_ims")
DEVKIT = (
    "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat",
    "cars_train", "cars_test",
)  # fmt: skip
BY_CLASS = ("names.csv", "anno_train.csv", "anno_test.csv", "car_data")


def cars196(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Loads Stanford Cars: classes 1 to 98 for training, 99 to 196 for test.

    There are 8,054 images for training and 8,131 for test. The split in the files divides the
    images of each class and is not used. The original address,
    https://ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer has the data.
    https://github.com/pytorch/vision/issues/7545 lists copies. Annotations and images must be of
    the same copy, because file names differ between copies.

    Example:
        >>> from metricjax import datasets
        >>> test = datasets.cars196("data/stanford_cars", "test")  # doctest: +SKIP
        >>> test  # doctest: +SKIP
        Dataset(8,131 images, 98 classes)

    Args:
        folder: in one of three layouts: cars_annos.mat and car_ims; devkit, cars_train, cars_test
            and cars_test_annos_withlabels.mat, as in torchvision; or names.csv, anno_train.csv,
            anno_test.csv and car_data with a folder for each class, as in PyTorch Metric Learning.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if `folder` is the wrong folder, or images of the lists are missing.
        ValueError: if annotations or classes are not the expected ones, or a path leads out of the
            folder.

    References:
        Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013,
        https://doi.org/10.1109/ICCVW.2013.77
    """
    check_choice(NAME, "split", split, SPLITS)
    folder, layout = find(NAME, folder, SOURCE, ONE, DEVKIT, BY_CLASS)
    rows = {ONE: _one, DEVKIT: _devkit, BY_CLASS: _by_class}[layout](folder)
    return load(NAME, folder, SOURCE, "the annotations", by_class(NAME, rows, split, last=98))


def _one(folder):
    names = _names(_matlab(folder / "cars_annos.mat", "class_names"))
    for car in _matlab(folder / "cars_annos.mat", "annotations", "relative_im_path", "class"):
        yield Row(str(car["relative_im_path"]), int(car["class"]), names.get(car["class"], ""))


def _devkit(folder):
    meta, train, test, *images = DEVKIT
    names = _names(_matlab(folder / meta, "class_names"))
    for part, file in zip(images, (train, test), strict=True):
        for car in _matlab(folder / file, "annotations", "fname", "class"):
            yield Row(f"{part}/{car['fname']}", int(car["class"]), names.get(car["class"], ""))


def _by_class(folder):
    names = _names((folder / "names.csv").read_text("utf-8").splitlines())
    for split in ("train", "test"):
        columns = {"file, a box of 4 numbers, class_id": _csv_row}
        for ((file, number),) in read(NAME, folder / f"anno_{split}.csv", **columns):
            name = names.get(number, "")
            path = f"car_data/car_data/{split}/{name.replace('/', '-')}/{file}"
            yield Row(path, number, name)


def _csv_row(line):
    file, *_, number = line.split(",")
    return file, int(number)


def _names(names):
    """Maps class ids, which count from 1, to class names."""
    return {i: str(name).strip() for i, name in enumerate(names, 1)}


def _matlab(path, variable, *columns):
    from scipy.io import loadmat  # a dependency of JAX itself

    try:
        rows = np.atleast_1d(loadmat(path, squeeze_me=True)[variable])
        return rows[list(columns)] if columns else rows
    except Exception as error:  # a damaged file can raise any error
        raise ValueError(
            f"{NAME}: {str(path)!r} must have {' and '.join(columns) or 'names'} in `{variable}`, "
            f"got {type(error).__name__}: {str(error)[:150]}. Get the file again."
        ) from error
