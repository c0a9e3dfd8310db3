"""Images of your own: folders, pixels, augmentation, and the network of an NNX module."""

import functools
import logging
import threading
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding
from PIL import Image

import metricjax as mj
from metricjax import datasets, training
from metricjax.datasets import augment

CLASSES = ("ant", "bee", "cow", "dog", "eel", "fox")


def write(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (6, 4), (10, 20, 30))).save(path)


@pytest.fixture
def folder(tmp_path):
    """Six classes of two images each, of which one is in a folder of its own."""
    folder = tmp_path / "all" / "animals"
    for name in CLASSES:
        write(folder / name / "1.PNG")
        write(folder / name / "more" / "0.jpg")
    return folder


# --- folders ---------------------------------------------------------------------------------


def test_classes_and_images_are_in_the_order_of_their_names(folder):
    (folder / ".cache").mkdir()
    (folder / "ant" / "Thumbs.db").write_text("no image")
    (folder / "ant" / "._1.png").write_text("no image either")
    write(folder / "ant" / ".trash" / "2.png")
    write(folder / "at the top.png")
    dataset = datasets.image_folder(folder)
    assert dataset.class_names == CLASSES
    np.testing.assert_array_equal(dataset.labels, np.repeat(np.arange(6), 2))
    paths = [Path(path).relative_to(folder).as_posix() for path in dataset.images.paths]
    assert paths == [f"{name}/{file}" for name in CLASSES for file in ("1.PNG", "more/0.jpg")]
    image, label = dataset[3]
    assert image.mode == "RGB" and image.size == (6, 4) and label == 1


@pytest.mark.parametrize("share, count", [(0.5, 3), (1 / 3, 2), (0.01, 1), (0.99, 5)])
def test_a_share_of_the_classes_is_for_test(folder, share, count):
    load = functools.partial(datasets.image_folder, folder, test_classes=share)
    train, test = load("train"), load("test")
    assert len(test.class_names) == count and len(test) == 2 * count
    assert sorted(train.class_names + test.class_names) == list(CLASSES)
    np.testing.assert_array_equal(np.unique(train.labels), np.arange(6 - count))
    assert {Path(path).relative_to(folder).parts[0] for path in test.images.paths} == set(
        test.class_names
    )
    assert load("test").class_names == test.class_names
    assert len({load("test", seed=seed).class_names for seed in range(20)}) > 2


def test_the_same_classes_are_drawn_everywhere_and_a_new_class_replaces_one_at_most(folder):
    drawn = ("ant", "cow", "eel")
    assert datasets.image_folder(folder, "test").class_names == drawn
    write(folder / "gnu" / "0.png")
    test = datasets.image_folder(folder, "test", test_classes=3 / 7)
    assert len({*test.class_names, *drawn}) <= 4


def test_classes_by_name(folder):
    load = functools.partial(datasets.image_folder, folder, test_classes=["fox", "ant"])
    assert load("train").class_names == CLASSES[1:5]
    assert load("test").class_names == ("ant", "fox")
    assert datasets.image_folder(folder, "test", test_classes="bee").class_names == ("bee",)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "val"}, "`split` must be one of 'train', 'test', 'all', got 'val'"),
        ({"damaged": "drop"}, "`damaged` must be one of 'keep', 'raise', 'skip', got 'drop'"),
        ({"test_classes": ["cat", "dog"]}, "must be folders of `folder`, got 'cat'. There is"),
        ({"test_classes": ["dogs"]}, "got 'dogs'. There is 'dog'"),
        ({"test_classes": CLASSES}, "must leave a class for both splits, got 6 of 6 classes"),
        ({"test_classes": []}, "must leave a class for both splits, got 0 of 6"),
        ({"test_classes": 1.0}, "must be a share between 0 and 1, or names .*, got 1.0"),
        ({"test_classes": [1, 2]}, "must be folders of `folder`, got '1'"),
        ({"test_classes": np.float32(2)}, "must be a share between 0 and 1"),
        ({"test_classes": 3}, "must be a share between 0 and 1, or names .*, got 3"),
    ],
)
def test_wrong_arguments(folder, options, message):
    with pytest.raises(ValueError, match=f"datasets.image_folder: .*{message}"):
        datasets.image_folder(folder, **{"split": "test"} | options)


