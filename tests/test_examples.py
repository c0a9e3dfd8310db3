"""Every example, as a user runs it but mostly in short: its figures and its picture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = {path.stem for path in (ROOT / "examples").glob("[!_]*.py")}


def run(name, out, steps):
    """The figures that an example prints, by name."""
    command = [sys.executable, "-m", f"examples.{name}", "--steps", f"{steps}", "--out", f"{out}"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    *lines, last = printed.splitlines()
    assert last == f"wrote {out / name}.png"
    picture = (out / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    rows = (line[2:].rsplit(maxsplit=1) for line in lines if line.startswith("  "))
    return {key: float(value) for key, value in rows}


def test_supervised(tmp_path):
    got = run("supervised", tmp_path, 60)
    assert got["margin from 0.1 to 0.4"] > max(got["pixels"], got["untrained"]) + 0.2


@pytest.mark.slow
def test_self_supervised(tmp_path):
    got = run("self_supervised", tmp_path, 200)
    assert got["trained without labels"] > max(got["pixels"], got["untrained"]) + 0.2


@pytest.mark.slow
def test_moco(tmp_path):
    got = run("moco", tmp_path, 200)
    assert got["momentum 0.98"] > max(got["pixels"], got["untrained"]) + 0.1
    assert got["momentum 0.98"] > got["no momentum"] + 0.05


@pytest.mark.slow
def test_clip(tmp_path):
    got = run("clip", tmp_path, 75)
    assert got["chance"] < 0.01
    assert got["trained"] > got["untrained"] + 0.4


@pytest.mark.slow
def test_faces(tmp_path):
    got = run("faces", tmp_path, 300)
    for other in ("pixels", "untrained"):
        assert got["trained: recall@1"] > got[f"{other}: recall@1"] + 0.2
        assert got["trained: equal error rate"] < got[f"{other}: equal error rate"] / 2


@pytest.mark.slow
def test_text(tmp_path):
    got = run("text", tmp_path, 150)
    assert got["in-batch negatives"] > got["bag of words"] + 0.2
    assert got["with exchanged roles among them"] > got["in-batch negatives"] + 0.2


@pytest.mark.slow
def test_linen(tmp_path):
    got = run("linen", tmp_path, 200)
    assert got["fine-tuned"] > max(got["pixels"], got["classifier, trained on"]) + 0.1


@pytest.mark.slow
def test_data_parallel(tmp_path):
    got = run("data_parallel", tmp_path, 60)
    assert got["eight devices"] == pytest.approx(got["one device"], abs=0.01)
    assert got["eight devices"] > got["untrained"] + 0.2
    assert got["eight devices"] > got["eight devices, each alone"] + 0.02


def test_every_example_is_tested_and_on_its_page():
    assert {name.removeprefix("test_") for name in globals()} >= NAMES
    page = (ROOT / "docs" / "examples.md").read_text()
    assert set(re.findall(r"\]\(\.\./examples/(\w+)\.py\)", page)) == NAMES
