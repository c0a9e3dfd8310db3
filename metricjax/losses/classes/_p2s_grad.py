"""P2SGrad loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide, upcast
from metricjax._core.types import AxisName, LossDict, Mined
from metricjax.distances import CosineSimilarity, normalize
from metricjax.losses._class_blocks import at, sum_over_classes
from metricjax.losses._classes import norms, prepare_classes
from metricjax.losses._terms import reduced_term


@declare()
def p2s_grad(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    distance: CosineSimilarity = CosineSimilarity(),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Moves the cosine to the own class toward 1 and all others toward 0, by squared error.

    .. math::
        L = \frac{1}{N C} \sum_{i, c} (\cos\theta_{ic} - [c = y_i])^2

    The gradient treats the norms of the weights as constant, as in the paper, so keep these norms
    near 1. `metricjax.nn.P2SGrad` starts at norm 1, and its `project` restores it.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.p2s_grad(x, y, w))
        >>> print(f"{loss:.4f}")
        0.1816

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``; `metricjax.nn.P2SGrad` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        distance: `CosineSimilarity`, possibly with another `precision`.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": []}``, already reduced: the sum of squares, divided by ``N * C``.

    Notes:
        - when: faces, without a margin or a scale
        - miner: weighs samples
        - cost: NC
        - setting: also divided by C here

    References:
        Zhang et al., `P2SGrad: Refined Gradients for Optimizing Deep Face Models
        <https://arxiv.org/abs/1905.02479>`_, 2019.
    """
    check_distance("losses.p2s_grad", distance, CosineSimilarity)
    batch = prepare_classes(
        "losses.p2s_grad", embeddings, labels, weights, mined, where, class_axis=class_axis
    )

    def block(x, w, own):
        directions = safe_divide(upcast(w), jax.lax.stop_gradient(norms(w))[:, None])
        cosines = jnp.matmul(normalize(x), directions.T, precision=distance.precision)
        return jnp.sum(cosines**2, 1), at(cosines, own)

    squares, own = sum_over_classes(batch, block)
    values = squares - own**2 + (1 - own) ** 2
    total = jnp.sum(batch.weights * batch.mined * values)
    return {"loss": reduced_term(total, jnp.sum(batch.weights) * batch.num_classes)}