def test_wrong_folders(folder):
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        datasets.image_folder(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="has 1 images and no folders. Move the images"):
        datasets.image_folder(folder / "ant" / "more")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must have images .*, got none in 'empty' of"):
        datasets.image_folder(folder)


def test_links_stay_inside_of_the_folder(folder):
    (folder / "ant" / "2.png").symlink_to(folder / "bee" / "1.PNG")
    (folder / "gnu").symlink_to(folder / "fox")
    assert len(datasets.image_folder(folder)) == 12 + 1 + 2
    write(folder.parent / "birds" / "0.png")
    (folder / "hen").symlink_to(folder.parent / "birds")
    with pytest.raises(ValueError, match="paths must stay inside `folder`"):
        datasets.image_folder(folder)


# --- damaged and unusual images --------------------------------------------------------------


def test_damaged_images_are_named_at_once_or_left_out(folder, caplog):
    files = [folder / "ant" / "1.PNG", folder / "bee" / "1.PNG", folder / "bee" / "more" / "0.jpg"]
    files[0].write_bytes(files[0].read_bytes()[:40])
    for file in files[1:]:
        file.write_text("no image")
    kept = datasets.image_folder(folder)
    assert len(kept) == 12
    for names_all in (
        lambda: datasets.image_folder(folder, damaged="raise"),
        lambda: datasets.decode(kept, 4),
        lambda: datasets.decode(kept.images.paths, 4, threads=1),
    ):
        with pytest.raises(OSError, match="got 3 damaged of 12") as error:
            names_all()
        found = [str(error.value).find(repr(str(file))) for file in files]
        assert -1 not in found and found == sorted(found)
    with caplog.at_level(logging.WARNING, "metricjax"):
        whole = datasets.image_folder(folder, damaged="skip")
    assert all(repr(str(file)) in caplog.text for file in files)
    assert len(whole) == 9 and whole.class_names == ("ant", *CLASSES[2:])
    assert whole.labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert datasets.decode(whole, 4).shape == (9, 4, 4, 3)

    with pytest.raises(OSError, match="2 damaged of 2"):  # nothing would be left
        datasets.image_folder(folder, "test", test_classes="bee", damaged="skip")


def test_a_whole_folder_gives_no_warning(folder, caplog):
    assert len(datasets.image_folder(folder, damaged="skip")) == 12 and not caplog.records


def test_many_damaged_images_are_counted(folder):
    for i in range(30):
        (folder / "ant" / f"{i:02d}.png").write_text("no image")
    with pytest.raises(OSError, match="got 30 damaged of 42") as error:
        datasets.image_folder(folder, damaged="raise")
    assert str(error.value).endswith("and 10 more")


def test_gray_palette_alpha_and_16_bits_become_rgb(tmp_path):
    color = Image.new("RGB", (6, 4), (255, 0, 0))
    images = {
        "gray": (Image.new("L", (6, 4), 100), {}, (100, 100, 100)),
        "bit": (Image.new("1", (6, 4), 1), {}, (255, 255, 255)),
        "palette": (color.quantize(4), {}, (255, 0, 0)),
        "some of the palette": (color.quantize(4), {"transparency": bytes([0, 9])}, (255, 0, 0)),
        "gray and alpha": (Image.new("LA", (6, 4), (100, 0)), {}, (100, 100, 100)),
        "alpha": (Image.new("RGBA", (6, 4), (1, 2, 3, 0)), {}, (1, 2, 3)),
        "sixteen": (Image.fromarray(np.full((4, 6), 257 * 5, np.uint16)), {}, (5, 5, 5)),
    }
    for name, (image, options, _) in images.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png", **options)
    dataset = datasets.image_folder(tmp_path)
    pixels = datasets.decode(dataset, 2)
    for name, (_, _, want) in images.items():
        assert (pixels[dataset.class_names.index(name)] == want).all(), name


def test_photos_are_turned_upright(tmp_path):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0] = 255  # the sky
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        write(tmp_path / "a" / f"{orientation}.png")
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(tmp_path / "a" / f"{orientation}.png", exif=exif)
    for image, _ in datasets.image_folder(tmp_path):
        np.testing.assert_array_equal(np.asarray(image), upright)


