"""Products: Stanford Online Products."""

import os

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, find, load, read

SOURCE = "the folder Stanford_Online_Products of https://cvgl.stanford.edu/projects/lifted_struct/"
LISTS = {"train": ["Ebay_train.txt"], "test": ["Ebay_test.txt"]}
LISTS["all"] = LISTS["train"] + LISTS["test"]


def stanford_online_products(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Stanford Online Products: photos of products from offers, in 12 super classes.

    59,551 images of 11,318 products for training, 60,502 of 11,316 others for test. A class is
    named by its id, and a super class, of which `metricjax.relations.hierarchical` and
    `metricjax.samplers.hierarchical` make use, is a kind of product: bicycle, cabinet, and so on.
    Get it from https://cvgl.stanford.edu/projects/lifted_struct/.

    Example:
        >>> from metricjax import datasets
        >>> folder = "data/Stanford_Online_Products"
        >>> datasets.stanford_online_products(folder)  # doctest: +SKIP
        Dataset(59,551 images, 11,318 classes, 12 super classes)

    Args:
        folder: Stanford_Online_Products, with Ebay_train.txt, Ebay_test.txt and the folders that
            they name.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if it is another folder, or images that the list has are missing.

    References:
        Song et al., `Deep Metric Learning via Lifted Structured Feature Embedding
        <https://arxiv.org/abs/1511.06452>`_, 2016.
    """
    name = "datasets.stanford_online_products"
    check_choice(name, "split", split, SPLITS)
    folder, lists = find(name, folder, SOURCE, tuple(LISTS[split]))
    columns = {"image_id": int, "class_id": int, "super_class_id": int, "path": str}
    rows = [
        Row(path, class_id, str(class_id), os.path.dirname(path).removesuffix("_final"))
        for file in lists
        for _, class_id, _, path in read(name, folder / file, **columns)
    ]
    return load(name, folder, SOURCE, " and ".join(lists), rows)
