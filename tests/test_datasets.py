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
    with pytest.raises(ValueError, match="must have a class .* none for image 11, 'x.png'"):
        datasets.cub200(folder)
    write(folder / "images.txt", "")
    with pytest.raises(ValueError, match="images.txt in .* must name images of this split"):
        datasets.cub200(folder)


def test_a_wrong_list_of_paths(folder):
    inaturalist2018(folder)
    write(folder / "Inat_dataset_splits/Inaturalist_train_set1.txt", "Aves/1/0.png")
    with pytest.raises(
        ValueError, match="must be 'train_val2018/<super .*, got 'Aves/1/0.png' in line 1"
    ):
        datasets.inaturalist2018(folder)


@pytest.mark.parametrize("number", [0, -1, 201])
@pytest.mark.parametrize(
    "make, load, most",
    [
        (cub200, datasets.cub200, 200),
        (cars196_one, datasets.cars196, 196),
        (cars196_devkit, datasets.cars196, 196),
    ],
)
def test_class_ids_that_are_none(make, load, most, number, folder, monkeypatch):
    signed = lambda classes, field, path: np.array(
        [(path(c, 0), np.int16(c)) for c in classes], [(field, "O"), ("class", "O")]
    )
    classes = (99, 1, number, 98, 2)
    changes = {"CUB_CLASSES": classes, "CAR_CLASSES": classes, "cars": signed}
    for name, value in changes.items():
        monkeypatch.setitem(globals(), name, value)
    make(folder)
    with pytest.raises(ValueError, match=f"class ids from 1 to {most}, got {number} of "):
        load(folder)


@pytest.mark.parametrize("line", ["a.png,1,2,3,4,0", "a.png,1,2,3,4,197", "a.png,1,2,3,4,x", "a"])
def test_a_wrong_line_of_cars(line, folder):
    cars196_by_class(folder)
    write(folder / "anno_train.csv", line)
    with pytest.raises(ValueError, match="datasets.cars196: .*(from 1 to 196, got|in line 1)"):
        datasets.cars196(folder)