# --- pixels ----------------------------------------------------------------------------------


def test_decode_keeps_proportions_and_takes_the_center(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8] = 255  # left of the center
    write(tmp_path / "a" / "wide.png", Image.fromarray(wide))
    write(tmp_path / "a" / "tiny.png", Image.new("RGB", (1, 1), (7, 7, 7)))
    dataset = datasets.image_folder(tmp_path)
    pixels = datasets.decode(dataset, 8)
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 8, 8, 3)
    assert (pixels[0] == 7).all() and (pixels[1] == 0).all()
    np.testing.assert_array_equal(datasets.decode(dataset, (8, 24), [1])[0], wide)


def test_decode_gives_the_rows_that_are_asked_for_in_any_number_of_threads(tmp_path):
    for i in range(20):
        write(tmp_path / "a" / f"{i:02d}.png", Image.new("RGB", (5, 3), (i, i, i)))
    dataset = datasets.image_folder(tmp_path)
    for threads in (1, 3, 64):
        pixels = datasets.decode(dataset, 2, threads=threads)
        assert pixels[:, 0, 0, 0].tolist() == list(range(20))
    rows = np.array([3, 3, 11, 0])
    assert datasets.decode(dataset, 2, rows)[:, 0, 0, 1].tolist() == rows.tolist()
    paths = [Path(path) for path in dataset.images.paths]
    assert datasets.decode(paths, 2, rows)[:, 1, 1, 2].tolist() == rows.tolist()
    assert datasets.decode([], 2).shape == (0, 2, 2, 3)
    for wrong in ({"size": 0}, {"size": (2, 0)}, {"size": 2, "threads": 0}):
        with pytest.raises(ValueError, match="datasets.decode: `(size|threads)` must be"):
            datasets.decode(dataset, **wrong)
    assert datasets.decode(str(paths[7]), 2)[0, 0, 0, 0] == 7
    for wrong in (rows == 3, rows[None], rows + 0.5):
        with pytest.raises(TypeError, match="decode: `rows` must be row numbers"):
            datasets.decode(dataset, 2, wrong)
    with pytest.raises(IndexError):  # an error that is not about an image
        datasets.decode(dataset, 2, [20])


def test_decode_has_no_more_threads_than_allowed():
    seen = set()

    class Images:
        def __len__(self):
            return 50

        def __getitem__(self, i):
            seen.add(threading.get_ident())
            return Image.new("RGB", (2, 2))

    dataset = datasets.Dataset(Images(), np.zeros(50, int), ("a",))
    datasets.decode(dataset, 2, threads=2)
    assert 1 <= len(seen) <= 2


