"""Center loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.declare import declare
from metricjax._core.masked import upcast
from metricjax._core.types import AxisName, LossDict, Mined
from metricjax.losses._class_blocks import own_rows
from metricjax.losses._classes import prepare_classes
from metricjax.losses._terms import row_term


@declare()
def center(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to the center of its class; meant to be added to a softmax loss.

    .. math:: \ell_i = \tfrac12 \lVert x_i - c_y \rVert^2

    The centers are learned by gradient, like any parameter; the paper updates them by a separate
    rule. Give the centers their own learning rate.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.center(x, y, w))
        >>> print(f"{loss:.4f}")
        6.0000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a center for each class; `metricjax.nn.Center` owns them.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: added to a softmax loss, for compact classes
        - miner: weighs samples
        - cost: ND
        - setting: the centers are learned by gradient here

    References:
        Wen et al., `A Discriminative Feature Learning Approach for Deep Face Recognition
        <https://doi.org/10.1007/978-3-319-46478-7_31>`_, 2016.
    """
    batch = prepare_classes(
        "losses.center", embeddings, labels, weights, mined, where, class_axis=class_axis
    )
    gap = upcast(batch.embeddings) - upcast(own_rows(batch))
    return {"loss": row_term(batch.mined * jnp.sum(gap**2, 1) / 2, batch.weights)}
