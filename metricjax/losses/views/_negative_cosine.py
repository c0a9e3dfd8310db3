"""Negative cosine of two views."""

import jax
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.types import LossDict
from metricjax.distances import CosineSimilarity
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, row_similarities


@declare(rows="pairs")
def negative_cosine(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    detach: bool = True,
) -> LossDict:
    r"""Pulls the prediction of each sample toward the projection of its other view.

    .. math:: \ell_i = -\cos(p_i, z_i)

    No gradient flows through :math:`z`. This is the loss of SimSiam and BYOL, which add up both
    directions.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.negative_cosine(jnp.eye(2), jnp.ones((2, 2))))
        >>> print(f"{loss:.4f}")
        -0.7071

    Args:
        embeddings: ``[N, D]``, the predictions p of one view.
        ref_embeddings: ``[N, D]``, the projections z of the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        detach: whether z is constant for the gradient; static.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. Values are negative, so use no reducer
        that drops values which are not above 0.

    Notes:
        - when: self-supervision with a predictor (SimSiam, BYOL)
        - miner: none taken
        - cost: ND
        - setting: half of the sum of both directions

    References:
        Chen and He, `Exploring Simple Siamese Representation Learning
        <https://arxiv.org/abs/2011.10566>`_, 2020.
    """
    p, z, weights = prepare_views("losses.negative_cosine", embeddings, ref_embeddings, where)
    z = jax.lax.stop_gradient(z) if detach else z
    return {"loss": row_term(-row_similarities(CosineSimilarity(), p, z), weights)}
