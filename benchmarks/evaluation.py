"""Exact search of a data set for its own neighbours, and every metric, beside Faiss and PML.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --rows 10000 --out evaluation.json

Each contestant runs in a process of its own, all cores to itself. Seconds are of the first call:
ours compiles in them. Peak memory is that of the process, the data and the libraries included.
"""

import json
import resource
import time

import numpy as np

from benchmarks._harness import (
    Parser,
    check_environment,
    environment,
    in_own_process,
    integer,
    json_file,
    names,
    print_table,
    write_json,
)

PER_CLASS = 100
KEYS = ("contestant", "rows", "features", "k")


def data(rows, features):
    """Overlapping classes of 100, normalized."""
    rng = np.random.default_rng(0)
    labels = np.arange(rows) // PER_CLASS
    x = rng.normal(size=(labels[-1] + 1, features))[labels] + 3 * rng.normal(size=(rows, features))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x, labels


def ours(distance):
    def prepare(x, labels, k):
        import jax

        from metricjax import distances
        from metricjax.evaluation import knn

        how = getattr(distances, distance)(normalize_embeddings=False)
        own = np.arange(len(x))
        return lambda: jax.block_until_ready(knn(x, x, k, distance=how, self_index=own))

    return prepare


def faiss(index):
    def prepare(x, labels, k):
        import faiss

        def run():
            flat = getattr(faiss, index)(x.shape[1])
            flat.add(x)
            return flat.search(x, k + 1)

        return run

    return prepare


def our_metrics(exclude):
    def prepare(x, labels, k):
        from metricjax.distances import LpDistance
        from metricjax.evaluation import AccuracyCalculator

        plain = LpDistance(normalize_embeddings=False)  # as PML
        calculator = AccuracyCalculator(exclude=exclude, k=k, distance=plain)
        return lambda: calculator.get_accuracy(x, labels)

    return prepare


def pml_metrics(exclude):
    def prepare(x, labels, k):
        import torch
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        device = torch.device("cpu")
        calculator = AccuracyCalculator(exclude=exclude, k=k, device=device)
        return lambda: calculator.get_accuracy(x, labels)

    return prepare


CLUSTERING = ("AMI", "NMI")
CONTESTANTS = {
    "search-dot-metricjax": ours("DotProductSimilarity"),
    "search-dot-faiss": faiss("IndexFlatIP"),
    "search-l2-metricjax": ours("LpDistance"),
    "search-l2-faiss": faiss("IndexFlatL2"),
    "search+metrics-metricjax": our_metrics(CLUSTERING),
    "search+metrics-pml": pml_metrics(CLUSTERING),
    "search+metrics+clusters-metricjax": our_metrics(()),
    "search+metrics+clusters-pml": pml_metrics(()),
}


def measure(name, rows, features, k):
    """One contestant, in this process."""
    run = CONTESTANTS[name](*data(rows, features), k)
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"contestant": name, "rows": rows, "features": features, "k": k}
    scores = {"scores": dict(result)} if isinstance(result, dict) else {}
    return row | {"seconds": seconds, "peak_gib": peak} | scores


def alone(name, args):
    """One contestant, in its own process."""
    flags = ("--rows", args.rows, "--features", args.features, "--k", args.k, "--only", name)
    return in_own_process("evaluation", *flags)


def cells(row):
    """A row as text."""
    return {
        "contestant": row["contestant"],
        "seconds": f"{row['seconds']:.1f}",
        "peak GiB": f"{row['peak_gib']:.2f}",
    }


def main(argv=None):
    parser = Parser("benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=integer(200), default=60000, help="default: 60000")
    parser.add_argument("--features", type=integer(1), default=512, help="default: 512")
    parser.add_argument("--k", type=integer(1), default=100, help="default: 100")
    parser.add_argument("--contestants", type=names(CONTESTANTS), help="default: all of them")
    parser.add_argument("--only", choices=CONTESTANTS, help="one, in this process, as JSON")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    args = parser.parse_args(argv)
    if args.only:
        print(json.dumps(measure(args.only, args.rows, args.features, args.k)))
        return
    packages = ("faiss-cpu", "pytorch-metric-learning", "torch", "scikit-learn")
    about = environment(*packages)
    if args.out:
        check_environment(args.out, about)
    rows = [alone(name, args) for name in args.contestants or CONTESTANTS]
    print_table([cells(row) for row in rows])
    if args.out:
        write_json(args.out, about, rows, KEYS)


if __name__ == "__main__":
    main()
