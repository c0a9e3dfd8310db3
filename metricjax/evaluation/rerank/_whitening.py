"""PCA whitening."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metricjax._core.check import check_at_least, check_embeddings, check_known
from metricjax._core.masked import upcast
from metricjax.distances import normalize
from metricjax.evaluation.rerank._arguments import check_number
from metricjax.evaluation.rerank._lists import slices


class Whitening(NamedTuple):
    """A linear map, from `metricjax.evaluation.rerank.fit_whitening`. Call it with embeddings.

    It is a pytree of two arrays, so it can be saved and passed to compiled functions.

    Attributes:
        mean: ``[D]``, subtracted from every row.
        matrix: ``[D, dims]``, by which rows are then multiplied.
    """

    mean: Float[Array, " d"]
    matrix: Float[Array, "d dims"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n dims"]:
        """Returns ``(x - mean) @ matrix`` with rows of length 1, ``[N, dims]``."""
        name, x = "evaluation.rerank.Whitening", jnp.asarray(x)
        check_embeddings(name, "x", x)
        if x.shape[1] != len(self.mean):
            raise ValueError(
                f"{name}: `x` must have {len(self.mean)} features, as the rows that it was fitted "
                f"on have, got {x.shape}."
            )
        return _whitened(x, *map(jnp.asarray, self))


def fit_whitening(
    x: Float[Array, "n d"], dims: int | None = None, *, eps: float = 0.0, power: float = 0.5
) -> Whitening:
    r"""Learns a PCA whitening: features become uncorrelated, of equal variance, and fewer.

    .. math::
        \mu = \frac{1}{N} \sum_i x_i, \qquad
        \frac{1}{N} \sum_i (x_i - \mu)(x_i - \mu)^T = U \Lambda U^T

    .. math::
        x' = \frac{u}{\lVert u \rVert}, \qquad
        u = (\Lambda_{dims} + \epsilon)^{-power}\, U_{dims}^T (x - \mu)

    :math:`\Lambda_{dims}` are the `dims` largest eigenvalues. Often a few directions have most of
    the variance and decide every distance. After whitening all directions count the same. Fit on
    other data than those that you evaluate, for example on the training set, and apply the result
    to queries and gallery. The signs of the new features are arbitrary.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> x = jnp.array([[10.0, 1.0], [10.0, -1.0], [-10.0, 1.0], [-10.0, -1.0]])
        >>> whiten = rerank.fit_whitening(x)
        >>> print(abs(whiten(jnp.array([[5.0, 0.5]]))).round(4))
        [[0.7071 0.7071]]

    Args:
        x: ``[N, D]``, finite; in the space that is searched, so usually with rows of length 1.
        dims: how many features the result has, at most D; D by default.
        eps: added to every variance, at least 0.
        power: 0.5 gives features of equal variance. 0 only rotates, which is PCA alone.

    Returns:
        A `Whitening`, which is called as ``whiten(x)``. Means and covariances are computed on the
        host, in float64.

    Raises:
        ValueError: for a wrong shape, for a `dims` that is not from 1 to D, for a negative or
            infinite `eps` or `power`, for numbers that are not finite, or if `eps` is 0 and the
            rows do not vary in `dims` directions, for which more than `dims` rows are needed.
        TypeError: if `x` is not floating, or is traced.

    References:
        Jégou and Chum, `Negative evidences and co-occurrences in image retrieval: the benefit of
        PCA and whitening <https://inria.hal.science/hal-00722622>`_, 2012.
    """
    name = "evaluation.rerank.fit_whitening"
    check_known(name, "x", x)
    rows = np.asarray(x)
    check_embeddings(name, "x", rows)
    n, features = rows.shape
    if n == 0:
        raise ValueError(f"{name}: `x` must have at least one row, got {rows.shape}.")
    dims = features if dims is None else dims
    check_at_least(name, "dims", dims, 1)
    if dims > features:
        raise ValueError(
            f"{name}: `dims` must be at most {features}, the number of features of `x`, got {dims}."
        )
    check_number(name, "eps", eps)
    check_number(name, "power", power)

    parts = slices(n, features)
    mean, covariance = np.zeros(features), np.zeros((features, features))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite raises below
        for part in parts:
            mean += rows[part].astype(np.float64).sum(0) / n
        for part in parts:
            centered = rows[part].astype(np.float64) - mean
            covariance += centered.T @ centered / n
    if not np.isfinite(covariance).all():
        raise ValueError(f"{name}: `x` must be finite, got NaN or infinity. Leave such rows out.")
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]

    # Rows in float32 that depend on each other have a variance of about eps^2, not 0.
    resolution = max(np.finfo(np.float64).eps, min(float(jnp.finfo(rows.dtype).eps), 2.0**-23) ** 2)
    rank = min(n - 1, int(np.sum(variances > features * resolution * variances[0])))
    if power and not eps and rank < dims:
        raise ValueError(
            f"{name}: `x` must vary in `dims` = {dims} directions, got {n} rows that vary in "
            f"{rank}. Give more rows, a smaller `dims`, or an `eps` above 0."
        )
    matrix = directions[:, :dims] * (variances[:dims] + eps) ** -power
    return Whitening(jnp.asarray(mean), jnp.asarray(matrix))


@jax.jit
def _whitened(x, mean, matrix):
    x = upcast(x)
    centered, matrix = x - mean.astype(x.dtype)[None, :], matrix.astype(x.dtype)
    return normalize(jnp.matmul(centered, matrix, precision=jax.lax.Precision.HIGHEST))
