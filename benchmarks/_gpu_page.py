"""What the page of the benchmarks says of GPUs, from the results of `benchmarks.gpu`."""

from benchmarks._text import (
    against,
    duration,
    grouped,
    machine,
    number,
    results,
    size,
    table,
    times,
)


def gpus():
    """The parts of the page, a section for each GPU."""
    parts = []
    for name, (about, rows) in results("gpu").items():
        rows_of = lambda part, rows=rows: [row for row in rows if row["part"] == part]
        parts += [
            f"## GPU: {name}",
            f"`python -m benchmarks.gpu`. {machine(about)}.{_rates(rows_of('ceiling'))}",
            _right(rows_of("right")),
            "The protocol that PML publishes for its version 3, with PML 2.9 beside us: loss and "
            "miner alone, forward and backward, 128 features, 4 samples a class, 1,024 classes for "
            "`arcface` and `proxy_anchor`. PML 3 could not be installed. *Another value*: PML's "
            "loss is more than 3 % from ours, which happens in bfloat16 alone.",
            _protocol(rows_of("times")),
            "Every loss, forward and backward, beside the three matrix products at full float32 "
            "precision:",
            _losses(rows_of("losses")),
        ]
    return parts


def _rates(rows):
    """The rates at best of a product and of a copy."""
    best = {(row["who"], row["dtype"]): row for row in rows}
    products = [
        f"{number(row['gflops'] / 1e3)} TFLOP/s in {dtype}"
        for (who, dtype), row in sorted(best.items(), reverse=True)
        if who == "product"
    ]
    if not products:
        return ""
    copy = best["copy", "float32"]["gbytes"]
    return f" At best it multiplies at {' and '.join(products)}, and copies {number(copy)} GB/s."


def _right(rows):
    """Whether all values are those of the CPU."""
    wrong = [row["what"] for row in rows if not row.get("error", 1) <= row.get("allowed", 0)]
    if wrong:
        return f"Not the values of the CPU: {', '.join(sorted(set(wrong)))}."
    worst = {
        dtype: max(row["error"] for row in rows if row["dtype"] == dtype)
        for dtype in sorted({row["dtype"] for row in rows}, reverse=True)
    }
    most = " and ".join(f"{error:.1g} in {dtype}" for dtype, error in worst.items())
    return (
        f"Value and gradient of every loss, the pairs of every miner and the neighbors of `knn` "
        f"are those of the CPU: {len(rows)} comparisons, which differ by at most {most}, relative "
        "to the largest entry."
    )


def _protocol(rows):
    return table([
        {
            "": what if " " in what else f"`{what}`",
            "N": f"{n:,}",
            "dtype": dtype,
            "time": duration(by["ours"]["ms"]),
            "PML": _short(by.get("pml")),
            "PML to ours": times(by.get("pml")),
            "temporaries": size(by["ours"]["temp_mib"]),
        }
        for (what, n, dtype), by in sorted(grouped(rows, "what", "n", "dtype").items())
    ])  # fmt: skip


def _short(row):
    """A time, or the kind of the error."""
    if row and "skipped" in row:
        return row["skipped"].split(":")[0].replace("OutOfMemoryError", "out of memory")
    return against(row)


def _losses(rows):
    by_loss = grouped(rows, "what", "n", "dtype")
    return table([
        {
            "": f"`{what}`, N = {n:,}",
            "float32": duration(by["ours"]["ms"]),
            "products": against(by.get("floor")),
            "bfloat16": duration(by_loss[what, n, "bfloat16"]["ours"]["ms"]),
            "temporaries": size(by["ours"]["temp_mib"]),
        }
        for (what, n, dtype), by in sorted(by_loss.items())
        if dtype == "float32"
    ])  # fmt: skip
