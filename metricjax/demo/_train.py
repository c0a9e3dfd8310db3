"""A small network, a loss that may own class weights, and the loop that trains both."""

import functools
import inspect
from collections.abc import Callable

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from tqdm import tqdm

import metricjax as mj
from metricjax.demo._data import NUM_SEEN, Digits, batches

EMBEDDING_SIZE = 128
HEADS = {"arcface": mj.nn.ArcFace, "proxy_anchor": mj.nn.ProxyAnchor}


class Network(nnx.Module):
    """Two convolutions and a linear map: images to embeddings."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.out = nnx.Linear(4 * 4 * 64, EMBEDDING_SIZE, rngs=rngs)

    def __call__(self, images: Float[Array, "n 8 8 1"]) -> Float[Array, "n d"]:
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = nnx.avg_pool(x, (2, 2), (2, 2))
        return self.out(x.reshape(len(x), -1))


class Learner(nnx.Module):
    """Holds all that is trained together: the network, and the class weights of the loss, if any.

    If `memory` > 0, the batch is also compared with that many past embeddings.
    """

    def __init__(self, loss: str, miner: str, memory: int, rngs: nnx.Rngs):
        self.network = Network(rngs)
        if loss in HEADS:
            self.loss = HEADS[loss](NUM_SEEN, EMBEDDING_SIZE, rngs=rngs)
        else:
            self.loss = getattr(mj.losses, loss)
        self.miner = None if miner == "none" else getattr(mj.miners, miner)
        bank = mj.memory.MemoryBank.create(max(memory, 1), EMBEDDING_SIZE)
        self.bank = nnx.Variable(bank) if memory else None

    def __call__(self, images: Float[Array, "n 8 8 1"], labels: Int[Array, " n"], key):
        """Returns the loss, and statistics of the loss and the miner for this batch."""
        embeddings = self.network(images)
        data = {}
        if self.bank is not None:
            bank = self.bank.get_value()
            data["refs"] = bank.refs(embeddings, labels)
            self.bank.set_value(bank.enqueue(embeddings, labels))
        mined = None
        if self.miner is not None:
            random = {"key": key} if "key" in inspect.signature(self.miner).parameters else {}
            mined = data["mined"] = self.miner(embeddings, labels, **data, **random)
        terms = self.loss(embeddings, labels, **data)
        return mj.reduce(terms)[0], mj.statistics(terms, mined)


@nnx.jit
def step(learner, optimizer, images, labels, key):
    objective = lambda learner: learner(images, labels, key)
    (loss, statistics), grads = nnx.value_and_grad(objective, has_aux=True)(learner)
    optimizer.update(learner, grads)
    return loss, statistics


@nnx.jit
def embed(network, images):
    return network(images)


def train(
    digits: Digits, *, loss: str, miner: str, steps: int, seed: int, memory: int = 0
) -> tuple[Callable, Callable, list[float]]:
    """Returns the network before and after training, as functions, and the loss of each step."""
    learner = Learner(loss, miner, memory, nnx.Rngs(seed))
    untrained = nnx.clone(learner.network)
    optimizer = nnx.Optimizer(learner, optax.adam(3e-4), wrt=nnx.Param)
    losses = []
    bar = tqdm(batches(digits, 8, steps, seed), "training", steps)
    for i, (images, labels) in enumerate(bar):
        key = jax.random.fold_in(jax.random.key(seed), i)
        loss_now, statistics = step(learner, optimizer, images, labels, key)
        losses.append(float(loss_now))
        shown = {name: f"{x:.3g}" for name, x in statistics.items() if not name.endswith("_count")}
        bar.set_postfix({"loss": f"{losses[-1]:.3f}"} | shown, refresh=False)
    return functools.partial(embed, untrained), functools.partial(embed, learner.network), losses
