"""Every miner beside that of PyTorch Metric Learning: time and memory by the size of the batch.

    python -m benchmarks.miners
    python -m benchmarks.miners --miners angular,hdc --sizes 128,512 --out miners.json

Ours end in weights of pairs, so that triplets are all looked at; theirs in lists. Miners that are
not random must find as many. With ``--out`` each row joins those that the file already has.
"""

import sys

import jax
import jax.numpy as jnp

from benchmarks._harness import (
    Parser,
    bound,
    check_environment,
    compared,
    compiled,
    environment,
    integer,
    integers,
    json_file,
    names,
    print_table,
    write_json,
)
from benchmarks._peers import MEMORY_LIMIT, SAMPLES_PER_CLASS
from benchmarks.losses import FEATURES, TORCH, make_batch
from metricjax import Pairs, tuples

import miner_cases  # isort: skip  # the folder is known from _peers on

CASES = {str(case): case for case in miner_cases.CASES}
KEYS = ("miner", "n", "who")


def ours(case):
    """``(x, y) -> Pairs``, the weight of each pair."""
    key = {"key": jax.random.key(0)} if case.random else {}
    return lambda x, y: tuples.as_pairs(case.miner(x, y, **key), (len(x), len(x)))


def pml(case, x, y):
    """The miner of PML, with its defaults, which are ours."""
    import torch
    from pytorch_metric_learning import miners

    miner, x, y = getattr(miners, case.pml)(), torch.tensor(x), torch.tensor(y)
    return lambda: miner(x, y)


def pml_bytes(name, n):
    """An estimate of what PML takes."""
    triplets = n * n * (SAMPLES_PER_CLASS - 1)
    if name == "angular":
        return 16 * triplets * FEATURES
    return 64 * triplets if name == "triplet_margin" else 60 * n * n


def too_much(rows, name, n, limit):
    """Why PML does not take part, if it does not."""
    if (needed := pml_bytes(name, n)) > MEMORY_LIMIT:
        return f"needs {needed / 2**30:.0f} GiB"
    seconds = [
        row["ms"] / 1e3 * (n / row["n"]) ** 2
        for row in rows
        if (row["miner"], row["who"]) == (name, "pml") and "ms" in row
    ]
    return f"about {seconds[-1]:.0f} s" if seconds and seconds[-1] > limit else None


def measure(name, n, rounds, skipped, alone):
    """Our row and, unless `alone`, that of PML, or the reason to leave it out."""
    case, (x, y) = CASES[name], make_batch("contrastive", n)
    args = [jnp.asarray(x), jnp.asarray(y)]
    run, seconds, temporaries = compiled(ours(case), *args)
    contestants = {"ours": bound(run, args)}
    about = {"ours": {"temp_mib": temporaries / 2**20, "compile_s": seconds}}
    if not alone:
        about["pml"] = {"skipped": skipped} if skipped else {}
        if not skipped:
            contestants["pml"] = pml(case, x, y)
    found, results = compared(contestants, rounds)
    if "pml" in results and not case.random:
        mine, theirs = (counted(results[who]) for who in ("ours", "pml"))
        if abs(mine - theirs) > 0.01 * theirs:
            raise SystemExit(f"{name}, N={n}: {mine:.0f} pairs, but PML has {theirs:.0f}.")
    key = {"miner": name, "n": n}
    return [key | {"who": who} | more | found.get(who, {}) for who, more in about.items()]


def counted(mined):
    """How many positive and negative pairs; triplets have one of each."""
    if isinstance(mined, Pairs):
        return float(jnp.sum(mined.positive) + jnp.sum(mined.negative))
    return len(mined[1]) + len(mined[-1])


def cells(row):
    shown = lambda key, digits: f"{row[key]:.{digits}f}" if key in row else "-"
    low, middle, high = row.get("ratio", (0, 0, 0))
    return {
        "miner": row["miner"],
        "N": str(row["n"]),
        "who": row["who"],
        "ms": row.get("skipped") or shown("ms", 2),
        "to ours": f"{middle:.3g}" if middle else "-",
        "quartiles": f"{low:.3g}-{high:.3g}" if middle else "-",
        "temp MiB": shown("temp_mib", 1),
        "peak MiB": shown("peak_mib", 1),
        "compile s": shown("compile_s", 2),
    }


def parse(argv):
    parser = Parser("benchmarks.miners", description=__doc__.splitlines()[0])
    parser.add_argument("--miners", type=names(CASES), default=list(CASES), help="default: all")
    parser.add_argument(
        "--sizes", type=integers(SAMPLES_PER_CLASS), default=[128, 512, 2048],
        help="of the batch; default: 128,512,2048",
    )  # fmt: skip
    parser.add_argument("--rounds", type=integer(1), default=5, help="default: 5")
    parser.add_argument("--no-pml", action="store_true", help="without PyTorch Metric Learning")
    parser.add_argument(
        "--limit", type=integer(1), default=20,
        help="seconds; PML is left out where a smaller size says that a call takes longer",
    )  # fmt: skip
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    about = environment(*TORCH * (not args.no_pml))
    if args.out:
        check_environment(args.out, about)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are a result
    rows = []
    for name in args.miners:
        for n in sorted(args.sizes):
            skipped = too_much(rows, name, n, args.limit)
            new = measure(name, n, args.rounds, skipped, args.no_pml)
            rows += new
            print(*(" ".join(cells(row).values()) for row in new), sep="\n", file=sys.stderr)
            if args.out:
                write_json(args.out, about, new, KEYS)
    print_table([cells(row) for row in rows])


if __name__ == "__main__":
    main()
