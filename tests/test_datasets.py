"""Data sets: the splits, labels and images of small folders, and errors that help."""

import io
import pickle
import re
import shutil
import sys
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metricjax import datasets, relations, samplers


def picture(path, shade):
    """An image file of one color, 3 wide and 2 high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (shade, 0, 0)).save(path)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


# Each folder has classes on both sides of the split, of two images each, not in order. The shade of
# an image is ten times its class id (modulo 256), and one more for the second image of a class.
CUB_CLASSES = (101, 1, 200, 100, 2)
CAR_CLASSES = (99, 1, 196, 98, 2)
CAR_NAMES = [f"Make Model/{i}" if i == 2 else f"Make Model {i}" for i in range(1, 197)]


def shade(class_id, i):
    return (10 * class_id + i) % 256


def cub200(folder):
    images = [(c, i) for c in CUB_CLASSES for i in range(2)]
    names = [f"{c:03d}.Bird_{c}/Bird_{c}_{i}.png" for c, i in images]
    for (c, i), name in zip(images, names, strict=True):
        picture(folder / "images" / name, shade(c, i))
    write(folder / "images.txt", *(f"{n} {name}" for n, name in enumerate(names, 1)))
    labels = [f"{n} {c}" for n, (c, _) in enumerate(images, 1)]
    write(folder / "image_class_labels.txt", *reversed(labels))  # joined by id, not by line


def cars(classes, field, path):
    """Annotations as MATLAB has them, without the boxes."""
    rows = [(path(c, i), np.uint8(c)) for c in classes for i in range(2)]
    return np.array(rows, [(field, "O"), ("class", "O")])


def class_names():
    return np.array(CAR_NAMES, object)


def cars196_one(folder):
    path = lambda c, i: f"car_ims/{c:03d}{i}.png"
    for c in CAR_CLASSES:
        for i in range(2):
            picture(folder / path(c, i), shade(c, i))
    contents = {"annotations": cars(CAR_CLASSES, "relative_im_path", path)}
    savemat(folder / "cars_annos.mat", contents | {"class_names": class_names()})


def cars196_devkit(folder):
    path = lambda c, i: f"{c:03d}{i}.png"
    for part, classes in (("cars_train", CAR_CLASSES[:3]), ("cars_test", CAR_CLASSES[3:])):
        for c in classes:
            for i in range(2):
                picture(folder / part / path(c, i), shade(c, i))
    (folder / "devkit").mkdir()
    savemat(folder / "devkit/cars_meta.mat", {"class_names": class_names()})
    train, test = (cars(part, "fname", path) for part in (CAR_CLASSES[:3], CAR_CLASSES[3:]))
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": train})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": test})


def cars196_by_class(folder):
    for part, classes in (("train", CAR_CLASSES[:3]), ("test", CAR_CLASSES[3:])):
        lines = []
        for c in classes:
            name = CAR_NAMES[c - 1].replace("/", "-")
            for i in range(2):
                picture(folder / "car_data/car_data" / part / name / f"{c}_{i}.png", shade(c, i))
                lines.append(f"{c}_{i}.png,1,2,3,4,{c}")
        write(folder / f"anno_{part}.csv", *lines)
    write(folder / "names.csv", *CAR_NAMES)


def stanford_online_products(folder):
    for split, kinds in (
        ("train", {2: (3, "cabinet"), 1: (1, "bicycle"), 3: (3, "cabinet")}),
        ("test", {12: (3, "cabinet"), 11: (5, "fan")}),
    ):
        lines = ["image_id class_id super_class_id path"]
        for c, (super_id, kind) in kinds.items():
            for i in range(2):
                path = f"{kind}_final/{c}_{i}.PNG"
                picture(folder / path, shade(c, i))
                lines.append(f"{len(lines)} {c} {super_id} {path}")
        write(folder / f"Ebay_{split}.txt", *lines)


def inaturalist2018(folder):
    for split, species in (
        ("train", {2: "Plantae", 1: "Aves", 3: "Plantae"}),
        ("test", {12: "Plantae", 11: "Fungi"}),
    ):
        paths = [f"train_val2018/{kind}/{c}/{i}.png" for c, kind in species.items() for i in (0, 1)]
        for path in paths:
            picture(folder / path, shade(int(path.split("/")[2]), int(path[-5])))
        write(folder / f"Inat_dataset_splits/Inaturalist_{split}_set1.txt", *paths)


# By loader and layout: what makes the folder, and the class names of both splits.
CUB_NAMES = {c: f"{c:03d}.Bird_{c}" for c in CUB_CLASSES}
BY_CAR = {c: CAR_NAMES[c - 1] for c in CAR_CLASSES}
CARS = (datasets.cars196, BY_CAR, {"train": (1, 2, 98), "test": (99, 196)})
LOADERS = {
    "cub200": (
        cub200, datasets.cub200, CUB_NAMES, {"train": (1, 2, 100), "test": (101, 200)}
    ),
    "cars196, one list": (cars196_one, *CARS),
    "cars196, devkit": (cars196_devkit, *CARS),
    "cars196, by class": (cars196_by_class, *CARS),
    "stanford_online_products": (
        stanford_online_products, datasets.stanford_online_products,
        {c: str(c) for c in (1, 2, 3, 11, 12)}, {"train": (1, 2, 3), "test": (11, 12)},
    ),
    "inaturalist2018": (
        inaturalist2018, datasets.inaturalist2018,
        {1: "Aves/1", 2: "Plantae/2", 3: "Plantae/3", 11: "Fungi/11", 12: "Plantae/12"},
        {"train": (1, 2, 3), "test": (11, 12)},
    ),
}  # fmt: skip
every_loader = pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
SUPER_CLASSES = {  # by class id
    datasets.stanford_online_products: {1: "bicycle", 2: "cabinet", 3: "cabinet", 12: "cabinet",
                                        11: "fan"},
    datasets.inaturalist2018: {1: "Aves", 2: "Plantae", 3: "Plantae", 12: "Plantae", 11: "Fungi"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """In a folder of its own, with a neighbor."""
    folder = tmp_path / "all" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "all" / "other").mkdir()
    return folder


@every_loader
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_splits(loader, split, folder):
    make, load, names, ids = loader
    make(folder)
    dataset = load(folder, split)
    chosen = ids.get(split, ids["train"] + ids["test"])
    assert len(dataset) == 2 * len(chosen)
    assert sorted(dataset.class_names) == sorted(names[c] for c in chosen)
    assert dataset.labels.dtype == np.int64
    np.testing.assert_array_equal(np.unique(dataset.labels), np.arange(len(chosen)))
    id_of = {name: c for c, name in names.items()}
    shades = []
    for i, (image, label) in enumerate(dataset):  # the image is of the class that the label says
        c = id_of[dataset.class_names[label]]
        assert type(label) is int and label == dataset.labels[i]
        assert image.mode == "RGB" and image.size == (3, 2)
        shades.append(image.getpixel((0, 0))[0])
        assert shades[-1] in (shade(c, 0), shade(c, 1))
        if load in SUPER_CLASSES:
            super_class = dataset.super_class_names[dataset.super_labels[i]]
            assert super_class == SUPER_CLASSES[load][c]
    assert sorted(shades) == sorted(shade(c, i) for c in chosen for i in range(2))
    assert load in SUPER_CLASSES or dataset.super_labels is None
    assert all(path.startswith(str(folder)) for path in dataset.images.paths)


@every_loader
def test_labels_are_in_the_order_of_the_ids(loader, folder):
    make, load, names, ids = loader
    make(folder)
    if load is not datasets.inaturalist2018:  # whose ids are folders
        assert load(folder, "test").class_names == tuple(names[c] for c in ids["test"])


@every_loader
def test_another_folder(loader, folder):
    make, load, _, _ = loader
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        load(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="It has nothing in it"):
        load(folder)
    make(folder)
    for wrong in (folder.parent, next(path for path in folder.iterdir() if path.is_dir())):
        with pytest.raises(FileNotFoundError) as error:
            load(wrong)
        message = str(error.value)
        assert f"got {str(wrong)!r}, without " in message
        assert message.endswith(f"Did you mean {str(folder)!r}?")
        assert "https://" in message or "help(" in message
    with pytest.raises(FileNotFoundError, match="It has data, other. Did you mean"):
        load(folder.parent)


@every_loader
def test_missing_lists_are_named(loader, folder):
    make, load, _, _ = loader
    make(folder)
    needed = next(
        path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".mat", ".csv")
    )
    needed.unlink()
    with pytest.raises(FileNotFoundError, match=rf"without .*{re.escape(needed.name)}. It has"):
        load(folder, "all")


@every_loader
def test_missing_images_are_counted(loader, folder):
    make, load, _, _ = loader
    make(folder)
    paths = [Path(path) for path in load(folder).images.paths]
    paths[0].unlink()
    if load is datasets.cars196:  # whose folders of images are looked for first
        paths[-1].unlink()
    else:
        shutil.rmtree(paths[-1].parent)
    gone = sum(not path.exists() for path in paths)
    with pytest.raises(FileNotFoundError) as error:
        load(folder)
    name = paths[0].relative_to(folder).as_posix()
    assert f"names 6 images of this split, and {gone} of them are not in" in str(error.value)
    assert f"the first {name!r}" in str(error.value)


def test_only_the_images_of_the_split_have_to_be_there(folder):
    cub200(folder)
    shutil.rmtree(folder / "images/101.Bird_101")
    assert len(datasets.cub200(folder)) == 6
    with pytest.raises(FileNotFoundError, match="names 4 images of this split, and 2 of them"):
        datasets.cub200(folder, "test")


@every_loader
def test_unknown_splits(loader, folder):
    with pytest.raises(
        ValueError, match="`split` must be one of 'train', 'test', 'all', got 'val'"
    ):
        loader[1](folder, "val")


def test_wrong_lists(folder):
    cub200(folder)
    lines = (folder / "images.txt").read_text().splitlines()
    write(folder / "images.txt", *lines, "eleven x.png")
    with pytest.raises(ValueError, match="must be 'image_id path', got 'eleven x.png' in line 11"):
        datasets.cub200(folder)
    write(folder / "images.txt", *lines, "11")
    with pytest.raises(ValueError, match="must be 'image_id path', got '11' in line 11"):
        datasets.cub200(folder)
    write(folder / "images.txt", *lines, "11 x.png")
    with pytest.raises(ValueError, match="has no class for image 11, 'x.png'"):
        datasets.cub200(folder)
    write(folder / "images.txt", "")
    with pytest.raises(ValueError, match="images.txt in .* has no image of this split"):
        datasets.cub200(folder)


def test_a_wrong_list_of_paths(folder):
    inaturalist2018(folder)
    write(folder / "Inat_dataset_splits/Inaturalist_train_set1.txt", "Aves/1/0.png")
    with pytest.raises(
        ValueError, match="must be 'train_val2018/<super .*, got 'Aves/1/0.png' in line 1"
    ):
        datasets.inaturalist2018(folder)


def test_every_mode_becomes_rgb(folder):
    cub200(folder)
    path = folder / "images" / CUB_NAMES[1] / "Bird_1_0.png"
    for mode, color in (("L", 7), ("P", 7), ("RGBA", (7, 7, 7, 7)), ("1", 1), ("LA", (7, 0))):
        Image.new(mode, (3, 2), color).save(path)
        train = datasets.cub200(folder)
        image, _ = train[train.images.paths.index(str(path))]
        assert image.mode == "RGB" and np.asarray(image).shape == (2, 3, 3)


def test_a_home_folder(folder, monkeypatch):
    cub200(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(datasets.cub200("~/data")) == 6


@pytest.fixture
def products(folder):
    stanford_online_products(folder)
    return datasets.stanford_online_products(folder)


def pixels(dataset, batch):
    return np.stack([np.asarray(dataset[i][0].resize((4, 4))) for i in batch])


def test_batches_of_images_by_grain(products):
    batches = samplers.Batches(
        samplers.m_per_class, products.labels, m=2, batch_size=4, seed=0, steps=3
    )
    load = lambda batch: (pixels(products, batch), products.labels[batch])
    loader = grain.MapDataset.source(batches).map(load).to_iter_dataset()
    drawn = list(loader)
    assert len(drawn) == 3
    for (images, labels), batch in zip(drawn, batches, strict=True):
        assert images.shape == (4, 4, 4, 3) and images.dtype == np.uint8
        ids = [int(products.class_names[label]) for label in labels]
        np.testing.assert_array_equal(images[:, 0, 0, 0] // 10, ids)
        np.testing.assert_array_equal(labels, products.labels[batch])


def test_a_source_for_grain_and_for_workers(products):
    shades = [image.getpixel((0, 0))[0] for image, _ in products]
    records = list(grain.MapDataset.source(products).map(lambda x: x[0].getpixel((0, 0))[0]))
    assert records == shades
    copy = pickle.loads(pickle.dumps(products))
    assert [image.getpixel((0, 0))[0] for image, _ in copy] == shades
    assert repr(copy) == repr(products) == "Dataset(6 images, 3 classes, 2 super classes)"
    with pytest.raises(IndexError):
        products[6]


def test_super_classes(products):
    coarse_first = np.stack([products.super_labels, products.labels], 1)
    match = relations.hierarchical((1.0, 1.0))(jnp.asarray(coarse_first), jnp.asarray(coarse_first))
    names = [products.class_names[label] for label in products.labels]
    assert match[names.index("2"), names.index("3")] == 0.5
    assert match[names.index("2"), names.index("1")] == 0
    batch = samplers.hierarchical(
        coarse_first[:, ::-1], batch_size=4, samples_per_class=1, seed=0, step=0
    )
    np.testing.assert_array_equal(np.sort(products.super_labels[batch]), [0, 0, 1, 1])


class Column:
    """Of Hugging Face: not read before it is sliced."""

    def __init__(self, values):
        self.values = values

    def __getitem__(self, rows):
        assert rows == slice(None)
        return self.values


class ClassLabel:
    names = ["cat", "dog", "fox", "owl"]


class HuggingFace:
    """As a `datasets.Dataset`: columns by name, decoded records by number."""

    column_names = ["image", "label"]
    features = {"image": None, "label": ClassLabel()}
    labels = [3, 0, 1, 3, 2]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, key):
        if isinstance(key, str):
            return Column(self.labels)
        assert type(key) is int
        color = (10 * self.labels[key], 0, 0)
        return {"image": Image.new("RGB", (3, 2), color), "label": self.labels[key]}


class DatasetInfo:
    features = HuggingFace.features


class Tfds:
    """As what `tfds.data_source` gives without decoding: records of bytes."""

    dataset_info = DatasetInfo()

    def __len__(self):
        return 5

    def __getitem__(self, i):
        file = io.BytesIO()
        HuggingFace()[i]["image"].save(file, "PNG")
        if i >= 5:
            raise IndexError(i)
        return {"image": file.getvalue(), "label": np.int64(HuggingFace.labels[i])}


@pytest.mark.parametrize("records", [HuggingFace(), Tfds()], ids=["hugging_face", "tfds"])
def test_records(records):
    whole = datasets.from_records(records)
    np.testing.assert_array_equal(whole.labels, [3, 0, 1, 3, 2])
    assert whole.class_names == ("cat", "dog", "fox", "owl")
    half = datasets.from_records(records, classes=range(2, 4))
    np.testing.assert_array_equal(half.labels, [1, 1, 0])
    assert half.class_names == ("fox", "owl")
    assert [(image.getpixel((0, 0))[0], label) for image, label in half] == [
        (30, 1),
        (30, 1),
        (20, 0),
    ]
    assert half.super_labels is None


def test_records_of_other_kinds():
    gray, flat = np.full((2, 3, 1), 7, np.uint8), np.full((2, 3), 7, np.uint8)
    file = io.BytesIO()
    Image.new("L", (3, 2), 7).save(file, "PNG")
    hidden = {"bytes": file.getvalue(), "path": None}
    records = [
        {"x": image, "kind": kind, "genus": genus}
        for image, kind, genus in [(gray, "b", 9), (flat, "a", 4), (hidden, "b", 9)]
    ]
    dataset = datasets.from_records(records, image="x", label="kind", super_label="genus")
    assert dataset.class_names == ("a", "b") and dataset.super_class_names == ("4", "9")
    np.testing.assert_array_equal(dataset.labels, [1, 0, 1])
    np.testing.assert_array_equal(dataset.super_labels, [1, 0, 1])
    np.testing.assert_array_equal(pixels(dataset, range(3)), np.full((3, 4, 4, 3), 7))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: datasets.from_records({"train": [], "test": []}), "one split, got train, test"),
        (lambda: datasets.from_records(iter([])), "a length and items, got list_iterator"),
        (lambda: datasets.from_records([]), "must not be empty"),
        (
            lambda: datasets.from_records(HuggingFace(), label="target"),
            "`label` must be one of 'image', 'label', got 'target'",
        ),
        (lambda: datasets.from_records(Tfds(), image="x"), "`image` must be one of 'image'"),
        (
            lambda: datasets.from_records(Tfds(), classes=[9]),
            "some of the labels 0 to 3 .* got none",
        ),
    ],
)
def test_errors_of_records(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_without_pillow(products, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[datasets\]'"):
        products[0]