def test_other_lists_that_are_wrong(folder):
    stanford_online_products(folder)
    lines = (folder / "Ebay_train.txt").read_text()
    write(folder / "Ebay_train.txt", lines.replace(" 3 3 ", " -1 3 "))
    with pytest.raises(ValueError, match="got '5 -1 3 cabinet_final/3_0.PNG' in line 6"):
        datasets.stanford_online_products(folder)
    (folder / "Ebay_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="each line of .*Ebay_train.txt' must be"):
        datasets.stanford_online_products(folder)


@pytest.mark.parametrize("content", ["no file of MATLAB", {"annotations": np.zeros(2)}])
def test_wrong_annotations_of_cars_are_named(content, folder):
    cars196_one(folder)
    path = folder / "cars_annos.mat"
    if isinstance(content, str):
        path.write_text(content)
    else:
        savemat(path, content | {"class_names": class_names()})
    with pytest.raises(ValueError, match=r"datasets.cars196: .*cars_annos.mat' must have "):
        datasets.cars196(folder)


@pytest.mark.parametrize("path", ["../../other/secret.png", "1/../../../../../etc/hostname"])
def test_lists_cannot_leave_the_folder(path, folder):
    picture(folder.parent / "other/secret.png", 7)
    cub200(folder)
    lines = (folder / "images.txt").read_text()
    write(folder / "images.txt", lines.replace("101.Bird_101/Bird_101_0.png", path))
    with pytest.raises(ValueError, match="datasets.cub200: paths must stay inside `folder`"):
        datasets.cub200(folder, "test")
    assert len(datasets.cub200(folder)) == 6


def test_a_list_with_a_path_from_the_root(folder):
    stanford_online_products(folder)
    write(folder / "Ebay_test.txt", "1 11 5 /etc/hostname")
    with pytest.raises(ValueError, match="products: paths must stay inside `folder`, .*'/etc'"):
        datasets.stanford_online_products(folder, "test")


@pytest.mark.parametrize(
    "linked", ["images", "images/001.Bird_1", "images/001.Bird_1/Bird_1_0.png"]
)
def test_links_cannot_leave_the_folder(linked, folder):
    cub200(folder)
    elsewhere = folder.parent / "other/moved"
    (folder / linked).rename(elsewhere)
    (folder / linked).symlink_to(elsewhere)
    with pytest.raises(ValueError, match="paths must stay inside `folder`"):
        datasets.cub200(folder)
    (folder / linked).unlink()
    elsewhere.rename(folder / "moved")
    (folder / linked).symlink_to(folder / "moved")  # inside
    link = folder.parent / "link"
    link.symlink_to(folder)  # to the folder itself
    assert len(datasets.cub200(link)) == 6


def test_a_damaged_image_is_named(folder):
    cub200(folder)
    train = datasets.cub200(folder)
    path = Path(train.images.paths[2])
    whole = path.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(OSError, match=f"{re.escape(str(path))}.*must be a whole image, got"):
            train[2]
        with pytest.raises(OSError, match=re.escape(str(path))):  # while a training loads it
            list(grain.MapDataset.source(train).to_iter_dataset())
    records = [{"image": whole, "label": 0}, {"image": whole[:40], "label": 0}]
    with pytest.raises(OSError, match="`image='image'` of record 1 must be a whole image"):
        list(datasets.from_records(records))


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
        (lambda: datasets.from_records([(1, 2)]), "must be dictionaries, got tuple"),
        (
            lambda: datasets.from_records([{"image": 0, "label": 0}, {"image": 0}]),
            "`label` must be in every record, got some without 'label'",
        ),
        (
            lambda: datasets.from_records(labeled("a", "b"), label="kind", classes=["c"]),
            "some of the labels 'a' to 'b'",
        ),
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


def labeled(*labels):
    return [{"x": np.zeros((2, 3, 3), np.uint8), "kind": label} for label in labels]


class Unlabeled(HuggingFace):
    labels = [1, 0, -1, 3, -1]


@pytest.mark.parametrize(
    "labels, complaint",
    [
        ([[0, 1], [1, 0]], r"must have shape \[2\] to match `records`, got \(2, 2\)"),
        ([[0], [1, 2]], "got rows of unequal lengths"),
        ([[0], 1], "got rows of unequal lengths"),
        ([0.0, np.nan], "got float64 with NaN"),
        ([0.0, 1.0], "got float64"),
        ([0, None], "got NoneType and int"),
        (["a", None], "got NoneType and str"),
        (["a", 1], "got int and str"),
        (["a", float("nan")], "got float and str"),
        ([b"a", b"b"], "got bytes8"),
        (["a", "a\0"], r"must not end in a zero character, got 'a\\x00'"),
        ([2**63, 2**63 + 1], "must be from -2"),
        ([1, 2**63], r"2\*\*63 - 1, got 9.223e\+18"),
        ([1, 2**64], "must be from -2"),
        ([1, -(2**70)], "must be from -2"),
        ([3, -1], "must have labels other than -1, got -1 in 1 of 2 records"),
    ],
)
@pytest.mark.parametrize("argument", ["label", "super_label"])
def test_labels_of_other_kinds_name_their_column(argument, labels, complaint):
    records = [record | {"fine": i} for i, record in enumerate(labeled(*labels))]
    columns = {"label": "fine", "super_label": "fine"} | {argument: "kind"}
    with pytest.raises(
        (TypeError, ValueError), match=f"`{argument}='kind'` .*{complaint}"
    ) as error:
        datasets.from_records(records, image="x", **columns)
    assert str(error.value).startswith("datasets.from_records: ") and len(str(error.value)) <= 400


def test_unlabeled_records_are_no_class():
    for records, what in (
        (Unlabeled(), "class ids from 0 to 3"),
        (Unlabeled().labels, "other than"),
    ):
        records = labeled(*records) if isinstance(records, list) else records
        columns = {} if isinstance(records, HuggingFace) else {"image": "x", "label": "kind"}
        with pytest.raises(ValueError, match=f"{what}.*got -1 in 2 of 5 records. Leave these out"):
            datasets.from_records(records, **columns)
        known = datasets.from_records(records, classes=range(4), **columns)
        np.testing.assert_array_equal(known.labels, [1, 0, 2])
    known = datasets.from_records(Unlabeled(), classes=range(4))
    assert known.class_names == ("cat", "dog", "owl")
    beyond = Unlabeled()
    beyond.labels = [0, 4]
    with pytest.raises(ValueError, match="class ids from 0 to 3, got 4 in 1 of 2"):
        datasets.from_records(beyond)


RAMP = np.linspace(0, 2**16 - 1, 64 * 64).reshape(64, 64).astype(np.uint16)


def tiff(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        RAMP, RAMP.astype(">u2"), RAMP[..., None], np.stack([RAMP] * 3, -1), Image.fromarray(RAMP),
        Image.fromarray(RAMP.astype(np.int32)), tiff(RAMP), tiff(RAMP.astype(np.int32)),
    ],
)  # fmt: skip
def test_sixteen_bits_are_scaled_to_eight(image):
    (decoded, _), *_ = datasets.from_records([{"image": image, "label": 0}])
    np.testing.assert_array_equal(np.asarray(decoded), np.round(RAMP / 257)[..., None].repeat(3, 2))


