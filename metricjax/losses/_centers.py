"""Several centers per class: the similarity to the nearest one, or a softmax mean over all."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax.distances import Distance


def nearest(
    distance: Distance, embeddings, weights: Float[Array, "ck d"], centers: int
) -> Float[Array, "n c"]:
    """The largest similarity to the centers of each class; a tie goes to the first center alone."""
    by_class = weights.reshape(-1, centers, weights.shape[1])
    mats = (distance(embeddings, by_class[:, k]) for k in range(centers))
    return functools.reduce(lambda a, b: jnp.where(b <= a, a, b), mats)


def softmax_mean(
    distance: Distance, embeddings, weights: Float[Array, "ck d"], centers: int, gamma
) -> Float[Array, "n c"]:
    """The mean similarity to the centers of each class.

    The weights of the mean are the softmax of the similarities divided by `gamma`.
    """
    by_class = weights.reshape(-1, centers, weights.shape[1])
    mat = distance(embeddings, by_class.swapaxes(0, 1).reshape(weights.shape))
    mats = mat.reshape(len(embeddings), centers, len(by_class))
    return jnp.sum(jax.nn.softmax(mats / gamma, 1) * mats, 1)
