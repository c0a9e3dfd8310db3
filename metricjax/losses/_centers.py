"""Several centers a class: the similarity to the nearest, or to all of them by softmax.

Centers are visited one of every class at a time, in both passes, so that nothing is ``[N, C * K]``.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._masked import upcast
from metricjax._stream import zeros_like
from metricjax.distances import Distance


def nearest(
    distance: Distance, embeddings, weights: Float[Array, "ck d"], centers: int
) -> Float[Array, "n c"]:
    """The largest similarity to the centers of each class; at a tie the first alone has it."""
    return _nearest(distance, embeddings, _by_class(weights, centers))


def softmax_mean(
    distance: Distance, embeddings, weights: Float[Array, "ck d"], centers: int, gamma
) -> Float[Array, "n c"]:
    """The mean similarity to the centers of each class, weighed by their softmax over `gamma`."""
    gamma = jnp.asarray(gamma, upcast(embeddings).dtype)
    return _softmax_mean(distance, embeddings, _by_class(weights, centers), gamma)


def _by_class(weights, centers):
    return weights.reshape(-1, centers, weights.shape[1])


def _of_each_class(centers, k):
    return jax.lax.dynamic_index_in_dim(centers, k, 1, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nearest(distance, embeddings, centers):
    return _nearest_forward(distance, embeddings, centers)[0]


def _nearest_forward(distance, embeddings, centers):
    def step(k, carry):
        top, which = carry
        mat = distance(embeddings, _of_each_class(centers, k))
        out = mat <= top
        return jnp.where(out, top, mat), jnp.where(out, which, k)

    first = distance(embeddings, centers[:, 0])
    start = first, zeros_like(jax.typeof(first)).astype(jnp.int32)
    top, which = jax.lax.fori_loop(1, centers.shape[1], step, start)
    return top, (embeddings, centers, which)


def _nearest_backward(distance, residuals, cotangent):
    embeddings, centers, which = residuals

    def of_center(k, center):
        pull = jax.vjp(distance, embeddings, center)[1]
        return pull(jnp.where(which == k, cotangent, 0))

    return _over_centers(of_center, embeddings, centers)


_nearest.defvjp(_nearest_forward, _nearest_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax_mean(distance, embeddings, centers, gamma):
    return _mean_forward(distance, embeddings, centers, gamma)[0]


def _mean_forward(distance, embeddings, centers, gamma):
    def step(k, carry):
        top, total, weighted = carry
        mat = distance(embeddings, _of_each_class(centers, k))
        higher = jnp.maximum(top, mat)
        before, now = jnp.exp((top - higher) / gamma), jnp.exp((mat - higher) / gamma)
        return higher, total * before + now, weighted * before + now * mat

    first = distance(embeddings, centers[:, 0])
    start = first, jnp.ones_like(first), first
    top, total, weighted = jax.lax.fori_loop(1, centers.shape[1], step, start)
    mean = weighted / total
    return mean, (embeddings, centers, gamma, mean, top / gamma + jnp.log(total))


def _mean_backward(distance, residuals, cotangent):
    embeddings, centers, gamma, mean, logsum = residuals

    def part(embeddings, center, gamma):  # the derivative of their sum is that of the mean
        mat = distance(embeddings, center)
        return jnp.exp(jnp.minimum(mat / gamma - logsum, 0)) * (mat - mean)

    def of_center(k, center):
        to_embeddings, to_center, to_gamma = jax.vjp(part, embeddings, center, gamma)[1](cotangent)
        return (to_embeddings, to_gamma), to_center

    (to_embeddings, to_gamma), to_centers = _over_centers(of_center, (embeddings, gamma), centers)
    return to_embeddings, to_centers, to_gamma


_softmax_mean.defvjp(_mean_forward, _mean_backward)


def _over_centers(of_center, summed, centers):
    """Gradients: those of `summed` add up over the k-th centers, each center gets its own."""

    def step(k, carry):
        parts, own = of_center(k, _of_each_class(centers, k))
        to_centers = jax.lax.dynamic_update_index_in_dim(carry[1], own, k, 1)
        return jax.tree.map(jnp.add, carry[0], parts), to_centers

    start = jax.tree.map(lambda x: zeros_like(jax.typeof(x)), (summed, centers))
    return jax.lax.fori_loop(0, centers.shape[1], step, start)