@pytest.mark.parametrize(
    "image, error, complaint",
    [
        (RAMP / 65535, TypeError, "got float64. Scale them to 0 to 255"),
        (np.float32(RAMP / 65535), TypeError, "got float32"),
        (Image.fromarray(np.float32(RAMP)), TypeError, "got float32"),
        (tiff(np.float32(RAMP)), TypeError, "got float32"),
        (RAMP.astype(int), TypeError, "got int64"),
        (Image.fromarray(RAMP.astype(np.int32) * 2), TypeError, "got int32"),
        (Image.fromarray(RAMP.astype(np.int32) - 1), TypeError, "got int32"),
        (None, TypeError, "got NoneType"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, r"got \(3, 8, 9\). Move the channels"),
        (np.zeros((1, 8, 9, 3), np.uint8), ValueError, "take one image"),
        ([[1], [2, 3]], OSError, "a whole image"),
        ("/etc/hostname", TypeError, "got a path. Pass the folder"),
        (Path("/etc/hostname"), TypeError, "got a path. Pass the folder"),
        ({"bytes": None, "path": "/etc/hostname"}, TypeError, "got a path. Pass the folder"),
    ],
)
def test_images_of_other_kinds_name_their_record(image, error, complaint):
    records = [{"x": image, "kind": label} for label in (3, 5)]
    dataset = datasets.from_records(records, image="x", label="kind", classes=[5])
    with pytest.raises(error, match=f"from_records: `image='x'` of record 1.* must .*{complaint}"):
        dataset[0]


def test_paths_are_opened_in_their_folder_only(folder):
    picture(folder / "a/b.png", 7)
    picture(folder.parent / "other/c.png", 9)
    (folder / "link.png").symlink_to(folder.parent / "other/c.png")
    load = lambda path: datasets.from_records([{"image": path, "label": 0}], folder=folder)[0][0]
    hidden = {"bytes": None, "path": str(folder / "a/b.png")}
    for path in ("a/b.png", Path("a/b.png"), str(folder / "a/b.png"), hidden):
        assert load(path).getpixel((0, 0)) == (7, 0, 0)
    for path in ("../other/c.png", str(folder.parent / "other/c.png"), "link.png", "/etc/hostname"):
        with pytest.raises(ValueError, match="record 0 .*paths must stay inside `folder`"):
            load(path)


def test_without_pillow(products, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[datasets\]'"):
        products[0]
