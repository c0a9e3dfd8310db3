"""Shared by the losses with class weights: checks of labels, softmax, angles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metricjax._core.check import check_embeddings, check_range, check_rows
from metricjax._core.linear import sum_along
from metricjax._core.masked import safe_norm, safe_sqrt, softplus, upcast
from metricjax._core.refs import admit, check_same, prepare, replicated, take
from metricjax._core.types import AxisName, LossTerm
from metricjax.distances import Distance, farther
from metricjax.losses._pairs import mined_weights
from metricjax.losses._terms import row_term


class ClassBatch(NamedTuple):
    """A checked batch: the class of each sample, its weight, and its weight from `mined`.

    Attributes:
        classes: ``[C * K, D]``, the class weights; with a `class_axis`, those on this device.
        centers: K, the number of centers of each class.
        num_classes: the number of classes on all devices.
        class_axis: the `jax.shard_map` axis that the classes are spread over, if any.
    """

    embeddings: Float[Array, "n d"]
    labels: Int[Array, " n"]
    weights: Float[Array, " n"]
    mined: Float[Array, " n"]
    classes: Float[Array, "ck d"]
    centers: int
    num_classes: int
    class_axis: AxisName | None


def prepare_classes(
    function,
    embeddings,
    labels,
    weights,
    mined,
    where,
    *,
    centers=1,
    class_axis=None,
    any_label=False,
    anchors_only=False,
) -> ClassBatch:
    """Checks the arguments of the public `function`, with `centers` rows of `weights` per class.

    Labels outside ``[0, C)`` raise if their values are known, and otherwise become 0 with weight 0.
    With `any_label`, all labels are kept. With `anchors_only`, samples are weighted by how often
    they were mined as anchors.
    """
    given = labels
    embeddings, labels, _ = admit(function, embeddings, labels, None, where)
    batch = prepare(embeddings, labels, None, where)
    n, d = batch.embeddings.shape
    check_rows(function, "labels", batch.labels, "embeddings", n, class_ids=True)
    check_embeddings(function, "weights", weights)
    rows = "C" if centers == 1 else f"C * {centers}"
    if weights.shape[1] != d or len(weights) % centers:
        raise ValueError(
            f"{function}: `weights` must have shape [{rows}, {d}] to match `embeddings`, "
            f"got {weights.shape}."
        )
    num_classes = len(weights) // centers
    if class_axis is not None:
        num_classes *= jax.lax.axis_size(class_axis)
        check_same(function, embeddings, class_axis)
    labels, counts = batch.labels, batch.weights
    if not any_label:
        check_range(function, "labels", given, where, num_classes, "weights")
        known = (labels >= 0) & (labels < num_classes)
        labels = jnp.where(known, labels, 0).astype(jnp.int32)
        counts = jnp.where(known, counts, 0)
    mined = mined_weights(function, mined, batch, self_refs=not anchors_only)
    weights = jnp.asarray(weights)  # rows of a NumPy array cannot be taken by traced labels
    return ClassBatch(
        batch.embeddings, labels, counts, mined, weights, centers, num_classes, class_axis
    )


def in_single(batch: ClassBatch) -> ClassBatch:
    """The batch in at least float32.

    It is converted once, here, because gradients would otherwise be added up in half precision.
    """
    x, classes = upcast(batch.embeddings), upcast(batch.classes)
    return batch._replace(embeddings=x, classes=classes)


def of_own_class(function, name, value, batch: ClassBatch):
    """`value` if it is one number; of numbers ``[C]``, those of the samples' classes ``[N]``."""
    if not jnp.ndim(value):
        return value
    if jnp.shape(value) != (batch.num_classes,):
        raise ValueError(
            f"{function}: `{name}` must be one number or have shape [{batch.num_classes}], one for "
            f"each class, got shape {jnp.shape(value)}."
        )
    return take(replicated(jnp.asarray(value)), batch.labels)


def batch_sum(x: Float[Array, " n"], axis_name: AxisName | None) -> Float[Array, ""]:
    """The sum over all samples; with an `axis_name`, over the samples of all devices along it."""
    return jnp.sum(x) if axis_name is None else sum_along(jnp.sum(x), axis_name)


def cross_entropy(batch: ClassBatch, target, rivals) -> LossTerm:
    r"""Softmax cross-entropy, by the own class's logit `target` and the log-sum `rivals` of others.

    .. math:: \ell_i = w_i \log\Big(1 + e^{r_i - z_i}\Big)
    """
    return row_term(batch.mined * softplus(rivals - target), batch.weights)


def similarities(distance: Distance, embeddings, weights) -> Float[Array, "n c"]:
    """How close each sample is to each class: larger means closer, so a distance is negated."""
    return farther(distance, 0, distance(embeddings, weights))


def turned(cosine, radians):
    """``cos(theta + radians)`` for angles theta from 0 to pi."""
    sine = safe_sqrt((1 - cosine) * (1 + cosine))
    return cosine * jnp.cos(radians) - sine * jnp.sin(radians)


def add_angle(cosine, degrees):
    """``cos(theta + m)`` for ``theta <= pi - m``, and ``cos(theta) - m sin(m)`` beyond.

    So the result never rises with theta.
    """
    m = jnp.deg2rad(jnp.asarray(degrees, cosine.dtype))
    return jnp.where(cosine >= -jnp.cos(m), turned(cosine, m), cosine - m * jnp.sin(m))


def multiply_angle(cosine, times: int):
    r"""``(-1)^k cos(m theta) - 2k`` with ``k = floor(m theta / pi)``, decreasing up to pi.

    ``cos(m theta)`` is a Chebyshev polynomial of the cosine, computed by its recursion.
    """
    before, multiple = jnp.ones_like(cosine), cosine
    for _ in range(times - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    angle = jnp.arccos(jnp.clip(jax.lax.stop_gradient(cosine), -1, 1))
    k = jnp.floor(times * angle / jnp.pi)
    return jnp.where(k % 2 == 0, multiple, -multiple) - 2 * k


def norms(x) -> Float[Array, " n"]:
    """Euclidean norms of the rows, in at least float32."""
    return safe_norm(upcast(x))
