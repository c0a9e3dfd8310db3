"""The page of the benchmarks, and its plots."""

import collections
import re

from benchmarks._gpu_page import gpus
from benchmarks._headline import result
from benchmarks._measured import code, scale
from benchmarks._plots import loglog
from benchmarks._text import (
    MOST_CLASSES,
    N,
    against,
    duration,
    grouped,
    losses,
    machine,
    memory,
    number,
    paragraph,
    results,
    size,
    table,
    times,
    usual,
)

LABELS = {
    "ours": "metricjax",
    "pml": "PML",
    "torch_compile": "PML compiled",
    "optax": "optax",
    "floor": "products",
}
PLOTTED = ("contrastive", "multi_similarity", "sup_con", "ntxent", "triplet_margin", "smooth_ap")
PLOTTED_CLASSES = ("arcface", "proxy_anchor", "soft_triple")
FEATURES, AT_BEST = 128, 2048
SNIPPET = """```python
import jax
import jax.numpy as jnp
import metricjax as mj

x, y = jnp.ones((1024, 64)), jnp.arange(1024) // 4
step = jax.jit(jax.value_and_grad(lambda x: mj.reduce(mj.losses.ntxent(x, y))[0]))
analysis = step.lower(x).compile().memory_analysis()
print(f"{analysis.temp_size_in_bytes / 2**20:.0f} MiB")
```"""


def rates(device):
    """What the device does at best, and what the three products reach of it."""
    rows = results("losses")[device][1]
    found = {row["who"]: row for row in rows if row["loss"] == "ceiling"}
    floors = [row for row in rows if row["who"] == "floor" and row["n"] == row["m"] == AT_BEST]
    if not found or not floors:
        return ""
    reached = max(6 * AT_BEST**2 * FEATURES / row["ms"] / 1e6 for row in floors)
    return (
        f" At best it does {number(found['product']['gflops'])} GFLOP/s, in a product of matrices "
        f"of {AT_BEST:,} x {AT_BEST:,}, and copies {number(found['copy']['gbytes'])} GB/s; the "
        f"three products of N = {AT_BEST:,} reach {number(reached)} GFLOP/s."
    )


def every_loss():
    """All losses at N=512; a group of columns for each device."""
    devices = {name: usual(rows) for name, (_, rows) in losses().items()}
    out = []
    for loss in sorted(set().union(*devices.values())):
        row = {"": f"`{loss}`"}
        for name, by_loss in devices.items():
            by = by_loss.get(loss, {})
            ours = by.get("ours", {})
            cells = {
                "time": duration(ours.get("ms")),
                "products": against(by.get("floor")),
                "PML": against(by.get("pml")),
                "PML to ours": times(by.get("pml")),
                "memory": size(memory(ours)),
                "PML's": size(memory(by.get("pml", {}))),
                "compiled in": f"{ours['compile_s']:.1f} s" if ours else "",
            }
            prefix = f"{name}: " if len(devices) > 1 else ""
            row |= {prefix + title: cell for title, cell in cells.items()}
        out.append(row)
    return table(out)


def growth(rows, by):
    """Times of all losses over `n` or `classes`, each with PML's."""
    groups = grouped([row for row in rows if ("classes" in row) == (by == "classes")], "loss", by)
    heads = sorted({at for _, at in groups})
    return table([
        {"": f"`{loss}`"} | {f"{head:,}": beside(groups[loss, head]) for head in heads}
        for loss in sorted({loss for loss, _ in groups})
    ])  # fmt: skip


def beside(group):
    """Our time, and PML's."""
    ours, pml = group.get("ours"), group.get("pml")
    return duration(ours["ms"]) + (f"; {against(pml)}" if pml else "") if ours else ""


