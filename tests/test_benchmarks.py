"""The benchmarks run, and what is written of them is what the committed results say."""

import json
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import (
    _harness,
    _plots,
    evaluation,
    gpu,
    losses,
    memory,
    miners,
    report,
    samplers,
    scale,
    text,
    views,
)


@pytest.fixture(autouse=True)
def _users_settings():
    """optax is not strict; the scripts turn off the cache of compiled programs."""
    cache = jax.config.jax_enable_compilation_cache
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_compilation_cache", cache)


@pytest.mark.parametrize("path", report.written(), ids=lambda path: path.name)
def test_what_is_written_is_what_the_results_say(path):
    assert path.read_text() == report.written()[path], "run python -m benchmarks.report"


def test_no_plot_is_left_from_other_results():
    folder = report.ROOT / "docs" / "benchmarks"
    assert set(folder.iterdir()) <= report.written().keys()


@pytest.mark.slow
def test_losses(tmp_path, capsys):
    out = tmp_path / "losses.json"
    flags = ["--losses", "ntxent,arcface", "--sizes", "8,16", "--classes", "5", "--rounds", "1"]
    losses.main([*flags, "--peers", "floor,optax", "--out", str(out)])
    every = json.loads(out.read_text())["rows"]
    rows = [row for row in every if row["loss"] != "ceiling"]
    assert {(row["loss"], row["n"], row["m"], row["who"]) for row in rows} == {
        *(("ntxent", n, n, who) for n in (8, 16) for who in ("ours", "floor", "optax")),
        *(("arcface", 512, 5, who) for who in ("ours", "floor")),
    }
    assert all(row["ms"] > 0 and row["temp_mib"] > 0 for row in rows)
    assert len(every) == len(rows) + 2
    assert capsys.readouterr().out.count("\n") == len(rows) + 1


def test_a_peer_that_fails_shows_its_error(monkeypatch):
    def fails(case, *batch):
        raise ValueError("no\ncompiler")

    monkeypatch.setitem(losses.PEERS, "floor", fails)
    ours, failed = losses.measure("contrastive", 8, None, 1, ["floor"], {})
    assert failed["skipped"] == "ValueError: no" and "ms" in ours


def test_a_peer_is_left_out_by_the_time_of_a_smaller_size():
    rows = [{"loss": "ntxent", "who": "pml", "n": 128, "m": 128, "ms": 1000.0}]
    assert losses.estimates(rows, "ntxent", 512, 512, 20) == {"pml": "about 64 s"}
    assert not losses.estimates(rows, "ntxent", 512, 512, 70)
    assert not losses.estimates(rows, "contrastive", 512, 512, 20)
    assert not losses.estimates(rows, "ntxent", 64, 64, 0)


@pytest.mark.slow
def test_the_other_scripts(tmp_path):
    write = lambda name: ["--out", str(tmp_path / f"{name}.json")]
    miners.main(
        ["--miners", "batch_hard", "--sizes", "8", "--no-pml", "--rounds", "1", *write("m")]
    )
    samplers.main(["--samples", "80", "--classes", "20", "--batch-size", "16", "--rounds", "1"])
    with pytest.raises(SystemExit):  # its code says whether all bounds hold
        memory.main(["--losses", "contrastive", "--size", "16", *write("memory")])
    scale.main(["--parts", "chunks", "--batch", "32", "--rounds", "1", *write("scale")])
    ways = {row["how"] for row in json.loads((tmp_path / "scale.json").read_text())["rows"]}
    assert ways == {"chunked(16)", "as it is", "dense"}
    assert evaluation.measure("search-dot-metricjax", 200, 8, 3)["peak_gib"] > 0


