"""All that one accelerator should be asked, in a few minutes: is it right, and how fast is it?

    python -m benchmarks.gpu --out benchmarks/results/gpu-h200.json
    python -m benchmarks.gpu --parts right --losses ntxent,arcface

Part `right` compares value and gradient of every loss, what every miner keeps, and `knn` with the
CPU of the same machine, in float32 and bfloat16. Part `times` repeats the protocol that PyTorch
Metric Learning publishes: loss and miner alone, forward and backward, 128 features, 4 samples a
class, 1,024 classes, beside PyTorch Metric Learning where it is installed. Part `losses` times
every loss beside the three matrix products that no implementation can avoid. A run that was stopped
resumes: rows that the file already has are not measured again.
"""

import concurrent.futures
import itertools
import os
import sys
import time

# PyTorch, which takes turns with JAX, needs a part of the memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import metricjax as mj
from benchmarks._harness import (
    Parser,
    bound,
    check_environment,
    compared,
    compiled,
    environment,
    installed,
    integer,
    integers,
    json_file,
    names,
    one_line,
    print_table,
    read_rows,
    write_json,
)
from benchmarks._peers import PEERS
from benchmarks.losses import CASES, TORCH, make_batch, our_step
from benchmarks.miners import CASES as MINERS
from benchmarks.miners import ours as mined_pairs

KEYS = ("part", "what", "dtype", "n", "who")
DTYPES = ("float32", "bfloat16")
PUBLISHED_CLASSES = 1024
RIGHT_N, RIGHT_C = 192, 48
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""The largest error allowed, relative to the largest entry: sums round in another order, and
gradients come back in the dtype of the embeddings."""
ALL_TRIPLETS_N = 8192
COMPILERS = 8
"""Programs that are compiled at a time; XLA compiles outside of Python's lock."""


# --- is it right? -----------------------------------------------------------------------------


def worst(got, want):
    """The largest difference, relative to the largest entry, over all arrays of two trees."""

    def one(a, b):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        return float(np.max(np.abs(a - b), initial=0) / max(1e-6, np.max(np.abs(b), initial=0)))

    return max(map(one, jax.tree.leaves(got), jax.tree.leaves(want)))


def checks(chosen, n):
    """``(what, dtype, step, args)`` of all that is compared with the CPU."""
    for dtype in DTYPES:
        for name in chosen:
            batch = make_batch(name, n, RIGHT_C if CASES[name].centers else None)
            args = [
                x.astype(dtype) if x.dtype == np.float32 else x for x in map(jnp.asarray, batch)
            ]
            yield name, dtype, our_step(CASES[name].fn), args
    x, y = map(jnp.asarray, make_batch("contrastive", n))
    for name, case in MINERS.items():
        if not case.random:  # ties of random numbers are decided by the last bit
            yield f"miners.{name}", "float32", mined_pairs(case), [x, y]
    search = lambda x, y: mj.evaluation.knn(x, x, 10, self_index=jnp.arange(n))
    yield "evaluation.knn", "float32", search, [x, y]


def right(chosen, n, new):
    """Rows that say how far the default device is from the CPU."""
    cpu = jax.devices("cpu")[0]

    def run(job):
        what, dtype, step, args = job
        row = {"part": "right", "what": what, "dtype": dtype, "n": n, "who": "ours"}
        try:
            got = jax.device_get(jax.jit(step)(*args))
            with jax.default_device(cpu):
                want = jax.device_get(jax.jit(step)(*jax.device_put(args, cpu)))
        except Exception as error:
            return row | {"skipped": one_line(error)}
        return row | {"error": worst(got, want), "allowed": TOLERANCE[dtype]}

    jobs = [job for job in checks(chosen, n) if new("right", *job[:2], n)]
    with concurrent.futures.ThreadPoolExecutor(COMPILERS) as pool:
        for row in pool.map(run, jobs):
            yield [row]


# --- how fast is it? --------------------------------------------------------------------------


