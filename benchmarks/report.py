"""Writes the page, the plots and the tables of the benchmarks from the committed results.

    python -m benchmarks.report
    python -m benchmarks.report --check

It reads every ``benchmarks/results/NAME-DEVICE.json``. `--check` writes nothing, and fails where
something in the repository is not what would be written.
"""

import collections
import re
import statistics
import sys

from benchmarks._harness import Parser
from benchmarks._plots import loglog
from benchmarks._text import (
    ROOT,
    duration,
    grouped,
    machine,
    memory,
    number,
    paragraph,
    results,
    size,
    table,
)

LABELS = {
    "ours": "metricjax",
    "pml": "PML",
    "torch_compile": "PML compiled",
    "optax": "optax",
    "floor": "products",
}
HEADLINE = (
    "contrastive", "multi_similarity", "sup_con", "ntxent", "triplet_margin", "smooth_ap",
    "arcface", "proxy_anchor",
)  # fmt: skip
PLOTTED = HEADLINE[:6]
PLOTTED_CLASSES = ("arcface", "proxy_anchor", "soft_triple")
N = 512


def usual(rows):
    """The rows at N=512 and the most classes, by loss."""
    groups = sorted(grouped(rows, "loss", "n", "m").items())
    return {loss: by for (loss, n, m), by in groups if n == N}


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


def headline():
    """What the README says."""
    parts = []
    for environment, rows in results("losses").values():
        by_loss = usual(rows)
        faster = speedups(by_loss)
        slowest = next(iter(faster))
        mean = number(statistics.geometric_mean(faster.values()))
        classes = by_loss["arcface"]["ours"]["classes"]
        parts.append(
            f"Forward and backward of {N} samples, {classes:,} classes where there are classes, "
            f"beside PyTorch Metric Learning (PML) in one run: of {len(faster)} losses the "
            f"geometric mean of the speedups is {mean}, the least {number(faster[slowest])} "
            f"(`{slowest}`). The products are the three matrix products that no implementation can "
            f"avoid. {machine(environment, versions=False)}."
        )
        shown = {loss: by_loss[loss] for loss in HEADLINE if loss in by_loss}
        parts.append(table([
            {
                "": f"`{loss}`",
                "metricjax": duration(by["ours"]["ms"]),
                "PML": against(by.get("pml")),
                "times faster": times(by.get("pml"), spread=False),
                "products": against(by.get("floor")),
                "memory": size(memory(by["ours"])),
                "PML's": size(memory(by.get("pml", {}))),
            }
            for loss, by in shown.items()
        ]))  # fmt: skip
    parts.append(
        "[All losses, sizes, miners and scales](docs/benchmarks.md); your own run is "
        "`pip install '.[bench]' && python -m benchmarks.losses`."
    )
    return "\n\n".join(map(paragraph, parts))


def every_loss():
    """All losses at N=512; a group of columns for each device."""
    devices = {name: usual(rows) for name, (_, rows) in results("losses").items()}
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
    for device, (_, rows) in results("losses").items():
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


def scale(part, what=None):
    """``{(what, n, m): {how: row}}`` of a part of the first device's results."""
    _, rows = next(iter(results("scale").values()))
    out = collections.defaultdict(dict)
    for row in rows:
        if row["part"] == part:
            out[row["what"], row["n"], row["m"]][row["how"]] = row
    return out


def tool(problem, name, row, at_once=None):
    """A row of the table of tools."""
    held = f"{size(row['temp_mib'])}"
    if "process_mib" in row:
        held = f"{size(row['process_mib'])}, the whole process"
    other = ""
    if at_once:
        other = size(at_once["temp_mib"]) + (
            f", {duration(at_once['ms'])}" if "ms" in at_once else ""
        )
    bound = row.get("bound_mib") or row.get("process_bound_mib")
    return {
        "what is large": problem,
        "tool": name,
        "time": duration(row["ms"]),
        "memory": held,
        "at most": size(bound) if bound else "",
        "at once": other,
    }


def code(how):
    return how if " " in how else f"`{how}`"


def measured():
    """What `docs/scale.md` says: each problem, its tool, time and memory."""
    (environment, _), *_ = results("scale").values()
    found = []
    for part in ("large", "huge", "passes", "classes", "million"):
        for (what, n, m), ways in sorted(scale(part).items()):
            problem = f"`{what}`, N = {n:,}" + (f", C = {m:,}" if m != n else "")
            for how in sorted(ways.keys() - {"dense"}, reverse=True):
                found.append(tool(problem, code(how), ways[how], ways.get("dense")))
    for (_, n, _), ways in scale("embedding").items():
        for how, row in ways.items():
            if how != "whole batch":
                found.append(tool(f"a transformer, N = {n:,}", code(how), row, ways["whole batch"]))
    spread = [
        {
            "devices": str(m),
            **{
                title: f"{size(ways[how]['temp_mib'])}, {duration(ways[how]['ms'])}"
                for how, title in (
                    ("jit", "`jit` over a mesh"),
                    ("gather_refs", "`gather_refs`"),
                    ("ring", "`ring`"),
                )
            },
        }
        for (_, _, m), ways in sorted(scale("devices").items())
    ]
    n = next(iter(scale("devices")))[1]
    parts = [
        "Value and gradient, 64 features. Memory is that of XLA's temporaries, or that of a whole "
        "process where it says so; *at most* is the bound that it is held to. *At once* has no "
        "blocks at all, and no time where it was only compiled. From `python -m benchmarks.scale`: "
        f"{machine(environment)}.",
        table(found),
        f"`ntxent`, N = {n:,}, temporaries on each device, and time. The devices share one CPU, so "
        "more of them cannot be faster here:",
        table(spread),
    ]
    return "\n\n".join(map(paragraph, parts))


