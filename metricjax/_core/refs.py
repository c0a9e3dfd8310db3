"""References: the other side of every pair."""

import contextlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import as_indices, as_labels, check_embeddings, check_weights
from metricjax._core.jax_internals import varying
from metricjax._core.linear import vary_along
from metricjax._core.masked import upcast
from metricjax._core.types import AxisName, Labels, Pairs, Refs


def replicated(x):
    """Copies `x` to every device of its mesh, if `x` is explicitly sharded.

    An explicitly sharded batch cannot be compared with itself. A replicated copy can.
    """

    leaves, tree = jax.tree.flatten(x)
    shardings = [jax.typeof(x).sharding for x in leaves]
    return tree.unflatten(
        jax.sharding.reshard(x, s.update(spec=jax.P())) if any(s.spec) else x
        for x, s in zip(leaves, shardings, strict=True)
    )


def take(x: Array, index: Array) -> Array:
    """Returns ``x[index]`` for an `x` that is not sharded. The result is sharded like `index`."""
    return spread_as(x[replicated(index)], index)


def spread_as(x: Array, like: Array) -> Array:
    """Shards the first axis of `x` like that of `like`, if `like` is explicitly sharded."""
    sharding = jax.typeof(like).sharding
    if not any(sharding.spec):
        return x
    spec = jax.P(sharding.spec[0], *[None] * (x.ndim - 1))
    return jax.sharding.reshard(x, sharding.update(spec=spec))


def reshape_rows(x: Array, axes: int, *shape: int) -> Array:
    """Reshapes the first `axes` axes of `x`. The first axis keeps its explicit sharding."""
    sharding, shape = jax.typeof(x).sharding, shape + x.shape[axes:]
    if not any(sharding.spec):
        return x.reshape(shape)
    spec = sharding.spec[0], *[None] * (len(shape) - x.ndim + axes - 1), *sharding.spec[axes:]
    return x.reshape(shape, out_sharding=sharding.update(spec=jax.P(*spec)))


def on_mesh_of(tree):
    """Returns a context with the mesh that arrays of a pytree are explicitly sharded over.

    Since JAX 0.12, gradients of gathers start from zeros on the mesh of the context. Without a
    mesh, optax's cross entropy of a sharded batch has no gradient.
    """
    shardings = [jax.typeof(x).sharding for x in jax.tree.leaves(tree)]
    meshes = [s.mesh for s in shardings if any(s.spec)]
    if not meshes or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(meshes[0])


def self_refs(embeddings, labels, where=None) -> Refs:
    """Returns the batch itself as references. Row i is anchor i."""
    return replicated(Refs(embeddings, labels, jnp.arange(len(embeddings)), where))


def gather_refs(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    axis_name: AxisName,
    *,
    where: Num[Array, " n"] | None = None,
) -> Refs:
    """Gathers the batches of all devices along a `jax.shard_map` or `pmap` axis, as references.

    Gradients flow back to the device that an embedding came from. With ``reduce(axis_name=...)``
    the loss and its gradient are those of the whole batch on one device. A loss that has an
    argument `axis_name` first sums over all anchors, and needs `axis_name` as well.

    Args:
        embeddings: ``[N, D]``, this device's part of the batch.
        labels: ``[N]``, the labels of this part.
        axis_name: the mapped axis to gather over.
        where: ``[N]`` weights, which are also gathered.

    Returns:
        `Refs` with ``M = N * axis size`` rows, in the order of the axis.
    """
    own = vary_along((embeddings, labels, where), axis_name)
    rows = jax.lax.all_gather(own, axis_name, tiled=True)
    return Refs(rows[0], rows[1], numbered(len(embeddings), axis_name), rows[2])


def gather_same(tree, axis_name: AxisName):
    """Gathers the rows of all devices, for a computation that every device repeats.

    Under `jax.shard_map`, types can say that the rows are the same on all devices. Then the
    gradient of a row is not summed over devices, because each device has computed all of it.
    """
    # only under `jax.shard_map` do types say that the rows are the same, and `vmap` refuses `to`
    typed = varying(jax.typeof(jax.lax.axis_index(axis_name)))
    how = {"to": "invarying"} if typed else {}
    return jax.lax.all_gather(vary_along(tree, axis_name), axis_name, tiled=True, **how)


def axis_names(axis_name: AxisName | None) -> tuple[str, ...]:
    """Returns the names of the axes that are taken as one axis."""
    if axis_name is None:
        return ()
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def numbered(n: int, axis_name: AxisName) -> Int[Array, " n"]:
    """Returns the numbers of this device's n rows among the rows of all devices along an axis."""
    rows = jnp.arange(n)
    return rows + n * jax.lax.axis_index(axis_name).astype(rows.dtype)


def whole_batch(tree, axis_name: AxisName | None):
    """Gathers the rows of all devices along `axis_name`.

    Also returns the numbers of this device's rows among them.
    """
    n = len(jax.tree.leaves(tree)[0])
    if axis_name is None:
        return replicated(tree), jnp.arange(n)
    rows = jax.lax.all_gather(vary_along(tree, axis_name), axis_name, tiled=True)
    return rows, numbered(n, axis_name)


