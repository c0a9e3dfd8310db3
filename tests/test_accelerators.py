"""What is read off compiled programs; and what TPUs would be given, where they can be compiled for.

Bounds are of libtpu's model, not of a clock: a regression breaks them, a better version of XLA may.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import metricjax as mj
from metricjax._core import tuning

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import _accelerators_page, _hlo

TEXT = """
HloModule jit_step, is_scheduled=true

%fused (p0: f32[8,3], p1: s32[]) -> f32[4,3] {
  %p0 = f32[8,3]{1,0:T(8,128)} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice.1 = f32[4,3]{1,0:T(8,128)} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={4,3}
}

%body (arg: (s32[], f32[8,3])) -> (s32[], f32[8,3]) {
  %arg = (s32[], f32[8,3]{1,0:T(8,128)}) parameter(0)
  %k = s32[] get-tuple-element(%arg), index=0
  %x = f32[8,3]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %part = f32[4,3]{1,0:T(8,128)S(1)} fusion(%x, %k), kind=kLoop, calls=%fused, metadata={op_name="a/b"}, backend_config={"estimated_cycles":"200"}
  %sum = f32[8,3]{1,0:T(8,128)} all-reduce(%x), replica_groups={}, to_apply=%add
  ROOT %out = (s32[], f32[8,3]{1,0:T(8,128)}) tuple(%k, %sum)
}

%test (arg: (s32[], f32[8,3])) -> pred[] {
  %arg.1 = (s32[], f32[8,3]{1,0:T(8,128)}) parameter(0)
  %k.1 = s32[] get-tuple-element(%arg.1), index=0
  %most = s32[] constant(5)
  ROOT %less = pred[] compare(%k.1, %most), direction=LT
}

ENTRY %main (x0: f32[8,3]) -> (s32[], f32[8,3]) {
  %x0 = f32[8,3]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,3]{1,0:T(8,128)}) tuple(%zero, %x0)
  %wide = bf16[65536,2]{1,0:T(8,128)(2,1)} broadcast(%zero), dimensions={}, backend_config={"estimated_cycles":"7"}
  ROOT %loop = (s32[], f32[8,3]{1,0:T(8,128)}) while(%start), condition=%test, body=%body
}
"""  # noqa: E501


def test_a_program_is_read_as_often_as_it_runs():
    tile = 8 * 128 * 4  # bytes; all rows of three lie in whole tiles
    found = _hlo.summary(TEXT)
    assert found["loops"] == [5] and found["kernels"] == 1 + 5 * 2
    assert found["cycles"] == 7 + 5 * 200
    assert found["in_loops"] == {"all-reduce": 5} and found["collectives"] == {}
    assert found["padding"] == "bf16[65536,2] x64"
    assert found["on_chip"] == 5 * tile
    # the broadcast; a slice that is read, and the numbers where it starts; a sum, read and written
    assert found["traffic"] == 65536 * 128 * 2 + 4 + 5 * (tile + 4 + 2 * tile)
    assert found["top"][0] == (1000, 5 * (tile + 4), "fusion f32[4,3] a/b")


def test_a_loop_of_unknown_length_runs_as_often_as_is_said():
    text = TEXT.replace("s32[] constant(5)", "s32[] parameter(1)")
    assert _hlo.summary(text)["loops"] == [None]
    assert _hlo.summary(text, unknown=4)["cycles"] == 7 + 4 * 200


def test_the_page_has_no_estimate_of_what_has_none():
    row = {"what": "ntxent", "kernels": 20, "traffic": 2**20, "temporaries": 0, "loops": [None, 4]}
    cells = _accelerators_page._row(row)
    assert "estimate" not in cells and cells["loops"] == "by the data, 4"
    timed = _accelerators_page._row(row | {"us": 50.0, "ideal_us": 10.0, "ratio": 5.0})
    assert timed["estimate to ideal"] == "5"


def test_the_platform_is_that_of_the_process_unless_it_is_chosen(monkeypatch):
    x, y = jnp.eye(6), jnp.arange(6) // 2
    text = lambda: str(jax.make_jaxpr(lambda x: mj.reduce(mj.losses.ntxent(x, y))[0])(x))
    small = {"dense_pairs": 1, "chunk_pairs": 6, "chunk_rows": 1}
    monkeypatch.setattr(tuning, "CPU", dataclasses.replace(tuning.CPU, **small))
    assert "while" in text()
    for name, sizes in ("tpu", tuning.TPU), ("gpu", tuning.GPU):
        with mj.for_platform(name):
            assert tuning.block_sizes() is sizes and "while" not in text()
    with jax.default_device(jax.devices("cpu")[0]):
        assert tuning.block_sizes() is tuning.CPU
    monkeypatch.setenv("METRICJAX_PLATFORM", "gpu")
    assert tuning.block_sizes() is tuning.GPU and "while" not in text()
    monkeypatch.setenv("METRICJAX_PLATFORM", "cuda")
    with pytest.raises(ValueError, match="`METRICJAX_PLATFORM` must be one of cpu, gpu, tpu"):
        text()
    with pytest.raises(ValueError, match="for_platform: `name` must be one of .* got 'v5e'"):
        mj.for_platform("v5e").__enter__()


def test_devices_of_a_mesh_share_the_pairs(monkeypatch):
    """On an accelerator: in loops they would exchange numbers in every step."""
    x, y = jnp.eye(6), jnp.arange(6) // 2
    text = lambda: str(jax.make_jaxpr(lambda x: mj.reduce(mj.losses.ntxent(x, y))[0])(x))
    small = {"dense_pairs": 7, "chunk_pairs": 6, "chunk_rows": 1}
    for name in "CPU", "GPU":
        monkeypatch.setattr(tuning, name, dataclasses.replace(getattr(tuning, name), **small))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    with mj.for_platform("gpu"):
        assert "while" in text()
        with jax.set_mesh(mesh):
            assert "while" not in text()
    with jax.set_mesh(mesh):
        assert "while" in text()


@pytest.mark.slow
def test_programs_for_a_tpu(tmp_path):
    """In a process of its own: the compiler for TPUs takes over what it is loaded into."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: not compiled for TPUs")
    out = tmp_path / "v5e.json"
    only = "ntxent,contrastive,knn,jit over a mesh: ntxent,gather_refs: ntxent"
    command = ["-m", "benchmarks.accelerators", "--target", "v5e", "--only", only, "--out", out]
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, *command], cwd=root, check=True, env=os.environ)
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    assert not any("skipped" in row for row in rows.values()), rows
    assert max(rows[name]["ratio"] for name in ("ntxent", "contrastive")) <= 4
    for layout in ("jit over a mesh: ntxent", "gather_refs: ntxent"):
        assert not rows[layout]["in_loops"] and sum(rows[layout]["collectives"].values()) <= 6
