"""What comes first: the result in a few lines, for README.md and for the page of the benchmarks."""

import statistics

from benchmarks._text import (
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
    speedups,
    table,
    times,
    usual,
)

SHOWN = (
    "contrastive", "multi_similarity", "sup_con", "ntxent", "triplet_margin", "smooth_ap",
    "arcface", "proxy_anchor",
)  # fmt: skip
LARGE = 2048  # where peers still run


def result():
    """Speed and memory beside PML, on CPUs and GPUs: paragraphs and a table."""
    parts = []
    for environment, rows in losses().values():
        by_loss = usual(rows)
        faster = speedups(by_loss)
        slowest = next(iter(faster))
        mean = number(statistics.geometric_mean(faster.values()))
        classes = by_loss["arcface"]["ours"]["classes"]
        parts += [
            f"{machine(environment, versions=False)}: of {len(faster)} losses, forward and "
            f"backward of {N} samples, the geometric mean of the speedups over PyTorch Metric "
            f"Learning (PML) {environment['pytorch-metric-learning']} is {mean}, and the least is "
            f"{number(faster[slowest])} (`{slowest}`). The last two losses below have {classes:,} "
            "classes.",
            beside_pml(environment, by_loss),
        ]
    for environment, rows in results("gpu").values():
        single = [row for row in rows if row["part"] == "times" and row["dtype"] == "float32"]
        found = [row["ratio"][1] for row in single if row["who"] == "pml" and "ratio" in row]
        parts.append(
            f"{environment['device']}, float32: over the {len(found)} losses and sizes that PML "
            f"{environment['pytorch-metric-learning']} completes, the geometric mean is "
            f"{number(statistics.geometric_mean(found))}, and the least is {number(min(found))}."
        )
    return parts


def beside_pml(environment, by_loss):
    """The best known losses: how long, and how much memory."""
    pml = f"PML {environment['pytorch-metric-learning']}"
    return table([
        {
            "": f"`{loss}`",
            "metricjax": duration(by["ours"]["ms"]),
            pml: against(by.get("pml")),
            "times faster": times(by.get("pml"), spread=False),
            "memory": size(memory(by["ours"])),
            "PML's memory": size(memory(by.get("pml", {}))),
        }
        for loss, by in ((loss, by_loss[loss]) for loss in SHOWN if loss in by_loss)
    ])  # fmt: skip


def peers():
    """README.md: what users of two other libraries gain, and who should not switch."""
    (text, rows), *_ = results("text").values()
    infonce = grouped(rows, "loss", "n")["infonce", LARGE]
    (other, rows), *_ = losses().values()
    ntxent = grouped(rows, "loss", "n")["ntxent", LARGE]
    (training, rows), *_ = results("training").values()
    recipes = [row for row in rows if row["who"] == "pml"]
    slower = sum(row["ratio"][1] < 1 for row in recipes)
    items = [
        f"**sentence-transformers**: its objectives with memory that stays small. `infonce` of "
        f"{LARGE:,} pairs takes {beside(infonce, 'sentence_transformers')} with "
        f"version {text['sentence-transformers']}.",
        f"**optax**: miners, class weights and metrics, and losses that scale. `ntxent` of "
        f"{LARGE:,} samples takes {beside(ntxent, 'optax')} with version "
        f"{other['optax']}.",
    ]
    stay = (
        "One reason not to switch: your network is in PyTorch. Small convolutions are also slow in "
        f"JAX on a CPU. There, {slower} of {len(recipes)} training runs of the demo's network take "
        f"longer per step than with PML {training['pytorch-metric-learning']}."
    )
    bullets = "\n".join(paragraph(f"- {item}").replace("\n", "\n  ") for item in items)
    return f"{bullets}\n\n{paragraph(stay)}"


def beside(by, peer):
    """Our time and memory, and a peer's."""
    ours, theirs = (
        f"{duration(row['ms'])} and {size(memory(row))}" for row in (by["ours"], by[peer])
    )
    return f"{ours}, instead of {theirs}"