# --- augmentation ----------------------------------------------------------------------------

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 12, 10, 3)), jnp.float32)
EACH = {
    "random_horizontal_flip": {},
    "random_crop": {"size": 12, "padding": 2},
    "random_resized_crop": {"size": (8, 6)},
    "color_jitter": {},
    "random_grayscale": {},
    "gaussian_noise": {},
}
SHAPES = {"random_crop": (12, 12), "random_resized_crop": (8, 6)}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "random_crop" else pytest.param(name, marks=pytest.mark.slow)
        for name in EACH
    ],
)
def test_augmentations_are_functions_of_a_key(name):
    change = functools.partial(getattr(augment, name), **EACH[name])
    keys = jax.random.split(jax.random.key(0))

    @jax.jit
    def all_at_once(keys, images):
        apart = [change(jax.random.split(keys[0], len(images))[i], images[i]) for i in (0, 5)]
        return change(keys[0], images), change(keys[1], images), jnp.stack(apart)

    first, other, apart = all_at_once(keys, IMAGES)
    assert first.shape == (8, *SHAPES.get(name, (12, 10)), 3)
    assert (first >= 0).all() and (first <= 1 + 1e-6).all() and first.dtype == IMAGES.dtype
    assert (first != other).any()
    np.testing.assert_allclose(first[np.array([0, 5])], apart, atol=1e-6)  # a key for each image
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jax.eval_shape(change, keys[0], IMAGES[0].astype(dtype))
        assert half.dtype == dtype and half.shape == first.shape[1:]
    with pytest.raises(TypeError, match=f"augment.{name}: `images` must be floats .*, got uint8"):
        change(keys[0], np.zeros((12, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=f"augment.{name}: `images` must have shape"):
        jax.eval_shape(change, keys[0], IMAGES[0, :, :, 0])


def test_augmentations_do_what_their_formula_says():
    key = jax.random.key(1)
    many = jnp.broadcast_to(IMAGES[0], (400, 12, 10, 3))

    @jax.jit
    def changed(key):
        off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
        return {
            "flip": augment.random_horizontal_flip(key, many, probability=0.3),
            "gray": augment.random_grayscale(key, many, probability=0.2),
            "noise": augment.gaussian_noise(key, jnp.full((400, 12, 10, 3), 0.5), sigma=0.1),
            "crop": augment.random_crop(key, many, (4, 4), padding=1),
            "whole": augment.random_resized_crop(
                key, many[:4], (12, 10), scale=(1.0, 1.0), ratio=(10 / 12, 10 / 12)
            ),
            "off": augment.color_jitter(key, many[:4], **off),
            "brightness": augment.color_jitter(key, many / 2, **off | {"brightness": 0.5}),
            "contrast": augment.color_jitter(key, many / 2, **off | {"contrast": 0.5}),
            "saturation": augment.color_jitter(key, many / 2, **off | {"saturation": 0.5}),
        }

    got = {name: np.asarray(x) for name, x in changed(key).items()}
    image = np.asarray(IMAGES[0])
    gray = image @ np.float32([0.299, 0.587, 0.114])

    flipped = (got["flip"] == image[:, ::-1]).all((1, 2, 3))
    assert (flipped | (got["flip"] == image).all((1, 2, 3))).all() and 80 < flipped.sum() < 160
    grays = np.isclose(got["gray"], gray[..., None], atol=1e-6).all((1, 2, 3))
    assert (grays | (got["gray"] == image).all((1, 2, 3))).all() and 45 < grays.sum() < 115
    assert abs(got["noise"].std() - 0.1) < 1e-3 and abs(got["noise"].mean() - 0.5) < 1e-3

    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4, 3)).reshape(-1, 4, 4, 3)
    places = [np.flatnonzero((windows == x).all((1, 2, 3))) for x in got["crop"]]
    assert min(map(len, places)) == 1  # each crop is a part of the padded image
    assert len({int(x[0]) for x in places}) > 0.95 * len(windows)  # and each part can come up

    np.testing.assert_allclose(got["whole"], many[:4], atol=1e-5)
    np.testing.assert_allclose(got["off"], many[:4], atol=1e-6)
    half, half_gray = image / 2, gray[..., None] / 2
    for name, toward in (
        ("brightness", 0 * half), ("contrast", half_gray.mean()), ("saturation", half_gray)
    ):  # fmt: skip
        full = half - toward  # the result is `toward + factor * full`, except where it is clipped
        inside = (got[name] > 0) & (got[name] < 1) & (np.abs(full) > 0.02)
        factors = np.where(inside, (got[name] - toward) / np.where(full == 0, 1, full), np.nan)
        each = np.nanmedian(factors, (1, 2, 3))
        assert (np.nanmax(np.abs(factors - each[:, None, None, None])) < 1e-3).all(), name
        assert 0.5 <= each.min() < 0.55 and 1.45 < each.max() <= 1.5, name


@pytest.mark.slow
def test_resized_crops_have_the_areas_and_proportions_asked_for():
    """Images whose pixels are their coordinates: the corners of a crop say where it was."""
    rows, columns = np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij")
    image = jnp.asarray(np.stack([rows, columns, rows], -1) / 64, jnp.float32)
    crop = functools.partial(augment.random_resized_crop, size=8, scale=(0.1, 0.5), ratio=(0.5, 2))
    got = 64 * np.asarray(
        jax.jit(crop)(jax.random.key(0), jnp.broadcast_to(image, (500, 64, 64, 3)))
    )
    height = (got[:, 6, 3, 0] - got[:, 1, 3, 0]) / 5 * 8  # away from the edges of the image
    width = (got[:, 3, 6, 1] - got[:, 3, 1, 1]) / 5 * 8
    area, ratio = height * width / 64**2, width / height
    assert 0.09 < area.min() < 0.12 and 0.45 < area.max() < 0.51
    assert abs(area.mean() - 0.3) < 0.02 and abs(np.log(ratio).mean()) < 0.06
    assert 0.49 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.03


