"""The same training in metricjax and in PyTorch Metric Learning, on real data.

    pip install '.[reality]'
    python -m benchmarks.data emoji && python -m benchmarks.data emoji-features
    python -m benchmarks.reality --out benchmarks/results/reality-cpu.json
    python -m benchmarks.reality --sets emoji --losses arcface --seeds 1 --steps 20

Both sides get the same network, first weights, batches and Adam, and must agree on the first loss.
Both are evaluated on classes that training did not see, by metricjax. The claim is equivalence: the
interval of the difference of MAP@R lies within one point. Every row is written as soon as it is
there, so a run that was killed resumes. The scores of single queries, from which the intervals
come, are kept in the cache folder of `benchmarks.data`.
"""

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metricjax as mj
from benchmarks._harness import (
    Parser,
    check_environment,
    environment,
    first_call,
    integer,
    json_file,
    names,
    print_table,
    read_rows,
    write_json,
)
from benchmarks.data import _scores, cached, load, save
from metricjax.samplers import m_per_class

NETWORKS = {
    "emoji": ((4, 64), (2, 128), (2, 256), (2, 128)),
    "omniglot": ((4, 64), (2, 128), (2, 256), (2, 128)),
    "emoji-features": ((1, 512), (1, 128)),
}
"""The layers of each set's network, in order: the side of a patch, and the output features."""
PER_CLASS, BATCH = 4, 128
RATE = 1e-3
RESAMPLES = 2000
MARGIN = 0.01
"""Differences of MAP@R up to this are equivalent."""
KEYS = ("set", "loss", "seed", "who")


class Recipe(NamedTuple):
    """A loss by its two names, the options of both, its miner, and PML's name of class weights."""

    ours: str
    theirs: str
    options: dict[str, Any] = {}
    miner: tuple[str, str, dict[str, Any]] | None = None
    class_weights: str | None = None


SEMIHARD = {"margin": 0.2, "type_of_triplets": "semihard"}
RECIPES = {
    "contrastive": Recipe("contrastive", "ContrastiveLoss"),
    "triplet semihard": Recipe(
        "triplet_margin",
        "TripletMarginLoss",
        {"margin": 0.2},
        miner=("triplet_margin", "TripletMarginMiner", SEMIHARD),
    ),
    "ntxent": Recipe("ntxent", "NTXentLoss"),
    "multi_similarity": Recipe(
        "multi_similarity",
        "MultiSimilarityLoss",
        miner=("multi_similarity", "MultiSimilarityMiner", {"epsilon": 0.1}),
    ),
    "arcface": Recipe("arcface", "ArcFaceLoss", class_weights="W"),
    "cosface": Recipe("cosface", "CosFaceLoss", class_weights="W"),
    "proxy_anchor": Recipe("proxy_anchor", "ProxyAnchorLoss", class_weights="proxies"),
    "sup_con": Recipe("sup_con", "SupConLoss"),
}
"""Options that are left out have the same default in both libraries."""


class Task(NamedTuple):
    """What is trained on, and what is searched: samples ``[N, H, W, C]`` and labels ``[N]``."""

    samples: np.ndarray
    labels: np.ndarray
    unseen: np.ndarray
    unseen_labels: np.ndarray


class Scores(NamedTuple):
    """Of each query: ``[2, Q]``, of metricjax and of PML."""

    mean_average_precision_at_r: np.ndarray
    precision_at_1: np.ndarray


def task(name):
    """Loads a set: centered at each pixel, and of variance 1 over the seen classes."""
    pack = load(name)
    seen, labels = pack.part(unseen=False)
    unseen, unseen_labels = pack.part(unseen=True)
    if seen.ndim == 2:  # features are images of one pixel
        seen, unseen = seen[:, None, None], unseen[:, None, None]
    mean = np.mean(seen, 0, dtype=np.float32)
    deviation = np.std(seen - mean, dtype=np.float32)
    scaled = lambda x: (x - mean) / deviation
    _, labels = np.unique(labels, return_inverse=True)  # class weights need 0 to C - 1
    return Task(scaled(seen), labels.astype(np.int32), scaled(unseen), unseen_labels)


def network(layers, x, relu):
    """Embeddings of images ``[N, H, W, C]``; JAX and PyTorch both run this very code.

    Each layer is a convolution whose stride is its size: a matrix product of patches.
    """
    for i, (weights, bias) in enumerate(layers):
        patches = folded(x if i == 0 else relu(x), weights.shape[0])
        x = patches @ weights + bias
    return x.reshape(len(x), -1)


