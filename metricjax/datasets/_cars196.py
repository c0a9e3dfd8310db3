"""Cars: Stanford Cars, also called Cars-196."""

import os

import numpy as np

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, by_class, find, load

SOURCE = "the images of Stanford Cars with their annotations, see help(metricjax.datasets.cars196)"
ONE = ("cars_annos.mat", "car_ims")
DEVKIT = (
    "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat",
    "cars_train", "cars_test",
)  # fmt: skip
BY_CLASS = ("names.csv", "anno_train.csv", "anno_test.csv", "car_data")


def cars196(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Stanford Cars: classes 1 to 98 for training, 99 to 196 for test.

    8,054 and 8,131 images. The files' own split, of the images of each class, is not used. The
    original address, https://ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer has the
    data; https://github.com/pytorch/vision/issues/7545 lists copies. Annotations of one copy do not
    fit the images of another: file names differ.

    Example:
        >>> from metricjax import datasets
        >>> test = datasets.cars196("data/stanford_cars", "test")  # doctest: +SKIP
        >>> test  # doctest: +SKIP
        Dataset(8,131 images, 98 classes)

    Args:
        folder: in one of three layouts. cars_annos.mat and car_ims; devkit, cars_train, cars_test
            and cars_test_annos_withlabels.mat, as torchvision has it; or names.csv, anno_train.csv,
            anno_test.csv and car_data, a folder for each class, as PyTorch Metric Learning has it.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if it is another folder, or images that the lists have are missing.

    References:
        Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013,
        https://doi.org/10.1109/ICCVW.2013.77
    """
    name = "datasets.cars196"
    check_choice(name, "split", split, SPLITS)
    folder, layout = find(name, folder, SOURCE, ONE, DEVKIT, BY_CLASS)
    rows = {ONE: _one, DEVKIT: _devkit, BY_CLASS: _by_class}[layout](folder)
    return load(name, folder, SOURCE, "the annotations", by_class(rows, split, last=98))


def _one(folder):
    names = _matlab(folder / "cars_annos.mat", "class_names")
    for car in _matlab(folder / "cars_annos.mat", "annotations"):
        yield Row(str(car["relative_im_path"]), int(car["class"]), str(names[car["class"] - 1]))


def _devkit(folder):
    meta, train, test, *images = DEVKIT
    names = _matlab(folder / meta, "class_names")
    for part, file in zip(images, (train, test), strict=True):
        for car in _matlab(folder / file, "annotations"):
            yield Row(f"{part}/{car['fname']}", int(car["class"]), str(names[car["class"] - 1]))


def _by_class(folder):
    names = (folder / "names.csv").read_text("utf-8").splitlines()
    for split in ("train", "test"):
        for line in (folder / f"anno_{split}.csv").read_text("utf-8").splitlines():
            file, *_, number = line.split(",")  # a box between the two
            name = names[int(number) - 1].strip()
            path = f"car_data/car_data/{split}/{name.replace('/', '-')}/{file}"
            yield Row(path, int(number), name)


def _matlab(path, variable):
    from scipy.io import loadmat  # which JAX itself needs

    return np.atleast_1d(loadmat(path, squeeze_me=True)[variable])