def batch_hard_triplets(x, y):
    """The published recipe of the batch-hard miner and the triplet loss."""
    return mj.losses.triplet_margin(x, y, mined=mj.miners.batch_hard(x, y))


PROTOCOL = {
    "contrastive": mj.losses.contrastive,
    "batch_hard + triplet_margin": batch_hard_triplets,
    "triplet_margin": mj.losses.triplet_margin,
    "ntxent": mj.losses.ntxent,
    "proxy_anchor": mj.losses.proxy_anchor,
    "arcface": mj.losses.arcface,
}


def pml_step(what, batch, dtype):
    """The same recipe by PyTorch Metric Learning on the same device, or `None`."""
    if not installed(*TORCH):
        return None
    import torch
    from pml_side import make_pml
    from pytorch_metric_learning import miners

    case = CASES[what.split()[-1]]
    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device, dtype = "cuda" if cuda else "cpu", getattr(torch, dtype)
    x = torch.tensor(batch[0], device=device).to(dtype).requires_grad_()
    y = torch.tensor(batch[1], device=device)
    loss = make_pml(case, {}, batch[2:]).to(device, dtype)
    miner = miners.BatchHardMiner() if "batch_hard" in what else None
    inputs = [x, *loss.parameters()]

    def step():
        value = loss(x, y, miner(x, y) if miner else None)
        torch.autograd.grad(value, inputs)
        if cuda:
            torch.cuda.synchronize()
        return value.item()

    return step


def prepared(jobs):
    """The jobs ``(key, fn, batch, dtype)`` with our compiled step in the place of the function.

    All are compiled first, several at a time: nothing is timed while others compile.
    """

    def prepare(job):
        key, fn, batch, dtype = job
        args = [x.astype(dtype) if x.dtype == np.float32 else x for x in map(jnp.asarray, batch)]
        run, seconds, temporaries = compiled(our_step(fn), *args)
        return key, batch, bound(run, args), {"compile_s": seconds, "temp_mib": temporaries / 2**20}

    with concurrent.futures.ThreadPoolExecutor(COMPILERS) as pool:
        return list(pool.map(prepare, jobs))


def timed(part, key, contestants, rounds, about):
    """Rows of contestants that take turns, see `compared`; PML must agree on the value."""
    row = {"part": part} | dict(zip(KEYS[1:4], key, strict=True))
    found, results = compared(contestants, rounds)
    if "pml" in results:
        ours, pml = float(results["ours"][0]), results["pml"]
        if not abs(ours - pml) <= TOLERANCE[row["dtype"]] * abs(pml):
            found["pml"] = {"skipped": f"another value: {pml:.5g}, ours {ours:.5g}"}
    found["ours"] |= about
    return [row | {"who": who} | found[who] for who in contestants]


def protocol_jobs(sizes, new):
    for n, what, dtype in itertools.product(sizes, PROTOCOL, DTYPES):
        if n == ALL_TRIPLETS_N and (what, dtype) != ("triplet_margin", "float32"):
            continue
        classes = PUBLISHED_CLASSES if what in CASES and CASES[what].centers else None
        if new("times", what, dtype, n):
            batch = make_batch(what if classes else "contrastive", n, classes)
            yield (what, dtype, n), PROTOCOL[what], batch, dtype


def times(sizes, rounds, new):
    """Rows of the published protocol."""
    for key, batch, ours, about in prepared(protocol_jobs(sizes, new)):
        contestants = {"ours": ours}
        if peer := pml_step(key[0], batch, key[1]):
            contestants["pml"] = peer
        yield timed("times", key, contestants, rounds, about)


def loss_jobs(chosen, n, new):
    for name, dtype in itertools.product(chosen, DTYPES):
        if new("losses", name, dtype, n):
            batch = make_batch(name, n, PUBLISHED_CLASSES if CASES[name].centers else None)
            yield (name, dtype, n), CASES[name].fn, batch, dtype


def every_loss(chosen, n, rounds, new):
    """Rows of every loss at one size, beside the bare products."""
    for key, batch, ours, about in prepared(loss_jobs(chosen, n, new)):
        contestants = {"ours": ours}
        if key[1] == "float32" and (floor := PEERS["floor"](CASES[key[0]], *batch)):
            contestants["floor"] = floor[0]
        yield timed("losses", key, contestants, rounds, about)


