"""Times the losses, forward and backward, against PyTorch Metric Learning (PML).

    python -m benchmarks.losses
    python -m benchmarks.losses --losses contrastive,ntxent --sizes 512 --no-pml
    python -m benchmarks.losses --chunks 0,128,256,512 --sizes 1024,2048

Both sides get the same values, must agree on the loss, and take turns. The second form needs no
PyTorch. The third times a loss by blocks of anchors; a block of 0 is the whole batch at once.
"""

import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import metricjax as mj
from benchmarks._harness import (
    Parser,
    compiled,
    environment,
    integer,
    integers,
    interleaved,
    json_file,
    names,
    print_table,
    quartiles,
    write_json,
)

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS), str(TESTS / "parity")]
import cases  # noqa: E402

CASES = {str(case): case for case in cases.CASES}
PAIRWISE = [name for name, case in CASES.items() if case.takes("refs") and not case.whole]

FEATURES = 128
SAMPLES_PER_CLASS = 4
CLASS_SIZE = 512
PROXIES = 50
"""For `manifold`, as PML has by default."""
PML_LIMIT = 12 * 2**30
"""PML is left out where the largest arrays it builds would take more bytes than this."""


def pml_bytes(name, n, m):
    """An estimate of what PML takes for N anchors and M references or classes."""
    positives = n * (SAMPLES_PER_CLASS - 1)
    if name in ("ntxent", "lifted_structure", "tuplet_margin"):
        return 17 * positives * n * m  # every positive pair against every negative pair
    if name in ("smooth_ap", "pnp"):
        return 24 * n**3
    if name in ("triplet_margin", "margin", "dynamic_soft_margin", "histogram"):
        # a byte for each of N^3, if below 2^31, and lists of what exists
        return (n**3 if n**3 < 2**31 else 0) + 64 * positives * m
    return 60 * n * m


def make_batch(name, n, classes=None):
    """Embeddings around class centers, labels, and class weights if the loss has them."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n // SAMPLES_PER_CLASS + 1), SAMPLES_PER_CLASS)[:n]
    if name != "smooth_ap":  # PML takes its classes from the order
        y = rng.permutation(y)
    means = rng.normal(size=(classes or n, FEATURES))
    x = means[y % len(means)] + rng.normal(size=(n, FEATURES))
    arrays = [x.astype(np.float32), y]
    centers = CASES[name].centers
    if centers:
        weights = np.repeat(means, centers, 0)
        weights += 0.1 * rng.normal(size=weights.shape)
        if name == "p2s_grad":
            weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        arrays.append(weights.astype(np.float32))
    return arrays


def our_step(fn):
    """``(x, y, *params) -> (loss, gradients)`` with respect to x and params."""

    def step(x, y, *params):
        total = lambda x, *params: mj.reduce(fn(x, y, *params))[0]
        return jax.value_and_grad(total, range(1 + len(params)))(x, *params)

    return step


def pml_step(case, x, y, *weights):
    """The same with PML, on the device that JAX uses if PyTorch has it."""
    import torch
    from pml_side import bind_pml, make_pml

    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    loss = make_pml(case, {}, weights).to(device)
    x = torch.tensor(x, device=device, requires_grad=True)
    inputs = [x, *(getattr(loss, case.pml_weights) for _ in weights)]
    value_of = bind_pml(case, loss, y, device=device)

    def step():
        value = value_of(x)
        if str(case) == "dynamic_soft_margin":
            loss.hist_ = loss.hist_.detach()  # or the second step fails
        torch.autograd.grad(value, inputs)
        if cuda:
            torch.cuda.synchronize()
        return value.detach()

    return step


def bound(step, args):
    return lambda: jax.block_until_ready(step(*args))


def against_pml(name, n, classes, rounds, pml):
    """One row: our loss, and PML's if there is one that does not need too much memory."""
    case, batch = CASES[name], make_batch(name, n, classes)
    m = len(batch[2]) if case.centers else n
    args = [jnp.asarray(array) for array in batch]
    step, seconds, temporaries = compiled(our_step(case.fn), *args)
    contestants = {"ours": bound(step, args)}
    row = {"loss": name, "n": n, "m": m}
    needed = pml_bytes(name, n, m)
    if pml and case.pml and needed <= PML_LIMIT:
        contestants["pml"] = pml_step(case, *batch)
        ours, theirs = float(contestants["ours"]()[0]), float(contestants["pml"]())
        if name not in DIFFERENT and not abs(ours - theirs) <= 1e-4 * abs(theirs) + 1e-5:
            raise SystemExit(f"{name}, N={n}, M={m}: the loss is {ours}, but PML's is {theirs}.")
    times = interleaved(contestants, rounds)
    row |= {"rounds": len(times["ours"]), "ms": 1e3 * quartiles(times["ours"])[1]}
    if "pml" in times:
        ratios = [b / a for a, b in zip(times["ours"], times["pml"], strict=True)]
        row |= {"pml_ms": 1e3 * quartiles(times["pml"])[1], "ratio_quartiles": quartiles(ratios)}
    elif pml and case.pml:
        row["pml_skipped"] = f"{needed / 2**30:.1f} GiB"
    return row | {
        "temp_mib": temporaries / 2**20,
        "temp_arrays": temporaries / (4 * n * m),
        "compile_s": seconds,
    }