def test_augmentations_of_a_batch_on_an_explicit_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    spread = jax.device_put(IMAGES, NamedSharding(mesh, jax.P("data")))
    key = jax.random.key(0)

    @jax.jit
    def view(images):
        images = augment.random_crop(key, images, 8)
        return augment.random_grayscale(key, augment.random_horizontal_flip(key, images))

    with jax.set_mesh(mesh):
        got = view(spread)
    np.testing.assert_allclose(got, view(IMAGES), rtol=1e-6)


def test_what_augmentations_cannot_take():
    key, image = jax.random.key(0), IMAGES[0]
    with pytest.raises(
        ValueError, match=r"augment.random_crop: `size` must be at most .*\(14, 12\)"
    ):
        augment.random_crop(key, image, (15, 12), padding=1)
    for wrong in ({"size": 0}, {"size": 4, "padding": -1}):
        with pytest.raises(
            ValueError, match="augment.random_crop: `(size|padding)` must be an int"
        ):
            augment.random_crop(key, image, **wrong)
    with pytest.raises(
        ValueError, match="augment.color_jitter: `images` must have 1 or 3 channels"
    ):
        augment.color_jitter(key, jnp.zeros((4, 4, 2)))
    one = IMAGES[0, :, :, :1]
    np.testing.assert_array_equal(augment.random_grayscale(key, one, probability=1), one)


# --- the network of a module -----------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.linear(x)))))


X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
Y = jnp.arange(12) % 3
LOSS = mj.objective(mj.losses.contrastive, neg_margin=1.5)


@pytest.fixture
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


def test_training_an_nnx_network_is_that_of_the_module(_users_settings):
    module, optimizer = Net(nnx.Rngs(0)), optax.sgd(0.1)
    network, params, variables = training.nnx_network(module)
    step = jax.jit(training.metric_loss_only(network, LOSS, optimizer))
    state = training.State.create({"network": params}, optimizer, variables=variables)

    by_hand = nnx.clone(module)
    updater = nnx.Optimizer(by_hand, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step_by_hand(module, updater):
        (loss, _), grads = nnx.value_and_grad(lambda m: LOSS(m(X), Y), has_aux=True)(module)
        updater.update(module, grads)
        return loss

    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    losses = []
    for _ in range(3):
        state, metrics = step(state, (X, Y))
        np.testing.assert_allclose(metrics["loss"], step_by_hand(by_hand, updater), rtol=1e-5)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    assert state.variables["dropout"]["rngs"]["count"].get_value() == 3
    # The module is still what it was, until the state is written into it.
    chex.assert_trees_all_equal(before, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    assert (module.norm.mean.get_value() == 0).all()

    nnx.update(module, state.params["network"], state.variables)
    module.eval()
    by_hand.eval()
    got, want = jax.jit(lambda a, b: (a(X), b(X)))(module, by_hand)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (module.norm.mean.get_value() != 0).any()


@pytest.mark.slow
def test_an_nnx_network_resumes_with_the_same_random_numbers(tmp_path, _users_settings):
    network, params, variables = training.nnx_network(Net(nnx.Rngs(0)))
    optimizer = optax.sgd(0.1)
    step = training.metric_loss_only(network, LOSS, optimizer)
    start = training.State.create({"network": params}, optimizer, variables=variables)
    fit = functools.partial(training.fit, step, start, lambda i: (X, Y))
    whole = fit(steps=4).state
    fit(steps=2, folder=tmp_path / "run")
    resumed = fit(steps=4, folder=tmp_path / "run").state
    assert resumed.variables["dropout"]["rngs"]["count"].get_value() == 4
    chex.assert_trees_all_equal(resumed.params, whole.params)


def test_an_nnx_network_holds_copies():
    module = Net(nnx.Rngs(0))
    _, params, variables = training.nnx_network(module)
    before = jax.tree.map(jnp.copy, (params, variables))
    nnx.update(module, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal((params, variables), before)


def test_only_nnx_modules_are_split():
    with pytest.raises(TypeError, match="nnx_network: `module` must be .* got Dense. Of a Linen"):
        training.nnx_network(linen.Dense(3))
