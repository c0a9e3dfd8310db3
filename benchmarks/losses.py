"""Every loss, forward and backward, beside PyTorch Metric Learning, optax and the bare products.

    python -m benchmarks.losses
    python -m benchmarks.losses --sizes 512 --classes 10000 --rounds 3
    python -m benchmarks.losses --losses contrastive,ntxent --sizes 512 --peers floor

All get the same values, must agree on the loss, and take turns. The peer `floor` is the three
matrix products that every implementation needs. `torch_compile`, ten seconds or more for each loss
and size, takes part when asked for. With ``--out`` each row joins those that the file already has.
"""

import importlib.metadata
import statistics
import sys

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
    integer,
    integers,
    interleaved,
    json_file,
    names,
    one_line,
    print_table,
    read_rows,
    write_json,
)
from benchmarks._peers import DIFFERENT, PEERS, SAMPLES_PER_CLASS, Skipped, pml_bytes

import cases  # isort: skip  # the folder is known from _peers on

CASES = {str(case): case for case in cases.CASES}
FEATURES = 128
CLASS_SIZE = 512
PROXIES = 50
"""For `manifold`, as PML has by default."""
TORCH = ("torch", "pytorch-metric-learning")
KEYS = ("loss", "n", "m", "who")


def make_batch(name, n, classes=None, features=FEATURES):
    """Embeddings around class centers, labels, and class weights if the loss has them."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n // SAMPLES_PER_CLASS + 1), SAMPLES_PER_CLASS)[:n]
    if name != "smooth_ap":  # PML takes its classes from the order
        y = rng.permutation(y)
    means = rng.normal(size=(classes or n, features))
    x = means[y % len(means)] + rng.normal(size=(n, features))
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


def ceilings(n=2048):
    """What the device does at best: the rates of a matrix product, and of a copy."""
    x = jnp.ones((n, n))
    product, copy = (compiled(step, x)[0] for step in (lambda x: x @ x, lambda x: x + 1))
    times = interleaved({"product": bound(product, [x]), "copy": bound(copy, [x])}, 5)
    gflops, gbytes = 2 * n**3 / min(times["product"]) / 1e9, 8 * n**2 / min(times["copy"]) / 1e9
    row = {"loss": "ceiling", "n": n, "m": n}
    return [row | {"who": "product", "gflops": gflops}, row | {"who": "copy", "gbytes": gbytes}]


def shapes(name, sizes, classes):
    """The sizes of the batch, and of what it is compared with where that is not the batch."""
    if name == "manifold":
        return [(n, PROXIES) for n in sizes]
    return [(CLASS_SIZE, c) for c in classes] if CASES[name].centers else [(n, None) for n in sizes]


def measure(name, n, classes, rounds, peers, too_slow):
    """The rows of one loss and size: ours, then those of its peers."""
    case, batch = CASES[name], make_batch(name, n, classes)
    args = [jnp.asarray(array) for array in batch]
    step, seconds, temporaries = compiled(our_step(case.fn), *args)
    contestants = {"ours": bound(step, args)}
    about = {"ours": {"temp_mib": temporaries / 2**20, "compile_s": seconds}}
    for peer in peers:
        try:
            if peer in too_slow:
                raise Skipped(too_slow[peer])
            made = PEERS[peer](case, *batch)
        except Exception as error:
            about[peer] = {"skipped": str(error) if isinstance(error, Skipped) else one_line(error)}
        else:
            if made:
                contestants[peer], about[peer] = made
    found, results = compared(contestants, rounds)
    for peer in found.keys() & results.keys() - {"ours", "floor"}:
        ours, theirs = float(results["ours"][0]), float(results[peer])
        if (name, peer) not in DIFFERENT and not abs(ours - theirs) <= 1e-4 * abs(theirs) + 1e-5:
            raise SystemExit(f"{name}, N={n}: the loss is {ours}, but that of {peer} is {theirs}.")
    key = {"loss": name, "n": n, "m": len(batch[2]) if case.centers else n}
    key |= {} if classes is None or name == "manifold" else {"classes": classes}
    return [key | {"who": who} | more | found.get(who, {}) for who, more in about.items()]


def estimates(rows, name, n, m, limit):
    """What peers say where they would be too slow, by the last size that they were timed at."""
    out = {}
    for row in rows:
        smaller = row["loss"] == name and row["n"] <= n and row["m"] <= m and "ms" in row
        if smaller and row["who"] in ("pml", "torch_compile"):
            growth = pml_bytes(name, n, m) / pml_bytes(name, row["n"], row["m"])
            out[row["who"]] = row["ms"] / 1e3 * growth
    return {who: f"about {seconds:.0f} s" for who, seconds in out.items() if seconds > limit}


def speedups(rows):
    """One line over the losses at N=512, with the most classes up to 10,000."""
    pml = [row for row in rows if row["who"] == "pml" and "ms" in row and row["n"] == CLASS_SIZE]
    pml = [row for row in pml if row.get("classes", 0) <= 10_000]
    if not pml:
        return ""
    speedup = {row["loss"]: row["ratio"][1] for row in sorted(pml, key=lambda row: row["m"])}
    slowest = min(speedup, key=speedup.get)
    mean = statistics.geometric_mean(speedup.values())
    return (
        f"N={CLASS_SIZE}, up to 10,000 classes: {len(speedup)} losses, geometric mean of the "
        f"speedups {mean:.1f}, least {speedup[slowest]:.2f} ({slowest})"
    )


def cells(row):
    """A row as text."""
    low, middle, high = row.get("ratio", (0, 0, 0))
    shown = lambda key, digits: f"{row[key]:.{digits}f}" if key in row else "-"
    return {
        "loss": row["loss"],
        "N": str(row["n"]),
        "M": str(row["m"]),
        "who": row["who"],
        "ms": row.get("skipped") or shown("ms", 2),
        "to ours": f"{middle:.3g}" if middle else "-",
        "quartiles": f"{low:.3g}-{high:.3g}" if middle else "-",
        "rounds": str(row.get("rounds", "-")),
        "temp MiB": shown("temp_mib", 1),
        "peak MiB": shown("peak_mib", 1),
        "compile s": shown("compile_s", 2),
    }


def parse(argv):
    parser = Parser("benchmarks.losses", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=names(CASES), default=list(CASES), help="default: all")
    parser.add_argument(
        "--sizes", type=integers(SAMPLES_PER_CLASS), default=[128, 512, 2048, 8192],
        help="of the batch, for losses of pairs and triplets; default: 128,512,2048,8192",
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=integers(1), default=[1000, 10000, 100000],
        help="for losses with class weights, at N=512; default: 1000,10000,100000",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=names(PEERS), default=["floor", "pml", "optax"],
        help=f"of {','.join(PEERS)}; default: floor,pml,optax",
    )  # fmt: skip
    parser.add_argument("--rounds", type=integer(1), default=9, help="default: 9")
    parser.add_argument(
        "--limit", type=integer(1), default=40,
        help="seconds; PML is left out where a smaller size says that a call takes longer; 40",
    )  # fmt: skip
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    try:
        about = environment("optax", *TORCH * bool({"pml", "torch_compile"} & set(args.peers)))
    except importlib.metadata.PackageNotFoundError:
        sys.exit("benchmarks.losses: pip install 'metricjax[bench]' first, or --peers floor,optax")
    if args.out:
        check_environment(args.out, about)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are a result
    measure("contrastive", 8, None, 1, args.peers, {})  # the very first call sets up threads
    rows = ceilings()
    if args.out:
        write_json(args.out, about, rows, KEYS)
    for name in args.losses:
        for n, classes in shapes(name, sorted(args.sizes), sorted(args.classes)):
            m = n if classes is None else classes * CASES[name].centers
            too_slow = estimates(read_rows(args.out) + rows, name, n, m, args.limit)
            new = measure(name, n, classes, args.rounds, args.peers, too_slow)
            rows += new
            print(*(" ".join(cells(row).values()) for row in new), sep="\n", file=sys.stderr)
            if args.out:
                write_json(args.out, about, new, KEYS)
    print_table([cells(row) for row in rows[2:]])
    if headline := speedups(rows):
        print(headline)


if __name__ == "__main__":
    main()
