"""Barlow Twins loss."""

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import LossDict, Scalar
from metricjax.losses._terms import reduced_term
from metricjax.losses._views import centred, prepare_views


@declare(rows="batch", why="its correlations are of all samples")
def barlow_twins(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    lambd: Scalar = 0.005,
    eps: Scalar = 1e-5,
    precision: Precision = Precision.HIGHEST,
) -> LossDict:
    r"""Correlates each feature with itself in the other view, and with no other feature.

    .. math::
        L = \sum_d (1 - C_{dd})^2 + \lambda \sum_{d \neq e} C_{de}^2 \qquad
        C_{de} = \frac1N \sum_i \frac{x_{id} - \bar x_d}{\sqrt{\mathrm{Var}(x_d) + \epsilon}} \,
        \frac{x'_{ie} - \bar x'_e}{\sqrt{\mathrm{Var}(x'_e) + \epsilon}}

    Variances are sums divided by N. The loss needs the whole batch on every device.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, parts = mj.reduce(mj.losses.barlow_twins(jnp.eye(3), jnp.eye(3)[::-1]))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        4.5149 ['invariance_loss', 'redundancy_loss']

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        lambd: factor of the second sum.
        eps: added to the variances, as in batch normalization.
        precision: of the matrix products.

    Returns:
        ``{"invariance_loss": [], "redundancy_loss": []}``, both already reduced; 0 for a batch
        without samples.

    Notes:
        - when: self-supervision without negatives
        - miner: none taken
        - cost: ND + D²
        - setting: default

    References:
        Zbontar et al., `Barlow Twins: Self-Supervised Learning via Redundancy Reduction
        <https://arxiv.org/abs/2103.03230>`_, 2021.
    """
    x, r, weights = prepare_views("losses.barlow_twins", embeddings, ref_embeddings, where)

    def standardized(x):
        gap, count = centred(x, weights)
        variance = safe_divide(jnp.sum(weights[:, None] * gap**2, 0), count)
        return gap / jnp.sqrt(variance + eps)[None, :]

    product = jnp.matmul(
        (weights[:, None] * standardized(x)).T, standardized(r), precision=precision
    )
    count = jnp.sum(weights)
    correlation = safe_divide(product, count)
    diagonal = jnp.diagonal(correlation)
    same = jnp.where(count > 0, jnp.sum((1 - diagonal) ** 2), 0)
    other = jnp.sum(jnp.where(jnp.eye(len(diagonal), dtype=bool), 0, correlation) ** 2)
    return {"invariance_loss": reduced_term(same), "redundancy_loss": reduced_term(lambd * other)}
