"""The page on TPUs and GPUs that nobody was there to run on, from `benchmarks.accelerators`."""

from benchmarks._text import machine, number, paragraph, results, size, table

EXPORT = """```python
import jax
import jax.numpy as jnp
import metricjax as mj

total = jax.jit(lambda x, y: mj.reduce(mj.losses.ntxent(x, y))[0])
with mj.for_platform("tpu"):  # with the block sizes of a TPU
    exported = jax.export.export(total, platforms=["tpu"])(jnp.eye(8), jnp.arange(8) // 2)
assert exported.platforms == ("tpu",)
```"""
NAMES = {"v5e": "One TPU v5e", "v6e": "One TPU v6e", "h100": "One NVIDIA H100"}


def accelerators_page():
    parts = [
        "# Accelerators, by their compilers",
        "None of this was measured. XLA compiles for TPUs and GPUs on a machine that has neither, "
        "and what it makes can be read: how many kernels run, what they move, which collectives "
        "are inside of loops. Of TPUs it has an estimate of every instruction's cycles, too. "
        "That is a model, not a clock: it ranks programs and shows why one is slow. What ran on a "
        "card is in [benchmarks](benchmarks.md).",
        "*Ideal* is the time of the products that no implementation can avoid, at the precision "
        "of the input (six passes for float32), or of reading arguments and writing results, if "
        "that is more. Forward and backward, four samples a class, 10,000 classes where a loss "
        "has class weights. A program of your own is compiled for another machine so:",
        EXPORT,
    ]
    for name, (about, rows) in results("accelerators").items():
        rows = [row for row in rows if "skipped" not in row]
        layouts = [row for row in rows if ":" in row["what"]]
        others = [row for row in rows if row not in layouts]
        parts += [
            f"## {NAMES.get(name, name)}",
            f"`python -m benchmarks.accelerators --target {name}`. Compiled on {machine(about)}.",
        ]
        for dtype, n, features in sorted({_setting(row) for row in others}, reverse=True):
            some = [row for row in others if _setting(row) == (dtype, n, features)]
            some.sort(key=lambda row: -row.get("ratio", row["traffic"]))
            parts += [f"### {dtype}, N = {n:,}, {features} features", table(list(map(_row, some)))]
        if layouts:
            parts += ["### Four chips", table(list(map(_layout, layouts)))]
    return "\n\n".join(map(paragraph, parts)) + "\n"


def _setting(row):
    return row["dtype"], row["n"], row["features"]


def _row(row):
    estimate = {}
    if "us" in row:  # there is none for GPUs
        estimate["estimate"] = f"{number(row['us'])} µs"
        estimate["ideal"] = f"{number(row['ideal_us'])} µs"
        estimate["estimate to ideal"] = number(row["ratio"])
    return {
        "": f"`{row['what']}`",
        **estimate,
        "kernels": f"{row['kernels']:,}",
        "traffic": size(row["traffic"] / 2**20),
        "temporaries": size(row["temporaries"] / 2**20),
        "loops": _loops(row),
    }


def _loops(row):
    return ", ".join("by the data" if steps is None else str(steps) for steps in row["loops"])


def _layout(row):
    told = lambda counts: ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"
    return {
        "": row["what"],
        "N": f"{row['n']:,}",
        "collectives outside of loops": told(row["collectives"]),
        "in loops": told(row["in_loops"]),
        "temporaries of a chip": size(row["temporaries"] / 2**20),
    }