DIFFERENT = ("smooth_ap",)
"""PML's value is another one on these batches; see `docs/differences.md`."""


def against_chunks(name, n, sizes, rounds):
    """One row for each chunk size; 0 is the dense loss."""
    args = [jnp.asarray(array) for array in make_batch(name, n)]
    dense = CASES[name].loss.__wrapped__
    made = {
        size: compiled(our_step(mj.chunked(dense, size) if size else dense), *args)
        for size in sizes
        if size < n
    }
    times = interleaved({size: bound(step, args) for size, (step, _, _) in made.items()}, rounds)
    first = times[next(iter(times))]
    for size, (_, seconds, temporaries) in made.items():
        ratios = [a / b for a, b in zip(first, times[size], strict=True)]
        yield {
            "loss": name,
            "n": n,
            "m": n,
            "chunk": size,
            "rounds": len(ratios),
            "ms": 1e3 * quartiles(times[size])[1],
            "ratio_quartiles": quartiles(ratios),
            "temp_mib": temporaries / 2**20,
            "temp_arrays": temporaries / (4 * n * n),
            "compile_s": seconds,
        }


def shapes(name, sizes, classes):
    """The sizes of the batch, and of what it is compared with where that is not the batch."""
    if name == "manifold":
        return [(n, PROXIES) for n in sizes]
    return [(CLASS_SIZE, c) for c in classes] if CASES[name].centers else [(n, None) for n in sizes]


def speedups(rows):
    """One line over the losses at N=512, with 10,000 classes where there are classes."""
    ratios = {
        row["loss"]: row["ratio_quartiles"][1]
        for row in rows
        if "ratio_quartiles" in row and "chunk" not in row and row["n"] == CLASS_SIZE
    }
    if not ratios:
        return ""
    slowest = min(ratios, key=ratios.get)
    return (
        f"N={CLASS_SIZE}, the most classes: {len(ratios)} losses, geometric mean of the speedups "
        f"{statistics.geometric_mean(ratios.values()):.1f}, least {ratios[slowest]:.2f} ({slowest})"
    )


def cells(row):
    """A row as text."""
    low, middle, high = row.get("ratio_quartiles", (0, 0, 0))
    out = {"loss": row["loss"], "N": str(row["n"]), "M": str(row["m"])}
    if "chunk" in row:
        out["chunk"] = str(row["chunk"]) if row["chunk"] else "dense"
    out["ms"] = f"{row['ms']:.2f}"
    if "chunk" not in row:
        skipped = f"needs {row['pml_skipped']}" if "pml_skipped" in row else "-"
        out["PML ms"] = f"{row['pml_ms']:.1f}" if "pml_ms" in row else skipped
    out["speedup"] = f"{middle:.2f}" if middle else "-"
    out["quartiles"] = f"{low:.2f}-{high:.2f}" if middle else "-"
    out |= {"temp MiB": f"{row['temp_mib']:.1f}", "N*M arrays": f"{row['temp_arrays']:.1f}"}
    return out | {"compile s": f"{row['compile_s']:.2f}"}


def parse(argv):
    parser = Parser("benchmarks.losses", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=names(CASES), help="default: all of them")
    parser.add_argument(
        "--sizes", type=integers(SAMPLES_PER_CLASS), default=[256, 512, 2048],
        help="of the batch, for losses of pairs and triplets; default: 256,512,2048",
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=integers(1), default=[1000, 10000],
        help="for losses with class weights, at N=512; default: 1000,10000",
    )  # fmt: skip
    parser.add_argument("--rounds", type=integer(1), default=9, help="default: 9")
    parser.add_argument("--no-pml", action="store_true", help="without PyTorch Metric Learning")
    parser.add_argument("--out", type=json_file, help="writes the rows to this .json file, too")
    parser.add_argument("--chunks", type=integers(0), help="times the losses by these block sizes")
    args = parser.parse_args(argv)
    args.losses = args.losses or (PAIRWISE if args.chunks else list(CASES))
    if args.chunks and (wrong := [name for name in args.losses if name not in PAIRWISE]):
        parser.error(f"--chunks has no {','.join(wrong)}; choose from {','.join(PAIRWISE)}")
    return args


def main(argv=None):
    args = parse(argv)
    pml = not args.no_pml and not args.chunks
    if pml:
        try:
            import pytorch_metric_learning  # noqa: F401
        except ImportError:
            sys.exit("benchmarks.losses: pip install 'metricjax[bench]' first, or use --no-pml.")
    rows = []
    for name in args.losses:
        for n, classes in shapes(name, args.sizes, args.classes):
            if args.chunks:
                rows += against_chunks(name, n, args.chunks, args.rounds)
            else:
                rows.append(against_pml(name, n, classes, args.rounds, pml))
            print(" ".join(cells(rows[-1]).values()), file=sys.stderr, flush=True)
    print_table([cells(row) for row in rows])
    if headline := speedups(rows):
        print(headline)
    if args.out:
        packages = ("torch", "pytorch-metric-learning") if pml else ()
        write_json(args.out, environment(*packages), rows)


if __name__ == "__main__":
    main()