def others(rows):
    """Peers beside PML, where they were asked."""
    groups = grouped(rows, "loss", "n", "m")
    return table([
        {
            "": f"`{loss}`, N = {n:,}" + (f", M = {m:,}" if m != n else ""),
            "metricjax": duration(by["ours"]["ms"]),
            "PML": against(by.get("pml")),
            "PML, torch.compile": against(by.get("torch_compile")),
            "optax": against(by.get("optax")),
            "memory": size(memory(by["ours"])),
            "optax's": size(memory(by.get("optax", {}))),
        }
        for (loss, n, m), by in sorted(groups.items())
        if by.keys() & {"optax", "torch_compile"}
    ])  # fmt: skip


def lines(rows, names, by, value, key="loss"):
    """``{name: {label: [(size, value)]}}`` for a plot."""
    panels = {name: collections.defaultdict(list) for name in names}
    for row in rows:
        found = value(row)
        if row[key] in panels and by in row and found:
            panels[row[key]][LABELS[row["who"]]].append((row[by], found))
    return {name: panel for name, panel in panels.items() if panel}


def plots():
    """``{file name: SVG}``."""
    out = {}
    labels = list(LABELS.values())
    for device, (_, rows) in losses().items():
        for by, names, axis in (
            ("n", PLOTTED, "samples in the batch"),
            ("classes", PLOTTED_CLASSES, f"classes, {N} samples"),
        ):
            name = f"losses-{by}-{{}}-{device}.svg"
            time = lines(rows, names, by, lambda row: row.get("ms"))
            out[name.format("time")] = loglog(time, labels, axis, duration)
            mib = lines(rows, names, by, memory)
            out[name.format("memory")] = loglog(mib, labels, axis, lambda mib: f"{mib:,g} MiB")
    for device, (_, rows) in results("miners").items():
        names = sorted({row["miner"] for row in rows})
        time = lines(rows, names, "n", lambda row: row.get("ms"), "miner")
        out[f"miners-{device}.svg"] = loglog(time, labels, "samples in the batch", duration)
    return out


def image(name, about):
    return f"![{about}](benchmarks/{name})"


def library(rows, who, name):
    """Times and memory beside another library."""
    return table([
        {
            "": f"{loss}, N = {n:,}",
            "metricjax": duration(by["ours"]["ms"]),
            name: against(by[who]),
            "to ours": times(by[who]),
            "memory": size(memory(by["ours"])),
            "theirs": size(memory(by[who])),
        }
        for (loss, n), by in sorted(grouped(rows, "loss", "n").items())
    ])  # fmt: skip


