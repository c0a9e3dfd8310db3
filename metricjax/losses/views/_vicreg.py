"""VICReg loss."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import LossDict, Scalar
from metricjax.losses._terms import reduced_term, row_term
from metricjax.losses._views import centred, prepare_views


@declare(rows="batch", why="its variances and covariances are of all samples")
def vicreg(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    invariance_lambda: Scalar = 25.0,
    variance_mu: Scalar = 25.0,
    covariance_v: Scalar = 1.0,
    eps: Scalar = 1e-4,
    precision: Precision = Precision.HIGHEST,
) -> LossDict:
    r"""Pulls two views of a sample together, keeps all features varying, and decorrelates them.

    .. math::
        \ell_i = \frac{\lambda}{D} \lVert x_i - x'_i \rVert^2 \qquad
        v_d = \frac{\mu}{2} \Big[1 - \sqrt{\mathrm{Var}(x_d) + \epsilon}\Big]_+ \qquad
        c = \frac{\nu}{D} \sum_{d \neq e} \mathrm{Cov}(x)_{de}^2

    The last two parts are computed for both views. The loss needs the whole batch on every device.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, parts = mj.reduce(mj.losses.vicreg(jnp.eye(3), jnp.eye(3)[::-1]))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        21.7863 ['covariance_loss', 'invariance_loss', 'variance_loss1', 'variance_loss2']

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        invariance_lambda: factor of the first part.
        variance_mu: factor of the second part, once for each view.
        covariance_v: factor of the third part.
        eps: added to the variances.
        precision: of the matrix products.

    Returns:
        ``{"invariance_loss": [N], "variance_loss1": [D], "variance_loss2": [D],
        "covariance_loss": []}``, the first three divided by their lengths, the last already
        reduced. A single sample has no variance, so all terms but the first are 0.

    Notes:
        - when: self-supervision without negatives, small batches
        - miner: none taken
        - cost: ND + D²
        - setting: default

    References:
        Bardes et al., `VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
        Learning <https://arxiv.org/abs/2105.04906>`_, 2021.
    """
    x, r, weights = prepare_views("losses.vicreg", embeddings, ref_embeddings, where)
    d = x.shape[1]
    off_diagonal = ~jnp.eye(d, dtype=bool)

    def spread(x):
        gap, count = centred(x, weights)
        product = jnp.matmul((weights[:, None] * gap).T, gap, precision=precision)
        cov = jnp.where(count > 1, safe_divide(product, count - 1), 0)
        deviation = jnp.sqrt(jnp.diagonal(cov) + eps)
        many = jnp.broadcast_to(jnp.where(count > 1, 1, 0), d).astype(x.dtype)
        variance = row_term(many * variance_mu / 2 * jax.nn.relu(1 - deviation), many)
        return variance, jnp.sum(jnp.where(off_diagonal, cov, 0) ** 2)

    (variance1, covariance1), (variance2, covariance2) = spread(x), spread(r)
    return {
        "invariance_loss": row_term(invariance_lambda * jnp.mean((x - r) ** 2, 1), weights),
        "variance_loss1": variance1,
        "variance_loss2": variance2,
        "covariance_loss": reduced_term(covariance_v / d * (covariance1 + covariance2)),
    }
