"""What the benchmarks share: flags, interleaved timing, compiled steps, tables and JSON."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax


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


def interleaved(contestants, rounds, max_seconds=30):
    """Seconds per call of each contestant, by round; all contestants take part in each round.

    A round calls a contestant for about 0.1 s, after a pause in which the worker threads of the one
    before go to sleep. Slow contestants get fewer rounds, but at least one.
    """
    calls = {name: _calls(run) for name, run in contestants.items()}
    times = {name: [] for name in contestants}
    start = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - start > max_seconds:
            break
        for name, run in contestants.items():
            time.sleep(0.02)
            times[name].append(_seconds(run, calls[name]))
    return times


def _calls(run, seconds=0.1):
    """How many calls take that long, judged by the second one; 1 where the first took longer."""
    return 1 if _seconds(run, 1) > seconds else max(1, int(seconds / _seconds(run, 1)))


def _seconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def environment(*packages):
    """What the numbers depend on."""
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", *packages)},
        "device": jax.devices()[0].device_kind,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
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


def write_json(path, environment, rows):
    path.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")
