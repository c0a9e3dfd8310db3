"""The benchmarks run side by side with PyTorch Metric Learning."""

import json
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import losses, miners, training


@pytest.fixture(autouse=True)
def _users_settings():
    cache = jax.config.jax_enable_compilation_cache
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_compilation_cache", cache)


def sides(main, out, *flags):
    main([*flags, "--rounds", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    return {row["who"]: row for row in rows if "ms" in row}


def test_losses_and_miners_agree(tmp_path, capsys):
    flags = ("--losses", "multi_similarity", "--sizes", "16", "--peers", "pml")
    assert sides(losses.main, tmp_path / "losses.json", *flags).keys() == {"ours", "pml"}
    flags = ("--miners", "triplet_margin", "--sizes", "16")
    assert sides(miners.main, tmp_path / "miners.json", *flags).keys() == {"ours", "pml"}


def test_training_goes_the_same_way(tmp_path):
    flags = ("--recipes", "arcface", "--per-class", "4", "--steps", "20", "--target", "2")
    found = sides(training.main, tmp_path / "training.json", *flags)
    assert abs(found["ours"]["score"] - found["pml"]["score"]) < 0.01
    assert found["ours"]["steps"] == found["pml"]["steps"] == 20
