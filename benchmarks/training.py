"""A whole training step on the demo's network, and the time to a given MAP@R, beside PML.

    python -m benchmarks.training
    python -m benchmarks.training --recipes triplet_margin --per-class 8 --out training.json

Both sides have the same network, first weights, batches of digits, loss, miner and optimizer: that
of the demo. MAP@R is that of held-out images of the digits trained on, taken every 10 steps outside
of the time, which is that of the steps alone; ours compiles in it. With ``--out`` rows join those
that the file already has.
"""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks._harness import (
    Parser,
    check_environment,
    compared,
    environment,
    integer,
    integers,
    json_file,
    names,
    print_table,
    write_json,
)
from benchmarks.losses import CASES, TORCH
from metricjax.demo import _data, _train
from metricjax.evaluation import retrieval_metrics

RECIPES = {
    "multi_similarity": "multi_similarity",
    "triplet_margin": "none",
    "ntxent": "none",
    "arcface": "none",
}
"""The loss, and its miner."""
RATE = 3e-4
EVERY = 10
KEYS = ("recipe", "n", "who")


class Ours:
    """The demo's own step."""

    def __init__(self, loss, miner, seed):
        self.learner = _train.Learner(loss, miner, 0, nnx.Rngs(seed))
        self.optimizer = nnx.Optimizer(self.learner, optax.adam(RATE), wrt=nnx.Param)
        self.key = jax.random.key(seed)

    def step(self, images, labels):
        args = self.learner, self.optimizer, images, labels, self.key
        return float(_train.step(*args)[0])

    def embed(self, images):
        return _train.embed(self.learner.network, images)


class PML:
    """The same in PyTorch, with the same first weights."""

    def __init__(self, loss, miner, seed):
        import torch
        from pml_side import make_pml
        from pytorch_metric_learning import miners

        learner = _train.Learner(loss, miner, 0, nnx.Rngs(seed))
        self.network = network(learner.network)
        weights = [learner.loss.weights[...]] if loss in _train.HEADS else []
        self.loss = make_pml(CASES[loss], {}, [np.array(w) for w in weights])
        self.miner = miners.MultiSimilarityMiner() if miner != "none" else None
        parameters = itertools.chain(self.network.parameters(), self.loss.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=RATE)

    def step(self, images, labels):
        import torch

        embeddings = self.network(torch.from_numpy(images))
        labels = torch.from_numpy(labels).long()
        mined = self.miner(embeddings, labels) if self.miner else None
        value = self.loss(embeddings, labels, mined)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return value.item()

    def embed(self, images):
        import torch

        with torch.no_grad():
            return jnp.asarray(self.network(torch.from_numpy(images)).numpy())


def network(theirs):
    """The demo's network as a PyTorch module that takes images in the same layout."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3, padding="same")
            self.conv2 = nn.Conv2d(32, 64, 3, padding="same")
            self.out = nn.Linear(4 * 4 * 64, _train.EMBEDDING_SIZE)

        def forward(self, images):
            x = torch.relu(self.conv1(images.permute(0, 3, 1, 2)))
            x = nn.functional.avg_pool2d(torch.relu(self.conv2(x)), 2)
            return self.out(x.permute(0, 2, 3, 1).flatten(1))

    made = Network()
    with torch.no_grad():
        for name in ("conv1", "conv2", "out"):
            ours, layer = getattr(theirs, name), getattr(made, name)
            kernel = np.array(ours.kernel[...])
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.copy_(torch.from_numpy(kernel.transpose(order).copy()))
            layer.bias.copy_(torch.from_numpy(np.array(ours.bias[...])))
    return made


SIDES = {"ours": Ours, "pml": PML}


def steps_of(loss, batch, names, rounds, seed):
    """A row for each side: a step on one and the same batch."""
    sides = {who: SIDES[who](loss, RECIPES[loss], seed) for who in names}
    first = [side.step(*batch) for side in sides.values()]
    if max(first) - min(first) > 1e-3 * max(first):
        raise SystemExit(f"{loss}: the first losses are {first}.")
    bound = {who: lambda side=side: side.step(*batch) for who, side in sides.items()}
    return compared(bound, rounds)[0]


def to_target(who, loss, digits, held_out, per_class, target, limit, seed):
    """Seconds of training, and steps, until MAP@R is that high."""
    jax.clear_caches()  # so that ours compiles
    side = SIDES[who](loss, RECIPES[loss], seed)
    labels, seconds, score = jnp.asarray(held_out.labels), 0.0, 0.0
    for done, batch in enumerate(_data.batches(digits, per_class, limit, seed), 1):
        start = time.perf_counter()
        side.step(*batch)
        seconds += time.perf_counter() - start
        if done % EVERY == 0:
            scores = retrieval_metrics(side.embed(held_out.images), labels)
            score = float(scores["mean_average_precision_at_r"])
            if score >= target:
                break
    found = {"target": target, "steps": done, "score": score}
    return found | ({"seconds": seconds} if score >= target else {})


def measure(loss, per_class, args):
    """The rows of one recipe and batch."""
    digits, held_out, _ = _data.load(args.seed)
    batch = next(_data.batches(digits, per_class, 1, args.seed))
    sides = ("ours",) if args.no_pml else ("ours", "pml")
    rows = steps_of(loss, batch, sides, args.rounds, args.seed)
    how = (args.target, args.steps, args.seed)
    return [
        {"recipe": loss, "n": len(batch.labels), "who": who}
        | row
        | to_target(who, loss, digits, held_out, per_class, *how)
        for who, row in rows.items()
    ]


def cells(row):
    low, middle, high = row.get("ratio", (0, 0, 0))
    return {
        "recipe": row["recipe"],
        "batch": str(row["n"]),
        "who": row["who"],
        "step, ms": f"{row['ms']:.2f}",
        "to ours": f"{middle:.3g}" if middle else "-",
        "quartiles": f"{low:.3g}-{high:.3g}" if middle else "-",
        "MAP@R": f"{row['score']:.3f}",
        "steps": str(row["steps"]),
        "seconds": f"{row['seconds']:.1f}" if "seconds" in row else "not reached",
    }


def parse(argv):
    parser = Parser("benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=names(RECIPES), default=list(RECIPES))
    parser.add_argument("--per-class", type=integers(2), default=[8, 32], help="of 7; 8,32")
    parser.add_argument("--target", type=float, default=0.9, help="MAP@R; default: 0.9")
    parser.add_argument("--steps", type=integer(1), default=300, help="at most; default: 300")
    parser.add_argument("--no-pml", action="store_true", help="without PyTorch Metric Learning")
    parser.add_argument("--rounds", type=integer(1), default=5, help="default: 5")
    parser.add_argument("--seed", type=integer(0), default=0, help="default: 0")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    about = environment("flax", "optax", *TORCH * (not args.no_pml))
    if args.out:
        check_environment(args.out, about)
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for loss, per_class in itertools.product(args.recipes, args.per_class):
        new = measure(loss, per_class, args)
        rows += new
        if args.out:
            write_json(args.out, about, new, KEYS)
    print_table([cells(row) for row in rows])


if __name__ == "__main__":
    main()
