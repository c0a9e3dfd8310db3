"""Animals and plants: iNaturalist 2018."""

import os

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, find, load, read

SOURCE = (
    "images from https://github.com/visipedia/inat_comp/tree/master/2018, lists from "
    "https://github.com/Andrew-Brown1/Smooth_AP"
)
PATH = "train_val2018/<super class>/<species>/<image>"
LISTS = {x: [f"Inat_dataset_splits/Inaturalist_{x}_set1.txt"] for x in ("train", "test")}
LISTS["all"] = LISTS["train"] + LISTS["test"]


def inaturalist2018(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """iNaturalist 2018 split by species, as in the SmoothAP paper.

    325,846 images of 5,690 species for training, 136,093 of 2,452 others for test. A class is named
    by its folder, as Aves/3368, and its super class is the first part, of which
    `metricjax.relations.hierarchical` and `metricjax.samplers.hierarchical` make use. Unpack
    train_val2018.tar.gz of https://github.com/visipedia/inat_comp/tree/master/2018, and next to it
    the lists that https://github.com/Andrew-Brown1/Smooth_AP links to. The annotations (.json) are
    not needed.

    Example:
        >>> from metricjax import datasets
        >>> datasets.inaturalist2018("data/inaturalist", "test")  # doctest: +SKIP

    Args:
        folder: with train_val2018 and Inat_dataset_splits in it.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if it is another folder, or images that the list has are missing.

    References:
        Van Horn et al., `The iNaturalist Species Classification and Detection Dataset
        <https://arxiv.org/abs/1707.06642>`_, 2018. The split: Brown et al., `Smooth-AP: Smoothing
        the Path Towards Large-Scale Image Retrieval <https://arxiv.org/abs/2007.12163>`_, 2020.
    """
    name = "datasets.inaturalist2018"
    check_choice(name, "split", split, SPLITS)
    folder, (_, *lists) = find(name, folder, SOURCE, ("train_val2018", *LISTS[split]))
    rows = [row for file in lists for (row,) in read(name, folder / file, **{PATH: _row})]
    return load(name, folder, SOURCE, " and ".join(lists), rows)


def _row(path):
    _, super_class, species, _ = path.split("/")
    return Row(path, f"{super_class}/{species}", f"{super_class}/{species}", super_class)
