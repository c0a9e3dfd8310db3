"""Results as text: what the report is made of."""

import collections
import json
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
N, MOST_CLASSES = 512, 10_000
"""Where losses are told apart."""


def results(kind):
    """``{device: (environment, rows)}`` of one benchmark."""
    out = {}
    for path in sorted(RESULTS.glob(f"{kind}-*.json")):
        found = json.loads(path.read_text())
        out[path.stem.removeprefix(f"{kind}-")] = found["environment"], found["rows"]
    return out


def machine(environment, versions=True):
    """A line on what a run was made with."""
    cpu = f"{environment['cpu']}, {environment['cores']} CPU core{'s' * (environment['cores'] > 1)}"
    device = environment["device"]
    about = ("date", "device", "cpu", "cores")
    named = [f"{name} {x}" for name, x in environment.items() if name not in about]
    parts = [cpu if device == "cpu" else f"{device}, {cpu}", *(named if versions else ())]
    return ", ".join([*parts, environment["date"][:10]])


def paragraph(text):
    """Prose in lines of 100 characters; code, tables and pictures as they are."""
    prose = not re.match(r"```|\||!\[|#", text)
    if not prose:
        return text
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def table(rows):
    """Markdown of dicts with the same keys; columns of numbers are aligned to the right."""
    line = lambda cells: "| " + " | ".join(cells) + " |"
    numbers = lambda key: any(row[key][:1].isdigit() for row in rows)
    rule = line("---:" if numbers(key) else "---" for key in rows[0])
    return "\n".join([line(rows[0]), rule, *(line(row.values()) for row in rows)])


def number(x):
    """Three digits, or all of them before the point."""
    if x is None:
        return ""
    if x >= 100:
        return f"{x:,.0f}"
    return f"{x:.2g}" if x < 1 else f"{x:.3g}"


def duration(ms):
    if ms is None:
        return ""
    return f"{number(ms)} ms" if ms < 1000 else f"{number(ms / 1000)} s"


def size(mib):
    if mib is None:
        return ""
    return f"{number(mib)} MiB" if mib < 1024 else f"{number(mib / 1024)} GiB"


def memory(row):
    """MiB: what the process grew by, or XLA's temporaries where memory was there already."""
    found = [row[key] for key in ("peak_mib", "temp_mib") if key in row]
    return max(found) if found else None


def grouped(rows, *keys):
    """``{values of keys: {who: row}}``, in the order of the rows."""
    out = collections.defaultdict(dict)
    for row in rows:
        out[tuple(row[key] for key in keys)][row["who"]] = row
    return out


def losses():
    """The results of the losses alone."""
    found = results("losses").items()
    return {
        device: (about, [row for row in rows if row["loss"] != "ceiling"])
        for device, (about, rows) in found
    }


def usual(rows):
    """The rows at N=512 and the most classes up to 10,000, by loss."""
    rows = [row for row in rows if row["n"] == N and row.get("classes", 0) <= MOST_CLASSES]
    return {loss: by for (loss, _), by in sorted(grouped(rows, "loss", "m").items())}


def speedups(by_loss):
    """PML's time to ours, the least first."""
    found = {loss: by["pml"].get("ratio") for loss, by in by_loss.items() if "pml" in by}
    return dict(sorted(((k, v[1]) for k, v in found.items() if v), key=lambda item: item[1]))


def against(row):
    """What a peer took, or why it did not run."""
    if row is None:
        return ""
    return row.get("skipped") or duration(row["ms"])


def times(row, spread=True):
    """The ratio to ours, and its quartiles where there were several rounds."""
    if row is None or "ratio" not in row:
        return ""
    low, middle, high = map(number, row["ratio"])
    return f"{middle} ({low} to {high})" if spread and row["rounds"] > 1 else middle
