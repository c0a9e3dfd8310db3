"""Several processes with `jax.distributed`: the same numbers as in one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import processes
import pytest

SCRIPT = Path(processes.__file__)
COUNT = 2


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of the processes has computed."""
    folder, port = tmp_path_factory.mktemp("processes"), str(free_port())
    paths = {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "JAX_PLATFORMS": "cpu"}
    outs = [folder / f"{i}.npz" for i in range(COUNT)]
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), port, str(COUNT), str(i), str(out)],
            env=os.environ | paths,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, out in enumerate(outs)
    ]
    try:
        said = [p.communicate(timeout=240)[0] for p in running]
    finally:
        for p in running:
            p.kill()
    assert not any(p.returncode for p in running), "\n".join(said)
    return [dict(np.load(out)) for out in outs]


@pytest.mark.slow
def test_processes_agree_with_one(results):
    batch = processes.rows(0)
    np.testing.assert_array_equal(np.concatenate([r.pop("own") for r in results]), batch)
    run = jax.jit(processes.train)
    x, y = processes.DATA[batch], processes.LABELS[batch]
    want = processes.named(run(processes.KERNEL, processes.WEIGHTS, x, y))
    for got in results:
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
