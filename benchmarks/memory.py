"""The temporaries of every loss, forward and backward, by XLA's own memory analysis.

    python -m benchmarks.memory
    python -m benchmarks.memory --size 1024 --classes 10000 --out memory.json

They are given in arrays of N x M float32: M references, or M rows of class weights. The bounds are
12 arrays, and 6 for losses with class weights.
"""

import jax.numpy as jnp

from benchmarks._harness import (
    Parser,
    compiled,
    environment,
    integer,
    json_file,
    names,
    print_table,
    write_json,
)
from benchmarks.losses import CASES, PROXIES, make_batch, our_step

BOUND, CLASS_BOUND = 12, 6
KEYS = ("loss", "n", "m")


def measure(name, size, classes):
    """One row: the temporaries of one loss."""
    case = CASES[name]
    batch = make_batch(name, size, PROXIES if name == "manifold" else classes)
    by_class = bool(case.centers) and name != "manifold"
    m = len(batch[2]) if by_class else size
    _, seconds, temporaries = compiled(our_step(case.fn), *map(jnp.asarray, batch))
    return {
        "loss": name,
        "n": size,
        "m": m,
        "temp_mib": temporaries / 2**20,
        "temp_arrays": temporaries / (4 * size * m),
        "bound": CLASS_BOUND if by_class else BOUND,
        "compile_s": seconds,
    }


def cells(row):
    """A row as text."""
    over = "" if row["temp_arrays"] <= row["bound"] else " over"
    return {
        "loss": row["loss"],
        "N": str(row["n"]),
        "M": str(row["m"]),
        "temp MiB": f"{row['temp_mib']:.1f}",
        "N*M arrays": f"{row['temp_arrays']:.1f}",
        "bound": f"{row['bound']}{over}",
    }


def main(argv=None):
    parser = Parser("benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=names(CASES), help="default: all of them")
    parser.add_argument("--size", type=integer(4), default=1024, help="of the batch; default: 1024")
    parser.add_argument("--classes", type=integer(1), default=10000, help="default: 10000")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    args = parser.parse_args(argv)
    rows = [measure(name, args.size, args.classes) for name in args.losses or CASES]
    print_table([cells(row) for row in rows])
    if args.out:
        write_json(args.out, environment(), rows, KEYS)
    raise SystemExit(any(row["temp_arrays"] > row["bound"] for row in rows))


if __name__ == "__main__":
    main()
