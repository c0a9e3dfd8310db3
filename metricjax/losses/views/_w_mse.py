"""W-MSE loss."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_range, on_host
from metricjax._core.declare import declare
from metricjax._core.linear import sum_along
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import normalize
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_many_views


@declare(rows="batch", why="it whitens by the covariance of all samples", within={"eps": "[0, 1]"})
def w_mse(
    views: Float[Array, "v n d"],
    *,
    groups: Int[Array, "g m"] | None = None,
    where: Num[Array, " n"] | None = None,
    eps: Scalar = 0.0,
    precision: Precision = Precision.HIGHEST,
    axis_name: AxisName | None = None,
) -> LossDict:
    r"""Whitens each view, and pulls the views of a sample together on the unit sphere.

    .. math::
        z_i = L^{-1} (x_i - \mu) \qquad L L^\top = (1 - \epsilon) \Sigma + \epsilon I \qquad
        \ell_i = \frac{1}{|\{a < b\}|} \sum_{a < b} \lVert \hat z^a_i - \hat z^b_i \rVert^2

    Whitening keeps embeddings from collapsing, so there are no negatives. The covariance
    :math:`\Sigma` of each view has divisor N - 1. Gradients flow through :math:`\mu` and :math:`L`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.2], [0.3, 1.0], [1.0, 1.1], [-1.0, 2.0]])
        >>> loss, _ = mj.reduce(mj.losses.w_mse(jnp.stack([x, x[:, ::-1]]), eps=0.1))
        >>> print(f"{loss:.4f}")
        1.8570

    Args:
        views: ``[V, N, D]``, V >= 2 views of N samples.
        groups: ``[G, M]`` row numbers. If given, each group of M rows is whitened by its own
            covariance. A sample gets the mean over the groups that it is in, and has weight 0 if it
            is in none. The paper has groups of 128 rows or of 2D rows, from a random permutation
            ``jax.random.permutation(key, N).reshape(-1, M)``.
        where: ``[N]`` sample weights; 0 is padding.
        eps: how much of the identity is mixed into the covariance, 0 to 1. It must be above 0 if
            there are not more rows than features.
        precision: of the matrix products.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. The
            covariance is computed from the batch of all devices. `groups` are groups of this
            device's rows, and need nothing from other devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. Values are 0 if the covariance is
        singular, which padding or equal rows can cause, and for a single sample.

    Raises:
        ValueError: if `eps` is 0 and there are not more rows than features.

    Notes:
        - when: self-supervision without negatives, small D
        - miner: none taken
        - cost: ND + D², time ND² + D³
        - setting: `groups` of 128 rows

    References:
        Ermolov et al., `Whitening for Self-Supervised Representation Learning
        <https://arxiv.org/abs/2007.06346>`_, 2020.
    """
    name = "losses.w_mse"
    x, weights = prepare_many_views(name, "views", views, where)
    v, n, d = x.shape
    if v < 2:
        raise ValueError(f"{name}: `views` must have at least 2 views, got shape {x.shape}.")
    if groups is not None:
        groups = jnp.asarray(groups)
        if groups.ndim != 2 or not jnp.issubdtype(groups.dtype, jnp.integer):
            raise ValueError(
                f"{name}: `groups` must be integers of shape [G, M], got {groups.dtype} of shape "
                f"{groups.shape}."
            )
        check_range(name, "groups", groups, None, n, "views")
    devices = 1 if axis_name is None or groups is not None else jax.lax.axis_size(axis_name)
    rows = n * devices if groups is None else groups.shape[1]
    if 1 < rows <= d and (known := on_host(eps)) is not None and not known > 0:
        raise ValueError(
            f"{name}: `eps` must be above 0 for {rows} rows of {d} features, whose covariance is "
            f"singular, got {eps}. Give more than {d} rows, or an `eps` such as 0.1."
        )
    if groups is None:
        values = _whitened_gaps(x, weights, eps, precision, axis_name)
        return {"loss": row_term(values, weights)}
    inside = (groups >= 0) & (groups < n)

    def of_group(rows, inside):
        there = jnp.where(inside, weights[rows], 0)
        return _whitened_gaps(x[:, rows], there, eps, precision, None)

    each = jax.vmap(of_group)(jnp.where(inside, groups, 0), inside)
    add = jnp.zeros(n, x.dtype).at[jnp.where(inside, groups, n)].add
    count = add(1, mode="drop")
    values = safe_divide(add(each, mode="drop"), count)
    return {"loss": row_term(values, jnp.where(count > 0, weights, 0))}


def _whitened_gaps(views, weights, eps, precision, axis_name):
    """Squared distances of the whitened views of each sample, mean over pairs of views ``[N]``."""
    pairs = list(itertools.combinations(range(len(views)), 2))
    white = [_whitened(x, weights, eps, precision, axis_name) for x in views]
    unit = [normalize(rows) for rows, _ in white]
    gaps = [2 - 2 * jnp.sum(unit[a] * unit[b], 1) for a, b in pairs]
    regular = jnp.all(jnp.stack([regular for _, regular in white]))
    regular |= jnp.any(jnp.isnan(views))  # a NaN stays visible
    return jnp.where(regular, sum(gaps) / len(pairs), 0)


def _whitened(x, weights, eps, precision, axis_name):
    """The whitened rows, and whether there are any.

    There are none if the covariance is singular, or if there is a single row.
    """
    of_all = (lambda t: t) if axis_name is None else (lambda t: sum_along(t, axis_name))
    dot = functools.partial(jnp.matmul, precision=precision)
    total, count, rows = of_all((dot(weights, x), jnp.sum(weights), jnp.sum(weights > 0)))
    gap = jnp.where(weights[:, None] > 0, x - safe_divide(total, count)[None, :], 0)
    product = of_all(dot((weights[:, None] * gap).T, gap))
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    several = (rows > 1) & (count > 1)
    covariance = product / jnp.where(several, count - 1, 1)
    mixed = (1 - eps) * covariance + eps * eye
    # A pivot within the rounding error of its feature's variance is noise. The factor of such a
    # matrix is not used, so that no derivative meets it.
    pivots = jnp.diagonal(jnp.linalg.cholesky(jax.lax.stop_gradient(mixed))) ** 2
    least = jnp.finfo(x.dtype).eps * x.shape[1] * jnp.diagonal(mixed)
    regular = jnp.all(pivots > least)  # a pivot that is NaN or 0 is not above
    regular &= several
    factor = jnp.linalg.cholesky(jnp.where(regular, mixed, eye))
    white = jax.scipy.linalg.solve_triangular(factor, gap.T, lower=True).T
    return white, regular
