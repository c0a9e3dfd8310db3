"""ElasticFace loss."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from metricjax._core.check import check_choice, check_distance
from metricjax._core.declare import declare
from metricjax._core.refs import take, whole_batch
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import add_angle, cross_entropy, prepare_classes

USUAL = {"arc": (28.6478898, 2.86478898), "cos": (0.35, 0.05)}
"""The paper's margins and deviations.

Those of the angle are in degrees: 0.5 and 0.05 radians.
"""


@declare(
    rows="batch",
    why="its margins are drawn for the whole batch at once",
    within={"deviation": "[0, inf)"},
)
def elasticface(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    key: PRNGKeyArray,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    variant: Literal["arc", "cos"] = "arc",
    margin: Scalar | None = None,
    deviation: Scalar | None = None,
    plus: bool = False,
    scale: Scalar = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
    axis_name: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to its class center, with a new random margin for each sample and step.

    .. math::
        \ell_i = -\log \frac{e^{s g_i}}{e^{s g_i} + \sum_{c \neq y} e^{s \cos\theta_{ic}}}
        \qquad g_i = \begin{cases} g(\theta_{iy}, m_i) & \text{arc} \\
        \cos\theta_{iy} - m_i & \text{cos} \end{cases} \qquad m_i \sim \mathcal{N}(m, \sigma^2)

    with :math:`g` as in `arcface`. This is ArcFace or CosFace with a random margin. Classes are not
    all equally wide, and a random margin does not force them to be.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> terms = mj.losses.elasticface(x, y, w, key=jax.random.key(0), deviation=0.0)
        >>> print(f"{mj.reduce(terms)[0]:.4f}")
        11.9200

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.ElasticFace` owns them.
        key: a `jax.random.key`: a new one for each step, the same one on all devices.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        variant: ``"arc"``, with the margin on the angle, or ``"cos"``, on the cosine; static.
        margin: the mean of the margins. The default is the paper's: 28.65 degrees (0.5 radians) for
            the angle, 0.35 for the cosine.
        deviation: the standard deviation of the margins. The default is 2.865 degrees (0.05
            radians) for the angle, 0.05 for the cosine. With `plus`, the paper uses 1 degree and
            0.02.
        plus: sorts the margins, so that the sample farthest from its class center gets the largest
            margin, and so on; static.
        scale: factor of all cosines.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            The margins are drawn for the batch of all devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: as `arcface`, for classes of unequal spread
        - miner: weighs samples
        - cost: NC
        - setting: default

    References:
        Boutros et al., `ElasticFace: Elastic Margin Loss for Deep Face Recognition
        <https://arxiv.org/abs/2109.09416>`_, 2022.
    """
    check_distance("losses.elasticface", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.elasticface", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    check_choice("losses.elasticface", "variant", variant, tuple(USUAL))
    mean = USUAL[variant][0] if margin is None else margin
    spread = USUAL[variant][1] if deviation is None else deviation
    own, rivals = own_and_rivals(batch, distance, scale)
    (cosines, weights), rows = whole_batch((own, batch.weights), axis_name)
    margins = mean + spread * jax.random.normal(key, cosines.shape, cosines.dtype)
    if plus:
        margins = by_distance(margins, cosines, weights)
    margins = take(margins, rows)
    target = add_angle(own, margins) if variant == "arc" else own - margins
    return {"loss": cross_entropy(batch, scale * target, rivals)}


def by_distance(margins, cosines, weights) -> Float[Array, " n"]:
    """The margins, sorted so that the lowest cosine gets the largest margin, and so on.

    Rows of weight 0 are left out of the sorting and get 0.
    """
    cosines, margins = jax.lax.stop_gradient((cosines, margins))
    there = weights > 0
    order = jnp.argsort(jnp.where(there, cosines, jnp.inf))
    largest_first = -jnp.sort(jnp.where(there, -margins, jnp.inf))
    return margins.at[order].set(jnp.where(jnp.isinf(largest_first), 0, largest_first))
