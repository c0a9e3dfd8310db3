"""Writes the page, the plots and the tables of the benchmarks from the committed results.

    python -m benchmarks.report
    python -m benchmarks.report --check

It reads every ``benchmarks/results/NAME-DEVICE.json``. `--check` writes nothing, and fails where
something in the repository is not what would be written.
"""

import re
import statistics
import sys

from benchmarks._accelerators_page import accelerators_page
from benchmarks._harness import Parser
from benchmarks._measured import measured
from benchmarks._page import page, plots
from benchmarks._text import (
    ROOT,
    N,
    against,
    duration,
    losses,
    machine,
    memory,
    number,
    paragraph,
    size,
    speedups,
    table,
    times,
    usual,
)

HEADLINE = (
    "contrastive", "multi_similarity", "sup_con", "ntxent", "triplet_margin", "smooth_ap",
    "arcface", "proxy_anchor",
)  # fmt: skip


def headline():
    """What the README says."""
    parts = []
    for environment, rows in losses().values():
        by_loss = usual(rows)
        faster = speedups(by_loss)
        slowest = next(iter(faster))
        mean = number(statistics.geometric_mean(faster.values()))
        classes = by_loss["arcface"]["ours"]["classes"]
        parts.append(
            f"Forward and backward of {N} samples, {classes:,} classes where there are classes, "
            f"beside PyTorch Metric Learning (PML) {environment['pytorch-metric-learning']} in one "
            f"run: of {len(faster)} losses the geometric mean of the speedups is {mean}, the least "
            f"{number(faster[slowest])} (`{slowest}`). The products are the three matrix products "
            f"that no implementation can avoid. {machine(environment, versions=False)}."
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


def between(text, name, new):
    """The text with something else between two comments."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
    if not marks.search(text):
        sys.exit(f"benchmarks.report: no <!-- {name} --> and <!-- end of {name} -->.")
    return marks.sub(lambda found: f"{found[1]}{new}\n{found[2]}", text)


def written():
    """``{path: text}`` of all that comes from the results."""
    docs = ROOT / "docs"
    out = {docs / "benchmarks.md": page(), docs / "accelerators.md": accelerators_page()}
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