def page():
    """`docs/benchmarks.md`."""
    parts = [
        "# Benchmarks",
        *result(),
        "## How it was measured",
        "All contestants get the same numbers, must agree on the value, and take turns. A time is "
        "the median over the rounds, and ratios show their quartiles. Memory is the growth of the "
        "process, or XLA's temporary buffers if these are larger. Compile time is listed "
        "separately. Runs that would need too much memory or time show an estimate instead.",
        "`python -m benchmarks.report` writes this page from the results in "
        "[benchmarks/results](../benchmarks/results/losses-cpu.json), one file for each benchmark "
        "and device. Every command below prints its table, and `--out FILE.json` adds the rows to "
        "a file.",
        "To measure a step of your own:",
        SNIPPET,
        "## Losses",
        f"`python -m benchmarks.losses`: forward and backward, 128 features, four samples of a "
        f"class, N = {N}, up to {MOST_CLASSES:,} classes. *Products* are the three matrix products "
        "that no implementation can avoid, computed at once; a loss in blocks can be faster. In "
        "the plots, a line ends where that implementation no longer runs.",
    ]
    parts += [f"{name}: {machine(about)}.{rates(name)}" for name, (about, _) in losses().items()]
    parts.append(every_loss())
    for name, (_, rows) in losses().items():
        parts += [
            f"### By the size of the batch: {name}",
            image(f"losses-n-time-{name}.svg", "time of six losses by the size of the batch"),
            image(f"losses-n-memory-{name}.svg", "memory of six losses by the size of the batch"),
            "Our time, followed by PML's:",
            growth(rows, "n"),
            f"### By the number of classes: {name}",
            image(f"losses-classes-time-{name}.svg", "time of three losses by classes"),
            image(f"losses-classes-memory-{name}.svg", "memory of three losses by classes"),
            growth(rows, "classes"),
            f"### optax, and PML compiled: {name}",
            "optax gets all triplets as lists of rows. `--peers` adds `torch.compile`, which runs "
            "with graph breaks.",
            others(rows),
        ]
    for name, (about, rows) in results("text").items():
        parts += [
            f"## Queries and documents: {name}",
            "`python -m benchmarks.text` compares with sentence-transformers. Its losses get a "
            f"model that returns its inputs, so only the losses are timed. {machine(about)}.",
            library(rows, "sentence_transformers", "sentence-transformers"),
        ]
    for name, (about, rows) in results("views").items():
        parts += [
            f"## Self-supervision: {name}",
            "`python -m benchmarks.views` compares with lightly: two views with 64 features, or "
            f"four crops with scores of 1,024 prototypes. {machine(about)}.",
            library(rows, "lightly", "lightly"),
        ]
    parts += gpus()
    for name, (about, rows) in results("miners").items():
        groups = grouped(rows, "miner")
        heads = sorted({row["n"] for row in rows})
        by_size = grouped(rows, "miner", "n")
        parts += [
            f"## Miners: {name}",
            "`python -m benchmarks.miners`. Our miners return the weights of all pairs, PML's "
            f"return lists. PML's time follows ours. {machine(about)}.",
            image(f"miners-{name}.svg", "time of the miners by the size of the batch"),
            table([
                {"": f"`{miner}`"} | {f"{n:,}": beside(by_size[miner, n]) for n in heads}
                for (miner,) in groups
            ]),
        ]  # fmt: skip
    for name, (about, rows) in results("training").items():
        parts += [
            f"## Training: {name}",
            "`python -m benchmarks.training`: the demo's network, batches and optimizer on both "
            "sides, from the same initial weights. The time to reach a MAP@R on held-out images is "
            f"the time of the steps; ours includes compilation. {machine(about)}.",
            training(rows),
        ]
    if results("scale"):
        parts += [
            "## Scale",
            "`python -m benchmarks.scale`. [Scale](scale.md#measured) compares the tools. The "
            "chunk size of `ntxent`:",
            chunk_sizes(),
        ]
    for name, (about, rows) in results("evaluation").items():
        parts += [
            f"## Evaluation: {name}",
            f"`python -m benchmarks.evaluation`; more is in [evaluation](evaluation.md). "
            f"{machine(about)}.",
            table([
                {
                    "": row["contestant"],
                    "time": duration(1e3 * row["seconds"]),
                    "process": size(1024 * row["peak_gib"]),
                }
                for row in rows
            ]),
        ]  # fmt: skip
    return "\n\n".join(map(paragraph, parts)) + "\n"


def training(rows):
    groups = grouped(rows, "recipe", "n")
    reached = lambda row: (
        f"{duration(1e3 * row['seconds'])}, {row['steps']} steps" if "seconds" in row else
        f"only {row['score']:.2f}"
    )  # fmt: skip
    return table([
        {
            "": f"`{recipe}`, batch of {n}",
            "step": duration(by["ours"]["ms"]),
            "PML": duration(by["pml"]["ms"]),
            "PML to ours": times(by["pml"]),
            f"to MAP@R {by['ours']['target']}": reached(by["ours"]),
            "PML ": reached(by["pml"]),
        }
        for (recipe, n), by in sorted(groups.items())
    ])  # fmt: skip


def chunk_sizes():
    size_in = lambda how: int((re.findall(r"\d+", how) or ["0"])[0])
    order = lambda item: (item[0] == "dense", size_in(item[0]))
    return table([
        {
            f"N = {n:,}": code(how),
            "time": duration(row["ms"]),
            "temporaries": size(row["temp_mib"]),
        }
        for (_, n, _), ways in scale("chunks").items()
        for how, row in sorted(ways.items(), key=order)
    ])  # fmt: skip