def folded(x, features):
    """Images ``[N, H, W, C]`` as patches with that many numbers each."""
    n, height, width, channels = x.shape
    side = round((features / channels) ** 0.5)
    x = x.reshape(n, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(n, height // side, width // side, features)


def initial(shape, channels, classes, seed):
    """The first weights of the layers and of the classes, ``[C, D]``."""
    rng, layers = np.random.default_rng(seed), []
    draw = lambda rows, columns, deviation: np.float32(rng.normal(0, deviation, (rows, columns)))
    for side, features in shape:
        inputs = side * side * channels
        layers.append((draw(inputs, features, (2 / inputs) ** 0.5), np.zeros(features, np.float32)))
        channels = features
    return layers, draw(classes, channels, channels**-0.5)


def train_ours(recipe, task, first, batches):
    """Trains with metricjax; returns the layers and the first loss."""
    layers, classes = first
    weights = jax.tree.map(jnp.asarray, (layers, [classes] if recipe.class_weights else []))
    loss, optimizer = getattr(mj.losses, recipe.ours), optax.adam(RATE)

    def objective(weights, x, y):
        layers, classes = weights
        embeddings, mined = network(layers, x, jax.nn.relu), None
        if recipe.miner:
            name, _, options = recipe.miner
            mined = getattr(mj.miners, name)(embeddings, y, **options)
        return mj.reduce(loss(embeddings, y, *classes, mined=mined, **recipe.options))[0]

    @jax.jit
    def step(weights, state, x, y):
        value, gradients = jax.value_and_grad(objective)(weights, x, y)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(weights, updates), state, value

    values, state = [], optimizer.init(weights)
    for batch in batches:
        weights, state, value = step(weights, state, task.samples[batch], task.labels[batch])
        values.append(value)
    return jax.tree.map(np.asarray, weights[0]), float(values[0])


def train_theirs(recipe, task, first, batches):
    """The same with PyTorch Metric Learning."""
    import torch
    from pytorch_metric_learning import losses, miners

    layers, classes = first
    layers = [tuple(torch.tensor(x, requires_grad=True) for x in layer) for layer in layers]
    parameters, sizes = [x for layer in layers for x in layer], {}
    if recipe.class_weights:
        sizes = {"num_classes": len(classes), "embedding_size": classes.shape[1]}
    loss = getattr(losses, recipe.theirs)(**sizes, **recipe.options)
    if recipe.class_weights:
        turned = classes.T if recipe.class_weights == "W" else classes
        setattr(loss, recipe.class_weights, torch.nn.Parameter(torch.tensor(turned.copy())))
    miner = getattr(miners, recipe.miner[1])(**recipe.miner[2]) if recipe.miner else None
    optimizer = torch.optim.Adam([*parameters, *loss.parameters()], lr=RATE)
    values = []
    for batch in batches:
        y = torch.from_numpy(task.labels[batch]).long()
        embeddings = network(layers, torch.from_numpy(task.samples[batch]), torch.relu)
        value = loss(embeddings, y, miner(embeddings, y) if miner else None)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.detach())
    return [tuple(x.detach().numpy() for x in layer) for layer in layers], values[0].item()


SIDES = {"ours": train_ours, "pml": train_theirs}


def pair(name, loss, seed, task, steps):
    """Trains both sides once; returns their rows, and the scores of each query."""
    channels, classes = task.samples.shape[-1], task.labels.max() + 1
    first = initial(NETWORKS[name], channels, classes, seed)
    batches = m_per_class(
        task.labels, PER_CLASS, batch_size=BATCH, seed=seed, step=np.arange(steps)
    )
    rows, found = [], []
    for who, train in SIDES.items():
        jax.clear_caches()  # so that ours compiles, and the time says so
        call = first_call(lambda train=train: train(RECIPES[loss], task, first, batches))
        layers, value = call.result
        embeddings = network(layers, jnp.asarray(task.unseen), jax.nn.relu)
        scores = _scores.of_vectors(embeddings, task.unseen_labels)
        found.append({key: np.asarray(x) for key, x in scores.items()})
        means = {key: float(np.mean(x)) for key, x in scores.items()}
        rows.append({"set": name, "loss": loss, "seed": seed, "who": who, "first_loss": value}
                    | means | {"seconds": call.seconds, "peak_mib": call.peak_mib})  # fmt: skip
    check_first([row["first_loss"] for row in rows], f"{name}, {loss}, seed {seed}")
    return rows, Scores(**{key: np.stack([side[key] for side in found]) for key in found[0]})


def check_first(values, where):
    """Ends the program if the two sides did not start from the same loss."""
    ours, theirs = values
    if not abs(ours - theirs) <= 1e-5 * max(1, abs(theirs)):
        raise SystemExit(f"{where}: the first loss is {ours}, but PML's is {theirs}.")


def interval(differences, seed=0):
    """The central 95 % of the mean of ``[S, Q]`` over resampled seeds and resampled queries."""
    rng, (seeds, queries) = np.random.default_rng(seed), differences.shape
    means = []
    for _ in range(RESAMPLES):
        drawn = differences[rng.integers(seeds, size=seeds)]
        means.append(drawn[:, rng.integers(queries, size=queries)].mean())
    return [float(x) for x in np.quantile(means, (0.025, 0.975))]


def difference(name, loss, scores):
    """The row of metricjax minus PML, in MAP@R and P@1, over all seeds."""
    row = {"set": name, "loss": loss, "seed": 0, "seeds": len(scores), "who": "difference"}
    for key in Scores._fields:
        ours, theirs = np.stack([getattr(x, key) for x in scores], 1)
        row[key] = float(np.mean(ours - theirs))
        row[f"{key}_interval"] = interval(ours - theirs)
    low, high = row["mean_average_precision_at_r_interval"]
    return row | {"equivalent": -MARGIN < low and high < MARGIN}


def untrained(name, task):
    """The row of the samples themselves, which every trained one has to beat."""
    scores = _scores.of_vectors(task.unseen, task.unseen_labels)
    means = {key: float(np.mean(x)) for key, x in scores.items()}
    return {"set": name, "loss": "none", "seed": 0, "who": "untrained"} | means


def cells(row):
    """A row as text."""
    low, high = row.get("mean_average_precision_at_r_interval", (None, None))
    return {
        "set": row["set"],
        "loss": row["loss"],
        "seed": str(row.get("seeds", row["seed"])),
        "who": row["who"],
        "P@1": f"{row['precision_at_1']:.4f}",
        "MAP@R": f"{row['mean_average_precision_at_r']:.4f}",
        "95 %": "-" if low is None else f"{low:.4f} to {high:.4f}",
        "seconds": f"{row['seconds']:.1f}" if "seconds" in row else "-",
    }


def parse(argv):
    parser = Parser("benchmarks.reality", description=__doc__.splitlines()[0])
    sets = ["emoji", "emoji-features"]
    parser.add_argument("--sets", type=names(NETWORKS), default=sets, help=f"{','.join(sets)}")
    parser.add_argument("--losses", type=names(RECIPES), default=list(RECIPES), help="all")
    parser.add_argument("--seeds", type=integer(1), default=5, help="how many; default: 5")
    parser.add_argument("--steps", type=integer(1), default=400, help="default: 400")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    about = environment("optax", "torch", "pytorch-metric-learning")
    about |= {"steps": args.steps, "batch": BATCH}
    rows = []
    if args.out:
        check_environment(args.out, about)
        rows = read_rows(args.out)
    jax.config.update("jax_enable_compilation_cache", False)
    for part in "losses", "miners":  # or the first pair would count the imports as PML's time
        importlib.import_module(f"pytorch_metric_learning.{part}")

    def add(*new):
        rows.extend(new)
        print_table([cells(row) for row in new])
        if args.out:
            write_json(args.out, about, list(new), KEYS)

    for name in args.sets:
        data = task(name)
        add(untrained(name, data))
        for loss in args.losses:
            scores = []
            for seed in range(args.seeds):
                kept = f"reality-{name}-{loss}-{seed}-{args.steps}".replace(" ", "-")
                key = (name, loss, seed, "ours")
                done = any(tuple(row[k] for k in KEYS) == key for row in rows)
                if not (done and cached(kept).exists()):
                    new, found = pair(name, loss, seed, data, args.steps)
                    save(kept, found)
                    add(*new)
                scores.append(load(kept, Scores))
            add(difference(name, loss, scores))


if __name__ == "__main__":
    main()
