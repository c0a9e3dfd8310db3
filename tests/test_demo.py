"""The demo, for a few steps: its table, its pictures, and its one-line errors."""

import subprocess
import sys

import jax
import pytest

from metricjax.demo import __main__ as demo
from metricjax.demo import _data, _train

NETWORKS = ("raw pixels", "untrained network", "trained network")


@pytest.fixture(autouse=True)
def _usual_promotion():
    """Flax's pooling needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def table(printed):
    """The printed scores: one list of six numbers for each network."""
    rows = {}
    for line in printed.splitlines():
        for name in NETWORKS:
            if line.startswith(name):
                rows[name] = [float(cell) for cell in line.removeprefix(name).split()]
    return rows


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    demo.main(["--steps", "3", "--out", str(out)])
    printed = capsys.readouterr()
    rows = table(printed.out)
    assert list(rows) == list(NETWORKS)
    assert all(len(row) == 6 and all(0 < score <= 1 for score in row) for row in rows.values())
    assert len({len(line) for line in printed.out.splitlines()[:5]}) == 1  # columns line up
    assert "loss=" in printed.err
    for name in ("loss", "map", "neighbours", "worst", "distances", "roc"):
        name = f"{name}.png"
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert str(out / name) in printed.out
    assert "<html" in (out / "report.html").read_text()
    assert str(out / "report.html") in printed.out


RECIPES = [
    ("multi_similarity", "multi_similarity", 200),
    *(
        pytest.param(*recipe, marks=pytest.mark.slow)
        for recipe in (
            ("arcface", "uniform_histogram", 0),
            ("contrastive", "triplet_margin", 0),
            ("triplet_margin", "distance_weighted", 0),
            ("ntxent", "none", 100),
            ("proxy_anchor", "none", 0),
            *(("triplet_margin", miner, 100) for miner in demo.MINERS),
        )
    ),
]


@pytest.mark.parametrize(("loss", "miner", "memory"), RECIPES)
def test_every_loss_and_miner_trains_and_the_seed_decides_all(loss, miner, memory, capsys):
    digits, _, _ = _data.load(0)
    recipe = {"loss": loss, "miner": miner, "memory": memory, "steps": 3, "seed": 1}
    first, second = (_train.train(digits, **recipe)[2] for _ in range(2))
    assert len(first) == 3
    assert first == second
    bar = capsys.readouterr().err
    assert "loss_non_zero=" in bar
    if miner != "none":
        assert "positive_pairs=" in bar or "triplets=" in bar


@pytest.mark.slow
def test_the_memory_gives_more_to_compare_with(capsys):
    digits, _, _ = _data.load(0)
    mined = []
    for memory in (0, 200):
        _train.train(digits, loss="contrastive", miner="hdc", memory=memory, steps=3, seed=1)
        mined.append(
            float(capsys.readouterr().err.split("negative_pairs=")[-1].split(",")[0].split("]")[0])
        )
    assert mined[1] > 2 * mined[0] > 0


def test_digits_are_split_by_class():
    train, held_out, unseen = _data.load(0)
    assert set(train.labels) == set(held_out.labels) == set(range(7))
    assert set(unseen.labels) == {7, 8, 9}
    assert len(train.labels) + len(held_out.labels) + len(unseen.labels) == 1797
    images, labels = next(_data.batches(train, 4, 1, 0))
    assert images.shape == (28, 8, 8, 1)
    assert sorted(labels) == sorted(list(range(7)) * 4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--loss", "hinge"], "contrastive"),
        (["--miner", "hinge"], "triplet_margin"),
        (["--steps", "0"], "whole number from 1"),
        (["--steps", "many"], "whole number from 1"),
        (["--seed", "-1"], "whole number from 0"),
        (["--out", "{file}/pictures"], "cannot write to"),
        (["--memory", "-1"], "whole number from 0"),
        (["--memory", "9", "--loss", "arcface"], "--memory"),
        (["--colour"], "--colour"),
    ],
)
def test_errors_are_one_line(arguments, complaint, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as stop:
        demo.main([argument.format(file=file) for argument in arguments])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("metricjax.demo: ")
    assert complaint in printed.err


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit):
        demo.main([])
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "scikit-learn" in printed
    assert "pip install 'metricjax[demo]'" in printed


@pytest.mark.slow
def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "metricjax.demo", "--loss", "none"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.optimized
def test_training_beats_raw_pixels(tmp_path, capsys):
    demo.main(["--out", str(tmp_path)])
    rows = table(capsys.readouterr().out)
    for map_at_r in (2, 5):  # held-out images of seen digits, and unseen digits
        trained = rows["trained network"][map_at_r]
        assert trained > rows["raw pixels"][map_at_r]
        assert trained > rows["untrained network"][map_at_r]
