"""Linen: a classifier is fine-tuned for search, by a loss that comes through the bridge.

    python -m examples.linen

A Flax Linen network was trained to classify 70 numbers of two handwritten digits. Now it should
find images of 30 other numbers. Its last layer is taken off, and the rest is fine-tuned by the loss
ProxyAnchor: `metricjax.nn.ProxyAnchor` owns a proxy of each class, and `nnx.bridge.to_linen` makes
a Linen module of it, whose proxies are parameters like any other. To see what the loss is worth,
the classifier is also trained on as it was, for as many steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import metricjax as mj
from examples import _shared

CLASSES, FEATURES = 70, 64


class Features(linen.Module):
    @linen.compact
    def __call__(self, images):
        x = linen.relu(linen.Conv(16, (3, 3))(images))
        x = linen.avg_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Conv(32, (3, 3))(x))
        return linen.Dense(FEATURES)(x.reshape(len(x), -1))


features, last_layer = Features(), linen.Dense(CLASSES)
proxy_anchor = nnx.bridge.to_linen(mj.nn.ProxyAnchor, CLASSES, FEATURES)


def cross_entropy(params, images, labels):
    """What the classifier is trained by."""
    x = linen.relu(features.apply({"params": params["features"]}, images))
    logits = last_layer.apply({"params": params["last"]}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def metric(params, images, labels):
    """What it is fine-tuned by: the bridged module gives terms, as all losses do."""
    x = features.apply({"params": params["features"]}, images)
    return mj.reduce(proxy_anchor.apply({"params": params["proxies"]}, x, labels))[0]


def train(loss, params, steps, seed):
    """A training as of any Linen network. Proxies have a learning rate of their own."""
    images, labels = _shared.load_numbers()[0]
    labels = np.unique(labels, return_inverse=True)[1]  # 0 to 69
    rates = {"features": 1e-3, "last": 1e-3, "proxies": 1e-2}
    optimizer = optax.partition(
        {part: optax.adam(rate) for part, rate in rates.items()}, {part: part for part in params}
    )

    @jax.jit
    def step(params, state, images, labels):
        grads = jax.grad(loss)(params, images, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rng, state = np.random.default_rng(seed), optimizer.init(params)
    for _ in range(steps):
        rows = rng.choice(len(images), 96, replace=False)
        params, state = step(params, state, images[rows], labels[rows])
    return params


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=300, argv=argv)
    images, labels = _shared.load_numbers()[1]  # numbers that are never trained on

    keys, some = jax.random.split(jax.random.key(0), 3), jnp.zeros((2, FEATURES))
    start = {
        "features": features.init(keys[0], images[:1])["params"],
        "last": last_layer.init(keys[1], some)["params"],
    }
    classifier = train(cross_entropy, start, 150, seed=0)
    proxies = proxy_anchor.init(keys[2], some, jnp.arange(2))["params"]
    ready = {"features": classifier["features"], "proxies": proxies}
    fine_tuned = train(metric, ready, options.steps, seed=1)
    trained_on = train(cross_entropy, classifier, options.steps, seed=1)

    embed = jax.jit(lambda params: features.apply({"params": params["features"]}, images))
    found = {
        "pixels": images.reshape(len(images), -1),
        "classifier": embed(classifier),
        "classifier, trained on": embed(trained_on),
        "fine-tuned": embed(fine_tuned),
    }
    figures = {name: _shared.map_at_r(x, labels) for name, x in found.items()}
    shown = np.isin(labels, np.unique(labels)[::4])  # 8 of the 30 numbers
    picture = mj.pictures.embedding_map(
        {f"{name}: MAP@R {figures[name]:.2f}": found[name][shown] for name in list(found)[2:]},
        labels[shown],
        title="Eight of the numbers that were never trained on",
    )
    return _shared.finish("MAP@R on 30 unseen numbers", figures, picture, options.out / "linen.png")


if __name__ == "__main__":
    main()
