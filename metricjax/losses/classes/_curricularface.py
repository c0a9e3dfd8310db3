"""CurricularFace loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_similarity, rivals_given
from metricjax.losses._classes import (
    add_angle,
    batch_sum,
    cross_entropy,
    in_single,
    prepare_classes,
    turned,
)


@declare(
    rows="batch",
    why="its hard classes weigh by the mean cosine of the whole batch",
    within={"margin": "[0, 180]", "momentum": "[0, 1]"},
    degrees=("margin",),
)
def curricularface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    state: Scalar | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    margin: Scalar = 28.6478898,
    momentum: Scalar = 0.01,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
    axis_name: AxisName | None = None,
) -> LossDict | tuple[LossDict, Float[Array, ""]]:
    r"""Pulls each sample to its class center; hard classes weigh more as training proceeds.

    .. math::
        \ell_i = -\log \frac{e^{s g(\theta_{iy})}}
        {e^{s g(\theta_{iy})} + \sum_{c \neq y} e^{s N_{ic}}} \qquad
        N_{ic} = \begin{cases} \cos\theta_{ic} & \cos\theta_{ic} \le \cos(\theta_{iy} + m) \\
        \cos\theta_{ic} (t + \cos\theta_{ic}) & \text{else} \end{cases}

    with :math:`g` as in `arcface`. :math:`t` is the running mean of :math:`\cos\theta_{iy}`,
    including this batch. At first it is about 0, so hard classes have little weight. The gradient
    treats :math:`t` and the choice of hard classes as constant.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> terms, t = mj.losses.curricularface(x, y, w, state=0.0)
        >>> print(f"{mj.reduce(terms)[0]:.4f} {t:.4f}")
        0.0213 0.0073

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.CurricularFace` owns the
            centers and the state.
        state: t, as the previous call returned it, or 0 at the start. If ``None``, the call starts
            from 0, and no state is returned.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        margin: degrees, 0 to 180.
        momentum: weight of this batch in the new state, 0 to 1.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            The state is computed from the batch of all devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. With `state`, a pair of this dict
        and the new state.

    Notes:
        - when: faces, long training runs
        - miner: weighs samples
        - cost: NC
        - setting: default (a margin of 0.5 radians)

    References:
        Huang et al., `CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition
        <https://arxiv.org/abs/2004.00288>`_, 2020.
    """
    check_distance("losses.curricularface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.curricularface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    batch = in_single(batch)
    own = own_similarity(batch, distance)
    old = jnp.asarray(0 if state is None else state, own.dtype)
    count = batch_sum(batch.weights, axis_name)
    mean = safe_divide(batch_sum(batch.weights * own, axis_name), count)
    t = jnp.where(count > 0, momentum * mean + (1 - momentum) * old, old)
    limit = turned(own, jnp.deg2rad(jnp.asarray(margin, own.dtype)))
    limit, t = jax.lax.stop_gradient((limit, t))

    def modulated(x, w, given):
        cosine, limit, t = distance(x, w), given[:, :1], given[:, 1:]
        return jnp.where(cosine > limit, cosine * (t + cosine), cosine)

    given = jnp.stack([limit, jnp.zeros_like(limit) + t], 1)
    rivals = rivals_given(batch, modulated, given, scale)
    terms: LossDict = {"loss": cross_entropy(batch, scale * add_angle(own, margin), rivals)}
    return terms if state is None else (terms, t)
