"""AdaCos loss."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, logsumexp, upcast
from metricjax._core.refs import whole_batch
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import ClassBatch, cross_entropy, prepare_classes


@declare(rows="batch", why="its scale goes by the whole batch")
def adacos(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    state: Scalar | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
    axis_name: AxisName | None = None,
) -> LossDict | tuple[LossDict, Float[Array, ""]]:
    r"""Pulls each sample to its class center by a softmax whose scale adapts to the batch.

    .. math::
        \ell_i = -\log \frac{e^{s \cos\theta_{iy}}}{\sum_c e^{s \cos\theta_{ic}}} \qquad
        s = \frac{\log \frac1N \sum_i \sum_{c \neq y} e^{s' \cos\theta_{ic}}}
        {\cos \min(\pi / 4, \mathrm{median}_i \theta_{iy})}

    :math:`s'` is the scale of the previous step, at first :math:`\sqrt 2 \log(C - 1)`. The gradient
    treats the scale as constant. There is no margin, and no scale to choose.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> terms, scale = mj.losses.adacos(x, y, w, state=2.0)
        >>> print(f"{mj.reduce(terms)[0]:.4f} {scale:.4f}")
        0.7649 2.2860

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.AdaCos` owns the centers
            and the state.
        state: the scale that the previous call returned, or :math:`\sqrt 2 \log(C - 1)` at the
            start. If ``None``, the scale is the value at the start, and no state is returned.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            The scale is computed from the batch of all devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. With `state`, a pair of this dict
        and the new state.

    Notes:
        - when: faces, speech; no scale or margin to choose
        - miner: weighs samples
        - cost: NC
        - setting: default

    References:
        Zhang et al., `AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face
        Representations <https://arxiv.org/abs/1905.00292>`_, 2019.
    """
    check_distance("losses.adacos", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.adacos", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    if batch.num_classes < 3:
        raise ValueError(
            f"losses.adacos: `weights` must be of at least 3 classes, got {batch.num_classes}."
        )
    scale = jnp.asarray(first_scale(batch.num_classes), upcast(batch.embeddings).dtype)
    if state is not None:
        scale = _updated(batch, distance, state, axis_name)
    own, rivals = own_and_rivals(batch, distance, scale)
    terms: LossDict = {"loss": cross_entropy(batch, scale * own, rivals)}
    return terms if state is None else (terms, scale)


def first_scale(num_classes: int) -> float:
    """The scale at the start of training."""
    return math.sqrt(2) * math.log(num_classes - 1)


def _updated(batch: ClassBatch, distance, scale, axis_name) -> Float[Array, ""]:
    """The scale after a batch; unchanged if the batch has no samples."""
    constant = jax.lax.stop_gradient((batch.embeddings, batch.classes, scale))
    batch = batch._replace(embeddings=constant[0], classes=constant[1])
    own, rivals = own_and_rivals(batch, distance, constant[2])
    (own, rivals, weights), _ = whole_batch((own, rivals, batch.weights), axis_name)
    some = exists(weights)
    order = jnp.argsort(-own)
    upto = jnp.cumsum(weights[order])
    middle = own[order][jnp.argmax(upto >= upto[-1] / 2)]  # the lower median of the angles
    mean = logsumexp(rivals, weights, empty=0.0) - jnp.log(jnp.where(some, jnp.sum(weights), 1))
    new = mean / jnp.maximum(middle, math.sqrt(0.5))  # the angle is at most 45 degrees
    return jnp.where(some, new, jnp.asarray(constant[2], own.dtype))
