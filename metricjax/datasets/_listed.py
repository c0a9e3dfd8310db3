"""Data sets that come with lists of their images: birds, products, animals and plants."""

import os

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, by_class, find, load, natural, read

CUB = "the folder CUB_200_2011 of https://data.caltech.edu/records/65de6-vp158"


def cub200(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Loads Caltech-UCSD Birds-200-2011: classes 1 to 100 for training, 101 to 200 for test.

    There are 5,864 images for training and 5,924 for test. The split in the files divides the
    images of each class and is not used. Download CUB_200_2011.tgz from
    https://data.caltech.edu/records/65de6-vp158 and unpack it.

    Example:
        >>> from metricjax import datasets
        >>> train = datasets.cub200("data/CUB_200_2011")  # doctest: +SKIP
        >>> train  # doctest: +SKIP
        Dataset(5,864 images, 100 classes)

    Args:
        folder: CUB_200_2011, with images.txt, image_class_labels.txt and images.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if `folder` is the wrong folder, or images of the list are missing.
        ValueError: if lines or classes of the lists are not the expected ones, or a path leads out
            of the folder.

    References:
        Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011,
        https://authors.library.caltech.edu/27452
    """
    name = "datasets.cub200"
    check_choice(name, "split", split, SPLITS)
    folder, _ = find(name, folder, CUB, ("images.txt", "image_class_labels.txt", "images"))
    labels = folder / "image_class_labels.txt"
    class_of = dict(read(name, labels, image_id=int, class_id=int))
    rows = []
    for image, path in read(name, folder / "images.txt", image_id=int, path=str):
        if image not in class_of:
            raise ValueError(
                f"{name}: {str(labels)!r} must have a class for each image, got none for image "
                f"{image}, {path!r}. Unpack the data set again."
            )
        rows.append(Row(f"images/{path}", class_of[image], os.path.dirname(path)))
    return load(name, folder, CUB, "images.txt", by_class(name, rows, split, last=100))


SOP = "the folder Stanford_Online_Products of https://cvgl.stanford.edu/projects/lifted_struct/"
SOP_LISTS = {"train": ["Ebay_train.txt"], "test": ["Ebay_test.txt"]}
SOP_LISTS["all"] = SOP_LISTS["train"] + SOP_LISTS["test"]


def stanford_online_products(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Loads Stanford Online Products: photos of products from offers, in 12 super classes.

    There are 59,551 images of 11,318 products for training, and 60,502 images of 11,316 other
    products for test. The name of a class is its id. A super class is a kind of product: bicycle,
    cabinet, and so on. `metricjax.relations.hierarchical` and `metricjax.samplers.hierarchical` can
    use super classes. Download it from https://cvgl.stanford.edu/projects/lifted_struct/.

    Example:
        >>> from metricjax import datasets
        >>> folder = "data/Stanford_Online_Products"
        >>> datasets.stanford_online_products(folder)  # doctest: +SKIP
        Dataset(59,551 images, 11,318 classes, 12 super classes)

    Args:
        folder: Stanford_Online_Products, with Ebay_train.txt, Ebay_test.txt and the folders that
            these lists name.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if `folder` is the wrong folder, or images of the list are missing.
        ValueError: if lines or classes of the lists are not the expected ones, or a path leads out
            of the folder.

    References:
        Song et al., `Deep Metric Learning via Lifted Structured Feature Embedding
        <https://arxiv.org/abs/1511.06452>`_, 2016.
    """
    name = "datasets.stanford_online_products"
    check_choice(name, "split", split, SPLITS)
    folder, lists = find(name, folder, SOP, tuple(SOP_LISTS[split]))
    columns = {"image_id": int, "class_id": natural, "super_class_id": int, "path": str}
    rows = [
        Row(path, class_id, str(class_id), os.path.dirname(path).removesuffix("_final"))
        for file in lists
        for _, class_id, _, path in read(name, folder / file, **columns)
    ]
    return load(name, folder, SOP, " and ".join(lists), rows)


INAT = (
    "images from https://github.com/visipedia/inat_comp/tree/master/2018, lists from "
    "https://github.com/Andrew-Brown1/Smooth_AP"
)
INAT_PATH = "train_val2018/<super class>/<species>/<image>"
INAT_LISTS = {x: [f"Inat_dataset_splits/Inaturalist_{x}_set1.txt"] for x in ("train", "test")}
INAT_LISTS["all"] = INAT_LISTS["train"] + INAT_LISTS["test"]


def inaturalist2018(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Loads iNaturalist 2018 split by species, as in the SmoothAP paper.

    There are 325,846 images of 5,690 species for training, and 136,093 images of 2,452 other
    species for test. The name of a class is its folder, such as Aves/3368. The first part of the
    name is the super class. `metricjax.relations.hierarchical` and
    `metricjax.samplers.hierarchical` can use super classes. Unpack train_val2018.tar.gz from
    https://github.com/visipedia/inat_comp/tree/master/2018, and next to it the lists that
    https://github.com/Andrew-Brown1/Smooth_AP links to. The annotations (.json) are not needed.

    Example:
        >>> from metricjax import datasets
        >>> datasets.inaturalist2018("data/inaturalist", "test")  # doctest: +SKIP

    Args:
        folder: the folder that contains train_val2018 and Inat_dataset_splits.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if `folder` is the wrong folder, or images of the list are missing.
        ValueError: if lines or classes of the lists are not the expected ones, or a path leads out
            of the folder.

    References:
        Van Horn et al., `The iNaturalist Species Classification and Detection Dataset
        <https://arxiv.org/abs/1707.06642>`_, 2018. The split: Brown et al., `Smooth-AP: Smoothing
        the Path Towards Large-Scale Image Retrieval <https://arxiv.org/abs/2007.12163>`_, 2020.
    """
    name = "datasets.inaturalist2018"
    check_choice(name, "split", split, SPLITS)
    folder, (_, *lists) = find(name, folder, INAT, ("train_val2018", *INAT_LISTS[split]))
    rows = [row for file in lists for (row,) in read(name, folder / file, **{INAT_PATH: _inat_row})]
    return load(name, folder, INAT, " and ".join(lists), rows)


def _inat_row(path):
    _, super_class, species, _ = path.split("/")
    return Row(path, f"{super_class}/{species}", f"{super_class}/{species}", super_class)
