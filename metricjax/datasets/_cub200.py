"""Birds: CUB-200-2011."""

import os

from metricjax._core.check import check_choice
from metricjax.datasets._dataset import Dataset
from metricjax.datasets._folder import SPLITS, Row, by_class, find, load, read

SOURCE = "the folder CUB_200_2011 of https://data.caltech.edu/records/65de6-vp158"


def cub200(folder: str | os.PathLike, split: str = "train") -> Dataset:
    """Caltech-UCSD Birds-200-2011: classes 1 to 100 for training, 101 to 200 for test.

    5,864 and 5,924 images. The file's own split, of the images of each class, is not used. Get it
    from https://data.caltech.edu/records/65de6-vp158, and unpack CUB_200_2011.tgz.

    Example:
        >>> from metricjax import datasets
        >>> train = datasets.cub200("data/CUB_200_2011")  # doctest: +SKIP
        >>> train  # doctest: +SKIP
        Dataset(5,864 images, 100 classes)

    Args:
        folder: CUB_200_2011, with images.txt, image_class_labels.txt and images.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if it is another folder, or images that the list has are missing.

    References:
        Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011,
        https://authors.library.caltech.edu/27452
    """
    name = "datasets.cub200"
    check_choice(name, "split", split, SPLITS)
    folder, _ = find(name, folder, SOURCE, ("images.txt", "image_class_labels.txt", "images"))
    labels = folder / "image_class_labels.txt"
    class_of = dict(read(name, labels, image_id=int, class_id=int))
    rows = []
    for image, path in read(name, folder / "images.txt", image_id=int, path=str):
        if image not in class_of:
            raise ValueError(f"{name}: {str(labels)!r} has no class for image {image}, {path!r}.")
        rows.append(Row(f"images/{path}", class_of[image], os.path.dirname(path)))
    return load(name, folder, SOURCE, "images.txt", by_class(rows, split, last=100))
