"""Alignment of two views."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.types import LossDict, Scalar
from metricjax.distances import normalize
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views


@declare(rows="pairs", within={"power": "(0, inf)"})
def alignment(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    power: Scalar = 2.0,
) -> LossDict:
    r"""Pulls the two views of each sample together on the unit sphere.

    .. math:: \ell_i = \lVert \hat x_i - \hat x'_i \rVert^\alpha

    Alone it collapses all embeddings to one point. Add `metricjax.regularizers.uniformity` of each
    view, which spreads them.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.alignment(jnp.eye(2), jnp.ones((2, 2))))
        >>> print(f"{loss:.4f}")
        0.5858

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        power: alpha, > 0. The gradient at distance 0 is 0.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: self-supervision, with `regularizers.uniformity`
        - miner: none taken
        - cost: ND
        - setting: default, plus the mean `regularizers.uniformity` of both views

    References:
        Wang and Isola, `Understanding Contrastive Representation Learning through Alignment and
        Uniformity on the Hypersphere <https://arxiv.org/abs/2005.10242>`_, 2020.
    """
    x, r, weights = prepare_views("losses.alignment", embeddings, ref_embeddings, where)
    squared = jnp.sum((normalize(x) - normalize(r)) ** 2, 1)
    same = squared == 0
    values = jnp.where(same, 0, jnp.where(same, 1, squared) ** (power / 2))
    return {"loss": row_term(values, weights)}
