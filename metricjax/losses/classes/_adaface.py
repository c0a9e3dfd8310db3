"""AdaFace loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide, safe_sqrt
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import batch_sum, cross_entropy, norms, prepare_classes

State = tuple[Scalar, Scalar]
"""The running mean and standard deviation of the embeddings' norms."""

FIRST: State = (20.0, 100.0)
EPS = 1e-3
"""Cosines and angles stay this far from the ends of their intervals, as in the authors' code.

It is also the smallest norm, and is added to the deviation.
"""


@declare(
    rows="batch",
    why="its margins go by the norms of the whole batch",
    within={"momentum": "[0, 1]"},
)
def adaface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    state: State | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    m: Scalar = 0.4,
    h: Scalar = 0.333,
    momentum: Scalar = 0.01,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
    axis_name: AxisName | None = None,
) -> LossDict | tuple[LossDict, State]:
    r"""Pulls each sample to its class center; hard samples count more if their norm is large.

    .. math::
        z_i = \mathrm{clip}\Big(\frac{h (\lVert x_i \rVert - \mu)}{\sigma}, -1, 1\Big) \qquad
        g_i(\theta) = \cos(\theta - m z_i) - m (1 + z_i) \qquad
        \ell_i = -\log \frac{e^{s g_i(\theta_{iy})}}
        {e^{s g_i(\theta_{iy})} + \sum_{c \neq y} e^{s \cos\theta_{ic}}}

    This is ArcFace for images of any quality: the norm of an embedding stands for the quality of
    its image. The gradient treats the norm as constant. If :math:`z` is -1, the margin is that of
    `arcface`; if it is 0, the margin is that of `cosface`. :math:`\mu` and :math:`\sigma` are the
    running mean and standard deviation of the norms, including this batch.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> terms, state = mj.losses.adaface(x, y, w, state=(20.0, 100.0))
        >>> print(f"{mj.reduce(terms)[0]:.4f} {state[0]:.2f} {state[1]:.2f}")
        10.2771 19.81 99.00

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.AdaFace` owns the centers
            and the state.
        state: the state that the previous call returned, or ``(20.0, 100.0)`` at the start. If
            ``None``, the call starts from these two numbers, and no state is returned.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        m: the margin, in radians for the angle and in cosine units for the cosine.
        h: how much the margins vary with the norms.
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
        - when: faces in images of mixed quality
        - miner: weighs samples
        - cost: NC
        - setting: default

    References:
        Kim et al., `AdaFace: Quality Adaptive Margin for Face Recognition
        <https://arxiv.org/abs/2204.00964>`_, 2022.
    """
    check_distance("losses.adaface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.adaface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    size = jax.lax.stop_gradient(jnp.clip(norms(batch.embeddings), EPS, 100))
    old = FIRST if state is None else state
    mean, deviation = _updated(old, size, batch.weights, momentum, axis_name)
    z = jnp.clip(h * (size - mean) / (deviation + EPS), -1, 1)
    cosine = lambda x, w: jnp.clip(distance(x, w), -1 + EPS, 1 - EPS)
    own, rivals = own_and_rivals(batch, cosine, scale)
    angle = jnp.clip(jnp.arccos(own) - m * z, EPS, jnp.pi - EPS)
    target = jnp.cos(angle) - m * (1 + z)
    terms: LossDict = {"loss": cross_entropy(batch, scale * target, rivals)}
    return terms if state is None else (terms, (mean, deviation))


def _updated(state, size, weights, momentum, axis_name) -> State:
    """The state after a batch.

    The mean is unchanged if there are no samples, the deviation if their weights sum to 1 or less.
    """
    old_mean, old_deviation = (jnp.asarray(x, size.dtype) for x in jax.lax.stop_gradient(state))
    count = batch_sum(weights, axis_name)
    mean = safe_divide(batch_sum(weights * size, axis_name), count)
    squares = batch_sum(weights * (size - mean) ** 2, axis_name)
    deviation = safe_sqrt(jnp.where(count > 1, safe_divide(squares, count - 1), 0))
    mixed = lambda new, old, known: jnp.where(known, momentum * new + (1 - momentum) * old, old)
    return mixed(mean, old_mean, count > 0), mixed(deviation, old_deviation, count > 1)
