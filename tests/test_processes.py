"""Several processes with `jax.distributed`: the same numbers as in one."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import processes
import pytest
from layouts import check

SCRIPT = Path(processes.__file__)
COUNT = 2


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_processes(folder, which):
    """What each of the processes has computed."""
    port = str(free_port())
    paths = {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "JAX_PLATFORMS": "cpu"}
    outs = [folder / f"{i}.pickle" for i in range(COUNT)]
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), port, str(COUNT), str(i), str(out), which],
            env=os.environ | paths,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, out in enumerate(outs)
    ]
    try:
        said = [p.communicate(timeout=1200)[0] for p in running]
    finally:
        for p in running:
            p.kill()
    assert not any(p.returncode for p in running), "\n".join(said)
    return [pickle.loads(out.read_bytes()) for out in outs]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["some", "each"])
def test_processes_agree_with_one(which, tmp_path):
    """Samples, memory, value and gradients of losses in every layout, and metrics."""
    results = run_processes(tmp_path, which)
    batch = processes.rows(0)
    np.testing.assert_array_equal(np.concatenate([r["own"] for r in results]), batch)
    x, y = processes.DATA[batch], processes.LABELS[batch]
    want = jax.device_get(jax.jit(processes.train)(processes.KERNEL, x, y))
    layouts, cases = processes.table(which)
    x, y = processes.DATA, processes.LABELS
    metrics = processes.evaluate(x[: processes.QUERIES], y[: processes.QUERIES], x, y)
    for got in results:
        for spread in got["evaluate"].values():
            chex.assert_trees_all_close(spread, metrics, rtol=1e-5)
        chex.assert_trees_all_close(got["train"], want, rtol=1e-5, atol=1e-5)
        for layout, dtype in layouts:
            with jax.enable_x64(dtype == "float64"):
                check(got[layout, dtype], cases, dtype)
