"""The time an epoch of each sampler takes: its batches by `Batches`, and by a call for each step.

    python -m benchmarks.samplers
    python -m benchmarks.samplers --samples 1000000 --classes 100000 --out samplers.json

The labels are in random order, and so many batches are an epoch as have all samples in them.
"""

import statistics

import numpy as np

from benchmarks._harness import (
    Parser,
    environment,
    integer,
    interleaved,
    json_file,
    print_table,
    write_json,
)
from metricjax import samplers

SUPER_CLASSES = 10
KEYS = ("sampler", "steps")


def contestants(labels, batch_size, m):
    """The data and options of each sampler."""
    tree = np.stack([labels, labels % SUPER_CLASSES], 1)
    weights = np.random.default_rng(1).random(len(labels))
    return {
        "m_per_class": (samplers.m_per_class, labels, {"m": m}),
        "hierarchical": (samplers.hierarchical, tree, {"samples_per_class": m}),
        'hierarchical, "all"': (samplers.hierarchical, tree, {"samples_per_class": "all"}),
        "fixed_triplets": (
            samplers.fixed_triplets,
            labels,
            {"num_triplets": len(labels) // 3, "batch_size": batch_size // 3 * 3},
        ),
        "by_weight": (samplers.by_weight, weights, {}),
    }


def measure(name, sampler, data, options, steps, rounds):
    """One row: the seconds of an epoch."""
    one_by_one = lambda: [sampler(data, step=step, **options) for step in range(steps)]
    batches = lambda: list(samplers.Batches(sampler, data, steps=steps, **options))
    times = interleaved({"batches": batches, "one_by_one": one_by_one}, rounds)
    medians = {f"{key}_s": statistics.median(values) for key, values in times.items()}
    return {"sampler": name, "steps": steps, **medians}


def cells(row):
    """A row as text."""
    return {
        "sampler": row["sampler"],
        "steps": str(row["steps"]),
        "Batches, s": f"{row['batches_s']:.3f}",
        "step by step, s": f"{row['one_by_one_s']:.3f}",
    }


def main(argv=None):
    parser = Parser("benchmarks.samplers", description=__doc__.splitlines()[0])
    flag = lambda name, low, default: parser.add_argument(
        name, type=integer(low), default=default, help=f"default: {default}"
    )
    flag("--samples", 1, 100_000)
    flag("--classes", 2 * SUPER_CLASSES, 10_000)
    flag("--batch-size", 4, 128)
    flag("--m", 1, 4)
    flag("--rounds", 1, 5)
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    args = parser.parse_args(argv)
    labels = np.random.default_rng(0).permutation(np.arange(args.samples) % args.classes)
    rows = []
    for name, (sampler, data, own) in contestants(labels, args.batch_size, args.m).items():
        options = {"batch_size": args.batch_size, "seed": 0, **own}
        steps = -(-args.samples // options["batch_size"])
        rows.append(measure(name, sampler, data, options, steps, args.rounds))
    print_table([cells(row) for row in rows])
    if args.out:
        write_json(args.out, environment("numpy"), rows, KEYS)


if __name__ == "__main__":
    main()