def ceilings(n, rounds, new):
    """The rates of a matrix product and of a copy: what the device does at best."""
    for dtype in DTYPES:
        if not new("ceiling", "ceiling", dtype, n):
            continue
        x = jax.random.normal(jax.random.key(0), (n, n), dtype)
        steps = {"product": lambda x: jnp.dot(x, x, precision="highest"), "copy": jnp.negative}
        contestants = {who: bound(compiled(step, x)[0], [x]) for who, step in steps.items()}
        found, _ = compared(contestants, rounds)
        work = {"product": 2 * n**3, "copy": 2 * x.nbytes}
        rate = {"product": "gflops", "copy": "gbytes"}
        row = {"part": "ceiling", "what": "ceiling", "dtype": dtype, "n": n}
        yield [row | {"who": who, rate[who]: work[who] / found[who]["ms"] / 1e6} for who in steps]


def cells(row):
    """A row as text."""
    shown = lambda key, form: form.format(row[key]) if key in row else "-"
    wrong = row.get("error", 0) > row.get("allowed", 1) or np.isnan(row.get("error", 0))
    return {
        "part": row["part"],
        "what": row["what"],
        "dtype": row["dtype"],
        "N": str(row["n"]),
        "who": row["who"],
        "ms": row.get("skipped") or shown("ms", "{:.3f}"),
        "GFLOP/s": shown("gflops", "{:,.0f}"),
        "GB/s": shown("gbytes", "{:,.0f}"),
        "to ours": f"{row['ratio'][1]:.3g}" if "ratio" in row else "-",
        "temp MiB": shown("temp_mib", "{:.1f}"),
        "error": shown("error", "{:.1e}") + " WRONG" * bool(wrong),
    }


def parse(argv):
    parser = Parser("benchmarks.gpu", description=__doc__.splitlines()[0])
    parts = ("ceiling", "right", "times", "losses")
    parser.add_argument("--parts", type=names(parts), default=list(parts), help="default: all")
    parser.add_argument("--losses", type=names(CASES), default=list(CASES), help="default: all")
    parser.add_argument(
        "--sizes", type=integers(4), default=[128, 512, 2048, ALL_TRIPLETS_N],
        help=f"of the published protocol; at {ALL_TRIPLETS_N} all triplets alone",
    )  # fmt: skip
    parser.add_argument("--size", type=integer(4), default=2048, help="of part losses; 2048")
    parser.add_argument("--right-size", type=integer(8), default=RIGHT_N, help="of part right")
    parser.add_argument("--ceiling", type=integer(8), default=8192, help="rows of the ceilings")
    parser.add_argument("--rounds", type=integer(1), default=3, help="default: 3")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    about = environment("flax", "optax", *(name for name in TORCH if installed(name)))
    if args.out:
        check_environment(args.out, about)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are a result
    start, found = time.perf_counter(), []
    done = {tuple(row[key] for key in KEYS[:4]) for row in read_rows(args.out)}
    new = lambda *key: key not in done
    jobs = {
        "ceiling": lambda: ceilings(args.ceiling, args.rounds, new),
        "right": lambda: right(args.losses, args.right_size, new),
        "times": lambda: times(args.sizes, args.rounds, new),
        "losses": lambda: every_loss(args.losses, args.size, args.rounds, new),
    }
    for part in args.parts:
        for rows in jobs[part]():
            found += rows
            if args.out:
                write_json(args.out, about, rows, KEYS)
        print(f"{part}: {time.perf_counter() - start:.0f} s so far", file=sys.stderr)
    if found:
        print_table([cells(row) for row in found])
    wrong = [row["what"] for row in found if cells(row)["error"].endswith("WRONG")]
    if wrong:
        sys.exit(f"benchmarks.gpu: not the CPU's values: {', '.join(sorted(set(wrong)))}")


if __name__ == "__main__":
    main()