SNIPPET = """```python
import jax
import jax.numpy as jnp
import metricjax as mj

x, y = jnp.ones((1024, 64)), jnp.arange(1024) // 4
step = jax.jit(jax.value_and_grad(lambda x: mj.reduce(mj.losses.ntxent(x, y))[0]))
analysis = step.lower(x).compile().memory_analysis()
print(f"{analysis.temp_size_in_bytes / 2**20:.0f} MiB")
```"""


def page():
    """`docs/benchmarks.md`."""
    parts = [
        "# Benchmarks",
        "This page is written by `python -m benchmarks.report` from the results in "
        "[benchmarks/results](../benchmarks/results/losses-cpu.json), one file for each benchmark "
        "and device. Every command prints its table, and `--out FILE.json` adds to a file. All "
        "contestants get the same numbers, must agree on the value, and take turns; a time is the "
        "median over the rounds, and ratios have their quartiles. Memory is what the process grew "
        "by, or XLA's temporaries where that is more; compile time is apart. What would take too "
        "much memory or time says how much, by estimate.",
        "How much your own step takes:",
        SNIPPET,
        "## Losses",
        f"`python -m benchmarks.losses`: forward and backward, 128 features, four samples of a "
        f"class, N = {N}, the most classes. *Products* are the three matrix products that no "
        "implementation can avoid, done at once; a loss in blocks can beat them. In the plots a "
        "line ends where its side no longer runs.",
    ]
    parts += [f"{name}: {machine(about)}." for name, (about, _) in results("losses").items()]
    parts.append(every_loss())
    for name, (_, rows) in results("losses").items():
        parts += [
            f"### By the size of the batch: {name}",
            image(f"losses-n-time-{name}.svg", "time of six losses by the size of the batch"),
            image(f"losses-n-memory-{name}.svg", "memory of six losses by the size of the batch"),
            "Time, and PML's after it:",
            growth(rows, "n"),
            f"### By the number of classes: {name}",
            image(f"losses-classes-time-{name}.svg", "time of three losses by classes"),
            image(f"losses-classes-memory-{name}.svg", "memory of three losses by classes"),
            growth(rows, "classes"),
            f"### optax, and PML compiled: {name}",
            "optax gets all triplets as lists of rows. `torch.compile` is asked for with "
            "`--peers`, and works with breaks in the graph.",
            others(rows),
        ]
    for name, (about, rows) in results("miners").items():
        groups = grouped(rows, "miner")
        heads = sorted({row["n"] for row in rows})
        by_size = grouped(rows, "miner", "n")
        parts += [
            f"## Miners: {name}",
            "`python -m benchmarks.miners`. Ours end in the weights of all pairs, PML's in lists; "
            f"PML's time comes after ours. {machine(about)}.",
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
            "sides, from the same first weights. The time to a MAP@R on held-out images is that of "
            f"the steps, ours with compilation. {machine(about)}.",
            training(rows),
        ]
    if results("scale"):
        parts += [
            "## Scale",
            "`python -m benchmarks.scale`; the tools are told apart in [scale](scale.md#measured). "
            "The size of the chunks of `ntxent`:",
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
    order = lambda item: int((re.findall(r"\d+", item[0]) or ["0"])[0])
    return table([
        {
            f"N = {n:,}": code(how),
            "time": duration(row["ms"]),
            "temporaries": size(row["temp_mib"]),
        }
        for (_, n, _), ways in scale("chunks").items()
        for how, row in sorted(ways.items(), key=order)
    ])  # fmt: skip


def between(text, name, new):
    """The text with something else between two comments."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
    if not marks.search(text):
        sys.exit(f"benchmarks.report: no <!-- {name} --> and <!-- end of {name} -->.")
    return marks.sub(lambda found: f"{found[1]}{new}\n{found[2]}", text)


def written():
    """``{path: text}`` of all that comes from the results."""
    out = {ROOT / "docs" / "benchmarks.md": page()}
    for name, svg in plots().items():
        out[ROOT / "docs" / "benchmarks" / name] = svg
    for path, name, new in (
        (ROOT / "README.md", "benchmarks", headline()),
        (ROOT / "docs" / "scale.md", "measured", measured()),
    ):
        out[path] = between(path.read_text(), name, new)
    return out


def main(argv=None):
    parser = Parser("benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="writes nothing, fails if it would")
    args = parser.parse_args(argv)
    texts = written()
    old = {path: path.read_text() if path.exists() else None for path in texts}
    changed = [path for path, text in texts.items() if text != old[path]]
    for path in changed:
        print(path.relative_to(ROOT))
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path])
    if args.check and changed:
        sys.exit("benchmarks.report: not what the results say; run it without --check.")


if __name__ == "__main__":
    main()