@pytest.mark.slow
def test_training(tmp_path):
    from benchmarks import training

    out = tmp_path / "training.json"
    flags = ["--recipes", "arcface", "--per-class", "2"]
    training.main([*flags, "--steps", "10", "--rounds", "1", "--no-pml", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["steps"] == 10 and 0 < row["score"] < 1


@pytest.mark.slow
def test_gpu_runs_on_any_device_and_resumes(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    flags = ["--losses", "ntxent,arcface", "--sizes", "16", "--size", "16", "--right-size", "16"]
    flags += ["--ceiling", "64", "--rounds", "1", "--out", str(out)]
    gpu.main(flags)
    rows = json.loads(out.read_text())["rows"]
    assert {row["part"] for row in rows} == {"ceiling", "right", "times", "losses"}
    assert all(row["error"] == 0 for row in rows if row["part"] == "right")  # itself
    assert all(row["ms"] > 0 for row in rows if row["part"] in ("times", "losses"))
    capsys.readouterr()
    gpu.main(flags)
    assert capsys.readouterr().out == "" and json.loads(out.read_text())["rows"] == rows


@pytest.mark.slow
def test_parts_in_processes_of_their_own(monkeypatch):
    monkeypatch.setattr(scale, "DEVICES", (2,))
    rows = list(scale.devices(1, 16))
    assert [(row["how"], row["m"]) for row in rows] == [
        ("jit", 2), ("gather_refs", 2), ("ring", 2)
    ]  # fmt: skip
    (row,) = scale.huge(1, 512)
    assert 0 < row["process_mib"] < 1024


def test_rows_join_those_of_the_same_environment(tmp_path):
    path, rows = tmp_path / "rows.json", [{"n": 8, "ms": 1.23456}, {"n": 16, "ms": 2}]
    write = lambda rows, **about: _harness.write_json(path, {"date": "now", **about}, rows, ("n",))
    write(rows, jax="1")
    write([{"n": 16, "ms": 3}, {"n": 4}], jax="1")
    assert json.loads(path.read_text())["rows"] == [
        {"n": 4},
        {"n": 8, "ms": 1.235},
        {"n": 16, "ms": 3},
    ]
    with pytest.raises(SystemExit, match="other versions"):
        write(rows, jax="2")


def test_what_is_slow_has_one_call(monkeypatch):
    monkeypatch.setattr(_harness, "SLOW", 0.2)
    calls = []
    found, results = _harness.compared(
        {"ours": lambda: calls.append(1), "slow": lambda: _harness.time.sleep(0.3) or 7}, 3
    )
    assert found["slow"]["rounds"] == 1 and found["ours"]["rounds"] == 3
    assert results["slow"] == 7 and len(found["slow"]["ratio"]) == 3


def test_names_in_a_plot_are_apart():
    heights = _plots._apart({"a": 10.0, "b": 10.0, "c": 149.0, "d": 150.0})
    at = sorted(heights.values())
    assert all(b - a >= _plots.LINE for a, b in zip(at, at[1:], strict=False))
    assert max(at) <= _plots.HEIGHT


@pytest.mark.slow
@pytest.mark.parametrize("name", scale.LARGE)
@pytest.mark.optimized
def test_chunks_of_a_large_batch_take_little_memory(name):
    n = scale.LARGE_BATCH
    shapes = jax.ShapeDtypeStruct((n, 64), "float32"), jax.ShapeDtypeStruct((n,), "int32")
    fn = losses.CASES[name].fn
    for step in (scale.mj.chunked(fn, scale.CHUNK), fn):
        _, _, temporaries = _harness.compiled(losses.our_step(step), *shapes)
        assert temporaries < scale.LARGE_BOUND * 2**20


@pytest.mark.parametrize(
    "benchmark, package", [(text, "sentence-transformers"), (views, "lightly")]
)
def test_beside_another_library_it_says_what_to_install(benchmark, package):
    if _harness.installed(package, "torch"):
        pytest.skip("it is installed")
    name = benchmark.__name__.split(".")[-1]
    with pytest.raises(SystemExit, match=f"pip install 'metricjax\\[{name}\\]' first"):
        benchmark.main(["--sizes", "8"])
