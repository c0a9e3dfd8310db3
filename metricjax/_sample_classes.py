"""Partial FC: a softmax over the classes of the batch and a sample of all other classes."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num, PRNGKeyArray

from metricjax._core.check import as_labels, check_weights
from metricjax._core.refs import replicated, take
from metricjax._core.types import AxisName


class SampledClasses(NamedTuple):
    """A sample of the classes.

    Attributes:
        ids: ``[S]``, different rows of the class weights, in order.
        labels: ``[N]``, the labels as places in `ids`, or with a `class_axis` in the joined `ids`
            of all its devices; -1 for a class that was not sampled.
    """

    ids: Int[Array, " s"]
    labels: Int[Array, " n"]


def sample_classes(
    key: PRNGKeyArray,
    labels: Int[Array, " n"],
    num_classes: int,
    sample_rate: float,
    *,
    where: Num[Array, " n"] | None = None,
    class_axis: AxisName | None = None,
) -> SampledClasses:
    """Samples classes: all classes of the batch, and a uniform random sample of the others.

    A loss with the sampled rows of the class weights takes time and memory in proportion to
    `sample_rate`, and its gradient reaches no other rows. Such a loss is an estimate. It is too
    low, because it sums over fewer classes. In the paper, a tenth of a million classes is as good
    as all of them.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.array([7, 2, 7]), jnp.ones((10, 3))
        >>> some = mj.sample_classes(jax.random.key(0), y, num_classes=10, sample_rate=0.4)
        >>> terms = mj.losses.arcface(x, some.labels, w[some.ids])
        >>> print(some.ids[some.labels])
        [7 2 7]

    Args:
        key: a `jax.random.key`, a different one for each step.
        labels: ``[N]`` integers.
        num_classes: the number of classes; with a `class_axis`, the number on each device.
        sample_rate: the share of the classes (of each device) to take, above 0 and up to 1; static.
            This gives ``S = ceil(sample_rate * num_classes)`` classes. If the batch has more
            classes than S, some of them are left out, and a loss gives their samples weight 0.
        where: ``[N]`` sample weights. Classes whose samples all have weight 0 may be left out.
        class_axis: the `jax.shard_map` axis over which the rows of the class weights are spread, as
            in the losses. `labels` and `key` must be the same on all its devices. `ids` are rows of
            this device's weights.

    Returns:
        `SampledClasses`, for ``loss(embeddings, labels, weights[ids])``.

    References:
        An et al., `Killing Two Birds with One Stone: Efficient and Robust Training of Face
        Recognition CNNs by Partial FC <https://arxiv.org/abs/2203.15565>`_, 2022.
    """
    name = "sample_classes"
    labels = as_labels(name, "labels", labels, "labels", None, class_ids=True)
    check_weights(name, "where", where, "labels", len(labels))
    if not 0 < sample_rate <= 1:
        raise ValueError(f"{name}: `sample_rate` must be above 0 and up to 1, got {sample_rate}.")
    size = max(1, math.ceil(sample_rate * num_classes - 1e-6))  # in floats, 0.1 * 30 > 3
    device = jnp.int32(0) if class_axis is None else jax.lax.axis_index(class_axis)
    label = labels - (device * num_classes).astype(labels.dtype)
    here = (label >= 0) & (label < num_classes)
    label = jnp.where(here, label, 0).astype(jnp.int32)
    counts = here if where is None else here & (jnp.asarray(where) > 0)
    taken = replicated(jnp.where(counts, label, num_classes))
    score = jax.random.uniform(jax.random.fold_in(key, device), (num_classes,))
    score = score.at[taken].set(1, mode="drop")  # above all random scores
    ids = jnp.sort(jax.lax.top_k(score, size)[1])
    places = jnp.full(num_classes, -1, jnp.int32).at[ids].set(jnp.arange(size, dtype=jnp.int32))
    place = jnp.where(here, take(places, label), -1)
    if class_axis is not None:  # at most one device has the class
        place = jax.lax.psum(jnp.where(place < 0, 0, place + device * size + 1), class_axis) - 1
    return SampledClasses(ids, place)
