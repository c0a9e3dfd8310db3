"""The real data of the benchmarks, on small fakes: nothing here needs a network."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import _reality_page, data, reality
from benchmarks.data import __main__ as command
from benchmarks.data import _fetch, _scores, emoji, omniglot, toponyms, words


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICJAX_DATA", str(tmp_path / "cache"))
    cache = jax.config.jax_enable_compilation_cache
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_compilation_cache", cache)


def toy(name="emoji", classes=8, per_class=6, pixels=32):
    """Saves images of a color for each class, with noise."""
    rng, names = np.random.default_rng(0), np.repeat([*"abcdefgh"][:classes], per_class)
    colors = rng.integers(0, 200, (classes, 1, 1, 3)).repeat(per_class, 0)
    noise = rng.integers(0, 55, (len(names), pixels, pixels, 3))
    pack = data.pack((colors + noise).astype(np.uint8), names)
    data.save(name, pack)
    return pack


def test_a_pack_comes_back_and_its_parts_share_no_class():
    pack = toy()
    loaded = data.load("emoji")
    for ours, read in zip(pack, loaded, strict=True):
        np.testing.assert_array_equal(ours, read)
    (seen, labels), (unseen, others) = loaded.part(unseen=False), loaded.part(unseen=True)
    assert len(seen) == len(unseen) == 24 and not set(labels) & set(others)


def test_classes_can_be_chosen_by_name():
    pack = data.pack(np.zeros(4), ["x/1", "y/1", "x/2", "y/1"], unseen=lambda x: x[0] == "x")
    assert list(pack.classes[pack.unseen]) == ["x/1", "x/2"]
    assert pack.labels.tolist() == [0, 2, 1, 2]


def test_without_a_pack_it_says_what_to_run():
    with pytest.raises(SystemExit, match="python -m benchmarks.data emoji"):
        data.load("emoji")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no_such_package is missing.*reality"):
        _fetch.module("no_such_module", "no_such_package")
    with pytest.raises(SystemExit, match="small1.zip.*--from"):
        omniglot.packed(tmp_path)
    with pytest.raises(SystemExit, match="exit 3` failed: no such package"):
        _fetch._run(tmp_path, "a shell", "sh", "-c", "echo no such package >&2; exit 3")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="`npm` is missing. It comes with Node.js"):
        _fetch.npm("@iconify-json/noto", tmp_path)


@pytest.mark.parametrize("flags", (["omniglot"], ["emoji", "--from", "."]))
def test_only_omniglot_comes_from_a_folder(flags, capsys):
    with pytest.raises(SystemExit):
        command.main(flags)
    assert "--from FOLDER" in capsys.readouterr().err


def test_archives_of_npm(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "noto-1.tgz", "w:gz") as archive:
        file = tarfile.TarInfo("package/icons.json")
        archive.addfile(file, io.BytesIO())
    monkeypatch.setattr(_fetch, "_run", lambda *_: "noto-1.tgz\n")
    assert (_fetch.npm("noto@1", tmp_path) / "icons.json").exists()


def icons(folder, name):
    body = {"body": '<circle cx="8" cy="8" r="8"/>'}
    found = {"red-apple": body, "hand-light-skin-tone": body, "old": body | {"hidden": True}}
    (folder / "icons.json").write_text(json.dumps({"icons": found | ({name: body})}))
    return folder


def test_emoji_of_one_name_are_a_class(tmp_path, monkeypatch):
    versions = iter("abcdef")
    monkeypatch.setattr(emoji, "npm", lambda package, _: icons(tmp_path, next(versions)))
    svgs, names = emoji.drawings()
    assert names == ["redapple"] * 6  # tones and hidden ones are left out, as are single drawings
    assert 'viewBox="0 0 16 16"' in svgs[0]


def test_omniglot_leaves_alphabets_out(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    ink = io.BytesIO()
    image.new("1", (105, 105)).save(ink, "png")
    for archive, alphabets in zip(omniglot.ARCHIVES, ("Greek", "Tagalog"), strict=True):
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            for i in range(4):
                name = f"images/{alphabets}/character0{i // 2 + 1}/000{i}_01.png"
                file.writestr(name, ink.getvalue())
    command.main(["omniglot", "--from", str(tmp_path)])
    out = capsys.readouterr().out
    assert "8 samples, 2 seen and 2 unseen classes" in out
    assert "license: MIT" in out and "source: the two small archives" in out
    pack = data.load("omniglot")
    assert pack.samples.shape == (8, 32, 32, 1) and np.all(pack.samples == 255)
    assert [name.split("/")[0] for name in pack.classes[pack.unseen]] == ["Tagalog"] * 2


def test_every_set_tells_its_source_and_license():
    assert all(told.SOURCE and told.LICENSE for told, _ in command.SETS.values())
    assert not any("NC" in about[1] or "SA" in about[1] for about in emoji.SETS.values())


def test_names_of_a_city_differ_in_more_than_case():
    city = {"name": "Roma", "alternatenames": ["ROMA", "Rome", "", "R"]}
    assert len(toponyms.names_of(city)) == 2


def test_definitions_of_two_dictionaries(tmp_path):
    gloss = "00001740 03 n 02 fork 0 silver_fork 0 001 @ 0001 n 0000 | cutlery with tines to eat"
    (tmp_path / "data.noun").write_text(f'  1 license\n{gloss}; "a fork"\n')
    assert words.wordnet([tmp_path / "data.noun"]) == {"fork": "cutlery with tines to eat"}
    entry = b"Fork \\Fork\\, n. [OE.\n   forke]\n   1. A tool with {prongs} to lift.\n\n   Note"
    (tmp_path / "gcide.dict.dz").write_bytes(gzip.compress(b"!!" + entry))
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    length = digits[len(entry) // 64] + digits[len(entry) % 64]
    (tmp_path / "gcide.index").write_text(f"Fork\tC\t{length}\n")
    assert words.gcide(tmp_path) == {"fork": "A tool with prongs to lift."}
    assert words.copied("a tool with prongs", "It is a tool with prongs")
    assert not words.copied("a tool with tines", "a tool with prongs")


def test_scores_of_texts_and_vectors():
    pytest.importorskip("sklearn")
    labels = np.array([0, 0, 1, 1])
    texts = np.array(["London", "Londra", "Paris", "Parigi"])
    found = _scores.of_texts(texts, labels)
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [1, 0.3]])
    first = _scores.of_vectors(vectors, labels)["precision_at_1"]
    assert np.all(found["precision_at_1"] == 1)
    assert first.tolist() == [1, 1, 1, 0]


def test_a_patch_is_its_own_pixels():
    images = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    patches = reality.folded(images, 2 * 2 * 3)
    np.testing.assert_array_equal(patches[1, 0, 1], images[1, :2, 2:].reshape(-1))


def test_an_interval_covers_its_mean_and_grows_with_the_spread_of_seeds():
    queries = np.random.default_rng(0).normal(0.1, 0.1, (1, 200))
    low, high = reality.interval(np.repeat(queries, 5, 0))
    assert low < queries.mean() < high
    apart = queries + np.array([-0.2, -0.1, 0, 0.1, 0.2])[:, None]
    assert np.diff(reality.interval(apart)) > 2 * (high - low)


def test_a_difference_is_equivalent_within_a_point():
    same = np.stack([np.full(50, 0.5), np.full(50, 0.495)])
    scores = reality.Scores(same, same)
    assert reality.difference("emoji", "ntxent", [scores] * 3)["equivalent"]
    apart = reality.Scores(same + [[0.02], [0]], same)
    assert not reality.difference("emoji", "ntxent", [apart] * 3)["equivalent"]


def test_the_first_losses_must_agree():
    reality.check_first((50.0, 50.0004), "emoji")
    with pytest.raises(SystemExit, match="first loss is 1.0, but PML's is 1.00002"):
        reality.check_first((1.0, 1.00002), "emoji")


@pytest.mark.slow
@pytest.mark.parametrize("loss", reality.RECIPES)
def test_every_loss_trains(loss):
    toy()
    task, shape = reality.task("emoji"), ((8, 4), (4, 8))
    first = reality.initial(shape, 3, task.labels.max() + 1, 0)
    batches = np.arange(16).reshape(1, 16).repeat(2, 0)
    layers, value = reality.train_ours(reality.RECIPES[loss], task, first, batches)
    assert np.isfinite(value) and not np.array_equal(layers[0][0], first[0][0][0])


@pytest.mark.slow
def test_the_check_runs_and_resumes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pytorch_metric_learning")
    toy()
    monkeypatch.setattr(reality, "BATCH", 16)
    monkeypatch.setitem(reality.NETWORKS, "emoji", ((8, 4), (4, 8)))
    out = tmp_path / "reality-cpu.json"
    flags = ["--sets", "emoji", "--losses", "arcface", "--seeds", "1", "--steps", "2"]
    reality.main([*flags, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    whos = [row["who"] for row in rows]
    assert sorted(whos) == ["difference", "ours", "pml", "untrained"]
    monkeypatch.setattr(reality, "pair", None)  # a pair that is there is not trained again
    reality.main([*flags, "--out", str(out)])
    about = json.loads(out.read_text())["environment"]
    monkeypatch.setattr(_reality_page, "results", lambda kind: {"cpu": (about, rows)})
    page = _reality_page.reality_page()
    assert "Equivalent, with 1 seed: 1 of 1 losses." in page
    assert "| arcface |" in page
