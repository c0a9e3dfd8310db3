"""A small network, a loss that may own class weights, and the loop that trains both."""

import functools
from collections.abc import Callable

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
    """All that is trained together: the network, and the loss's class weights if it has any."""

    def __init__(self, loss: str, miner: str, rngs: nnx.Rngs):
        self.network = Network(rngs)
        if loss in HEADS:
            self.loss = HEADS[loss](NUM_SEEN, EMBEDDING_SIZE, rngs=rngs)
        else:
            self.loss = getattr(mj.losses, loss)
        self.miner = None if miner == "none" else getattr(mj.miners, miner)

    def __call__(self, images: Float[Array, "n 8 8 1"], labels: Int[Array, " n"]):
        return mj.objective(self.loss, miner=self.miner)(self.network(images), labels)


@nnx.jit
def step(learner, optimizer, images, labels):
    objective = lambda learner: learner(images, labels)
    (loss, _), grads = nnx.value_and_grad(objective, has_aux=True)(learner)
    optimizer.update(learner, grads)
    return loss


@nnx.jit
def embed(network, images):
    return network(images)


def train(
    digits: Digits, *, loss: str, miner: str, steps: int, seed: int
) -> tuple[Callable, Callable, list[float]]:
    """The network before and after training, as functions of images, and the loss of each step."""
    learner = Learner(loss, miner, nnx.Rngs(seed))
    untrained = nnx.clone(learner.network)
    optimizer = nnx.Optimizer(learner, optax.adam(3e-4), wrt=nnx.Param)
    losses = []
    bar = tqdm(batches(digits, 8, steps, seed), "training", steps)
    for images, labels in bar:
        losses.append(float(step(learner, optimizer, images, labels)))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return functools.partial(embed, untrained), functools.partial(embed, learner.network), losses
