"""What the benchmarks beside one other library share: of losses that both have."""

import importlib.metadata
import sys

import jax
import jax.numpy as jnp

import metricjax as mj
from benchmarks._harness import (
    Parser,
    bound,
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
from benchmarks.losses import cells

KEYS = ("loss", "n", "m", "who")


def side_by_side(name, n, m, ours, args, used, who, theirs, rounds):
    """The rows of one loss: value and gradients of ours and theirs, which must agree.

    Args:
        ours: a function of `args`, NumPy arrays, that returns terms.
        used: which of them get gradients.
        theirs: a function without arguments, one step of theirs.
    """
    total = lambda *args: mj.reduce(ours(*args))[0]
    run, seconds, temporaries = compiled(jax.value_and_grad(total, used), *map(jnp.asarray, args))
    contestants = {"ours": bound(run, list(map(jnp.asarray, args))), who: theirs}
    found, results = compared(contestants, rounds)
    if who not in results:
        raise SystemExit(f"{name}, N={n}: {who} failed: {found[who]['skipped']}")
    ours, theirs = float(results["ours"][0]), float(results[who])
    if not abs(ours - theirs) <= 1e-4 * abs(theirs) + 1e-5:
        raise SystemExit(f"{name}, N={n}: the loss is {ours}, but theirs is {theirs}.")
    about = {"ours": {"temp_mib": temporaries / 2**20, "compile_s": seconds}}
    return [{"loss": name, "n": n, "m": m, "who": who} | about.get(who, {}) | row
            for who, row in found.items()]  # fmt: skip


def command(argv, benchmark, about, extra, packages, losses, measure, first, most=None):
    """Runs a benchmark from the command line.

    Args:
        benchmark, about: its name and first line.
        extra, packages: what to install, and whose versions are recorded.
        losses: all that can be chosen.
        measure: ``(loss, n, rounds) -> rows``.
        first: a loss for the very first call, which sets up threads.
        most: the largest N of some losses.
    """
    parser = Parser(benchmark, description=about)
    parser.add_argument("--losses", type=names(losses), default=list(losses), help="default: all")
    parser.add_argument("--sizes", type=integers(2), default=[128, 512, 2048])
    parser.add_argument("--rounds", type=integer(1), default=9, help="default: 9")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    args = parser.parse_args(argv)
    try:
        about = environment(*packages)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{benchmark}: pip install 'metricjax[{extra}]' first")
    jax.config.update("jax_enable_compilation_cache", False)
    measure(first, 8, 1)
    rows = []
    for name in args.losses:
        for n in args.sizes:
            if n <= (most or {}).get(name, n):
                rows += measure(name, n, args.rounds)
    print_table([cells(row) for row in rows])
    if args.out:
        write_json(args.out, about, rows, KEYS)
