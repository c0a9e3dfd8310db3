"""The command line: ``python -m metricjax.demo``."""

import argparse
import functools
import tempfile
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp

from metricjax import miners
from metricjax.evaluation import retrieval_metrics

LOSSES = ("contrastive", "triplet_margin", "multi_similarity", "ntxent", "arcface", "proxy_anchor")
CLASSIFICATION = ("arcface", "proxy_anchor")
MINERS = ("none", *sorted(name for name in vars(miners) if not name.startswith("_")))
COLUMNS = ("precision@1", "R-precision", "MAP@R")
METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "tqdm": "tqdm"}


def main(argv: list[str] | None = None) -> None:
    """Trains a small network on handwritten digits, prints scores and draws pictures."""
    options = parse(argv)
    from metricjax.demo import _data, _pictures, _train

    seen, held_out, unseen = _data.load(options.seed)
    recipe = {name: getattr(options, name) for name in ("loss", "miner", "memory", "steps", "seed")}
    before, after, losses = _train.train(seen, **recipe)
    networks = {"raw pixels": _data.pixels, "untrained network": before, "trained network": after}
    sets = {"held-out images of digits 0-6": held_out, "digits 7-9, never trained on": unseen}
    print(table(networks, sets))

    title = f"{options.loss} loss, {options.miner} miner, {options.steps} steps"
    digits = _data.join(held_out, unseen)
    embeddings = after(digits.images)
    for name, figure in {
        "loss.png": _pictures.loss_curve(losses, title),
        "map.png": _pictures.maps(before(digits.images), embeddings, digits.labels),
        **_pictures.neighbors(embeddings, digits, options.seed),
        **_pictures.thresholds(embeddings, digits.labels),
    }.items():
        figure.savefig(options.out / name, dpi=150)
        print(f"wrote {options.out / name}")
    print(f"wrote {_pictures.report(options.out, embeddings, digits)}")


def table(networks, sets):
    """Formats a table: a line for each network, and a column for each metric of each image set."""
    row = lambda name, cells, width: name.ljust(17) + "".join(cell.rjust(width) for cell in cells)
    lines = [row("", sets, 3 * 13), row("", COLUMNS * len(sets), 13)]
    for name, network in networks.items():
        scores = [retrieval_metrics(network(x), jnp.asarray(y)) for x, y in sets.values()]
        lines.append(row(name, [f"{s[m]:.3f}" for s in scores for m in METRICS], 13))
    return "\n".join(lines)


def parse(argv):
    """Parses and checks the options; an error ends the program with a one-line message."""
    parser = argparse.ArgumentParser("python -m metricjax.demo", description=main.__doc__)
    parser.error = lambda message: parser.exit(2, f"metricjax.demo: {message}\n")
    add = functools.partial(parser.add_argument, help="default: %(default)s")
    add("--loss", choices=LOSSES, default="multi_similarity")
    add("--miner", choices=MINERS, default="multi_similarity")
    what = "how many past embeddings to compare with, besides the batch; default: %(default)s"
    add("--memory", type=_whole_number(0, 10**6), default=0, metavar="SIZE", help=what)
    add("--steps", type=_whole_number(1, 10**6), default=500)
    add("--seed", type=_whole_number(0, 2**31 - 1), default=0)
    add("--out", type=Path, default=Path("metricjax_demo"), metavar="FOLDER")
    options = parser.parse_args(argv)
    if options.memory and options.loss in CLASSIFICATION:
        parser.error(f"argument --memory: the {options.loss} loss compares with no other samples")
    if missing := [name for module, name in PACKAGES.items() if find_spec(module) is None]:
        parser.error(f"{', '.join(missing)} not found; run: pip install 'metricjax[demo]'")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except OSError as error:
        parser.error(f"argument --out: cannot write to {options.out}: {error.strerror}")
    return options


def _whole_number(low, high):
    def convert(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return convert


if __name__ == "__main__":
    main()
