"""The command line: ``python -m metricjax.demo``."""

import argparse
import importlib.util
import tempfile
from pathlib import Path

LOSSES = ("contrastive", "triplet_margin", "multi_similarity", "ntxent", "arcface", "proxy_anchor")
MINERS = ("none", "multi_similarity", "triplet_margin")
PACKAGES = ("flax", "matplotlib", "optax", "sklearn", "tqdm")


def main(argv: list[str] | None = None) -> None:
    """Trains a small network on handwritten digits, prints scores and draws pictures."""
    options = parse(argv)
    from metricjax.demo import _data, _pictures, _table, _train

    seen, held_out, unseen = _data.load(options.seed)
    untrained, trained, losses = _train.train(
        seen, loss=options.loss, miner=options.miner, steps=options.steps, seed=options.seed
    )
    networks = {
        "raw pixels": _data.pixels,
        "untrained network": untrained,
        "trained network": trained,
    }
    sets = {"held-out images of digits 0-6": held_out, "digits 7-9, never trained on": unseen}
    print(_table.table(networks, sets))

    recipe = f"{options.loss} loss, {options.miner} miner, {options.steps} steps"
    digits = _data.join(held_out, unseen)
    for name, figure in {
        "loss.png": _pictures.loss_curve(losses, recipe),
        "map.png": _pictures.maps(untrained(digits.images), trained(digits.images), digits.labels),
        "neighbours.png": _pictures.neighbours(trained(digits.images), digits, options.seed),
    }.items():
        figure.savefig(options.out / name, dpi=150)
        print(f"wrote {options.out / name}")


def parse(argv):
    """The checked options; anything wrong ends the program with one line that says what."""
    parser = argparse.ArgumentParser("python -m metricjax.demo", description=main.__doc__)
    parser.error = lambda message: parser.exit(2, f"metricjax.demo: {message}\n")
    parser.add_argument("--loss", choices=LOSSES, default="multi_similarity")
    parser.add_argument("--miner", choices=MINERS, default="multi_similarity")
    parser.add_argument("--steps", type=_at_least(1), default=400, help="default: 400")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="default: 0")
    parser.add_argument(
        "--out", type=Path, default=Path("metricjax_demo"), help="folder for the pictures"
    )
    options = parser.parse_args(argv)
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        parser.error(f"{', '.join(missing)} not found; run: pip install 'metricjax[demo]'")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except OSError as error:
        parser.error(f"argument --out: cannot write to {options.out}: {error.strerror}")
    return options


def _at_least(low):
    def whole_number(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {low}, got {text!r}"
            )
        return int(text)

    return whole_number


if __name__ == "__main__":
    main()
