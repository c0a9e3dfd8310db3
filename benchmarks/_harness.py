"""What the benchmarks share: flags, interleaved timing, compiled steps, tables and JSON."""

import argparse
import ctypes
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

import metricjax


class Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def names(allowed):
    """The type of a flag that takes some of the names `allowed`."""

    def parse(text):
        unknown = [name for name in text.split(",") if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(map(repr, unknown))}; choose from {','.join(allowed)}"
            )
        return text.split(",")

    return parse


def integer(low):
    """The type of a flag that takes an integer from `low` on."""

    def parse(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} on, got {text!r}")
        return int(text)

    return parse


def integers(low):
    """The type of a flag that takes integers from `low` on, separated by commas."""
    return lambda text: [integer(low)(part) for part in text.split(",")]


def json_file(text):
    """The type of a flag that names a JSON file to write."""
    if not text.endswith(".json") or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected NAME.json in a folder that exists, got {text}")
    return Path(text)


def compiled(step, *args):
    """The compiled step, the seconds that took, and the bytes of its temporaries."""
    start = time.perf_counter()
    run = jax.jit(step).lower(*args).compile()
    seconds = time.perf_counter() - start
    return run, seconds, run.memory_analysis().temp_size_in_bytes


SLOW = 3.0
"""Seconds. A contestant whose first call takes longer is not called again."""


class Call(NamedTuple):
    """A call of a contestant.

    Attributes:
        result: what it returned.
        seconds: how long it took.
        peak_mib: how much the memory of the process grew at its peak, on a CPU under Linux.
    """

    result: Any
    seconds: float
    peak_mib: float | None


def first_call(run):
    """The first call of a contestant; the peak is the larger one of two calls if those are quick.

    The first call sets things up, and in the second one memory may be there already.
    """
    call = _watched(run)
    if call.seconds > SLOW or call.peak_mib is None:
        return call
    return call._replace(peak_mib=max(call.peak_mib, _watched(run).peak_mib))


def _watched(run):
    before = _forget_peak()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    peak = None if before is None else memory("VmHWM") - before
    return Call(result, seconds, peak)


def _forget_peak():
    """MiB that the process has now, all that is free given back; its peak starts from there."""
    if jax.default_backend() != "cpu":
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS")
    except (AttributeError, OSError):
        return None


def memory(name):
    """MiB that this process holds ("VmRSS"), or has held at most ("VmHWM"); under Linux.

    Not `resource.getrusage`, which starts with what the process that started this one held.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def interleaved(contestants, rounds, max_seconds=10):
    """Seconds per call of each contestant, by round; all contestants take part in each round.

    A round calls a contestant for about 0.1 s, after a pause in which the worker threads of the one
    before go to sleep, and a call that is not timed if calls are quick. Slow contestants get fewer
    rounds, but at least one.
    """
    calls = {name: _calls(run) for name, run in contestants.items()}
    times = {name: [] for name in contestants}
    start = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - start > max_seconds:
            break
        for name, run in contestants.items():
            time.sleep(0.02)
            if calls[name] > 1:
                run()
            times[name].append(_seconds(run, calls[name]))
    return times


def _calls(run, seconds=0.1):
    """How many calls take that long, judged by the second one; 1 where the first is slow."""
    return 1 if _seconds(run, 1) > SLOW else max(1, int(seconds / _seconds(run, 1)))


def _seconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def compared(contestants, rounds):
    """What each contestant has to say for a row of JSON; the first one is what others are held to.

    ``ratio`` are the quartiles, over the rounds, of its time to that of the first. What is slow has
    one call, and one that fails has its error. Second, what each returned.
    """
    calls, rows = {}, {}
    for name, run in contestants.items():
        try:
            calls[name] = first_call(run)
        except Exception as error:
            rows[name] = {"skipped": one_line(error)}
    quick = {name: contestants[name] for name, call in calls.items() if call.seconds <= SLOW}
    times = {name: [call.seconds] for name, call in calls.items()} | interleaved(quick, rounds)
    own = times[next(iter(contestants))]
    for name, values in times.items():
        rows[name] = {"ms": 1e3 * statistics.median(values), "rounds": len(values)}
        if values is not own:
            pairs = zip(values, own, strict=True) if len(values) == len(own) else ()
            ratios = [a / b for a, b in pairs] or [values[0] / statistics.median(own)]
            rows[name]["ratio"] = quartiles(ratios)
        if calls[name].peak_mib is not None:
            rows[name]["peak_mib"] = calls[name].peak_mib
    return rows, {name: call.result for name, call in calls.items()}


def one_line(error):
    """An error as the cell of a table shows it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]


def in_own_process(module, *flags):
    """What ``python -m benchmarks.MODULE FLAGS`` prints as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, flags)]
    root = Path(__file__).parents[1]
    out = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout)


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def installed(*packages):
    """Whether all these packages are there."""
    try:
        return all(map(importlib.metadata.version, packages))
    except importlib.metadata.PackageNotFoundError:
        return False


def environment(*packages):
    """What the numbers depend on."""
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "metricjax": metricjax.__version__,
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", *packages)},
        "device": jax.devices()[0].device_kind,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _cpu():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def print_table(rows):
    """Rows are dicts of text with the same keys; the first column is left-aligned."""
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in ({key: key for key in widths}, *rows):
        cells = [
            row[key].rjust(width) if i else row[key].ljust(width)
            for i, (key, width) in enumerate(widths.items())
        ]
        print("  ".join(cells))


def bound(step, args):
    """A contestant: that step of those arguments, until it is done."""
    return lambda: jax.block_until_ready(step(*args))


def check_environment(path, environment):
    """Ends the program if a file has rows that `environment` cannot be added to."""
    undated = lambda environment: {k: v for k, v in environment.items() if k != "date"}
    if path.exists() and undated(json.loads(path.read_text())["environment"]) != undated(
        environment
    ):
        sys.exit(f"{path} is of another machine or other versions: remove it, or write another.")


def read_rows(path):
    """The rows of a file of results; none where there is no file."""
    return json.loads(path.read_text())["rows"] if path and path.exists() else []


def write_json(path, environment, rows, keys):
    """Puts rows into a file, in the place of those with the same values of `keys`."""
    check_environment(path, environment)
    text = lambda value: f"{value:09}" if isinstance(value, int) else str(value)
    key = lambda row: [text(row.get(name, "")) for name in keys]
    new = [key(row) for row in rows]
    old = [row for row in read_rows(path) if key(row) not in new]
    rows = sorted(old + _rounded(rows), key=key)
    path.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


def _rounded(value):
    """Numbers with the digits that mean something."""
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