class Batch(NamedTuple):
    """A checked batch: anchors, references, and a weight for each anchor and each reference.

    Embeddings of weight 0 are set to zero, so that padding rows have no effect, even if they hold
    NaN.
    """

    embeddings: Float[Array, "n d"]
    labels: Labels
    weights: Float[Array, " n"]
    refs: Refs

    @property
    def ref_weights(self) -> Float[Array, " m"]:
        """Returns ``refs.where``, which `prepare` has filled in."""
        assert self.refs.where is not None
        return self.refs.where


def admit(function, embeddings, labels, refs=None, where=None, labels_name="labels"):
    """Checks the embeddings, labels and references that were passed to the public `function`.

    Returns them. Lists and NumPy arrays become JAX arrays.
    """
    embeddings = jnp.asarray(embeddings)
    check_embeddings(function, "embeddings", embeddings)
    n = embeddings.shape[0]  # `len` does not support the symbolic sizes of `jax.export`
    ready = isinstance(labels, jax.Array) and labels.dtype == jnp.result_type(int)
    if not ready or labels.shape != (n,):
        labels = as_labels(function, labels_name, labels, "embeddings", n)
    if where is not None:
        check_weights(function, "where", where, "embeddings", n)
    if refs is None:
        return embeddings, labels, None
    if not isinstance(refs, Refs):
        raise TypeError(f"{function}: `refs` must be `metricjax.Refs`, got {type(refs).__name__}.")
    others = jnp.asarray(refs.embeddings)
    check_embeddings(function, "refs.embeddings", others)
    m = others.shape[0]
    if others.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"{function}: `refs.embeddings` must have {embeddings.shape[1]} features to match "
            f"`embeddings`, got {others.shape}."
        )
    ref_labels = as_labels(function, "refs.labels", refs.labels, "refs.embeddings", m)
    own = refs.self_index
    own = None if own is None else as_indices(function, "refs.self_index", own, "embeddings", n)
    check_weights(function, "refs.where", refs.where, "refs.embeddings", m)
    return embeddings, labels, Refs(others, ref_labels, own, refs.where)


def somebody(refs, mined, n):
    """Replaces empty references by one row of weight 0, because a gather needs a row to take."""
    one = lambda x: jnp.zeros_like(x, shape=(1, *jnp.shape(x)[1:]))
    rows = jax.tree.map(lambda x: one(jnp.asarray(x)), (refs.embeddings, refs.labels))
    mined = None if mined is None else Pairs(jnp.zeros((n, 1)), jnp.zeros((n, 1)))
    return Refs(*rows, refs.self_index, jnp.zeros(1)), mined


def check_not_gathered(function, embeddings, refs):
    """Raises if references were gathered, but `axis_name` is missing.

    The sums over anchors would then be those of one device, with references of all devices. Under
    `jax.shard_map`, the type of the embeddings says along which axes devices differ.
    """
    axes = varying(jax.typeof(embeddings))
    devices = math.prod(map(jax.lax.axis_size, axes))
    if devices > 1 and refs.embeddings.shape[0] == devices * embeddings.shape[0]:
        raise ValueError(
            f"{function}: `axis_name` must be given with references that were gathered over "
            f"{', '.join(sorted(axes))}: the loss sums over all anchors first. Give the axis, or "
            f"use `metricjax.objective(axis_name=...)`."
        )


def check_same(function, embeddings, class_axis):
    """Raises if devices that split the classes among themselves have different samples.

    Softmax sums would then mix the samples. Under `jax.shard_map`, the type of the embeddings says
    along which axes devices differ.
    """
    if axes := varying(jax.typeof(embeddings)) & {*axis_names(class_axis)}:
        raise ValueError(
            f"{function}: `embeddings` must be the same on all devices of `class_axis`, got some "
            f"that vary over {', '.join(sorted(axes))}. Use `metricjax.objective(class_axis=...)` "
            f"with the batch's `axis_name`, or gather batch and labels before by "
            f"`jax.lax.all_gather(..., tiled=True, to='invarying')`."
        )


def prepare(embeddings, labels, refs=None, where=None) -> Batch:
    """Fills in the defaults of what `admit` returned, and sets padding rows to 0."""
    weights = jnp.ones(embeddings.shape[0], upcast(embeddings[:0]).dtype)
    if where is not None:
        weights, embeddings = weighed(where, embeddings)
    if refs is None:
        refs = replicated(Refs(embeddings, labels, jnp.arange(embeddings.shape[0]), weights))
    else:
        others, ref_labels, _, there = replicated(refs._replace(self_index=None))
        ref_weights = jnp.ones(others.shape[0], upcast(others[:0]).dtype)
        if there is not None:
            ref_weights, others = weighed(there, others)
        refs = Refs(others, ref_labels, refs.self_index, ref_weights)
    return Batch(embeddings, labels, weights, refs)


def weighed(where, embeddings):
    """Returns `where` as float weights, and the embeddings with rows of weight 0 set to 0."""
    weights = jnp.asarray(where).astype(upcast(embeddings[:0]).dtype)
    return weights, jnp.where(weights[:, None] > 0, embeddings, 0)
