"""Margins that depend on how many samples a class has: rare classes get larger margins."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.types import Scalar


def ldam_margins(counts: Num[Array, " c"], *, largest: Scalar = 0.5) -> Float[Array, " c"]:
    r"""Computes cosine margins for `losses.cosface` from the fourth root of the class sizes.

    .. math:: m_c = m \, \Big(\frac{\min_k n_k}{n_c}\Big)^{1/4}

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> print(mj.ldam_margins(jnp.array([1, 10, 100])).round(4))
        [0.5    0.2812 0.1581]

    Args:
        counts: ``[C]``, the number of samples of each class in the data set; 0 counts as 1.
        largest: the margin of the smallest class.

    Returns:
        ``[C]``, for ``losses.cosface(x, y, w, margin=..., scale=30.0)``.

    References:
        Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
        <https://arxiv.org/abs/1906.07413>`_, 2019.
    """
    root = _sizes(counts) ** -0.25
    return largest * root / jnp.max(root)


def dynamic_margins(
    counts: Num[Array, " c"],
    *,
    smallest: Scalar = 2.86478898,
    largest: Scalar = 28.6478898,
    power: Scalar = 0.25,
) -> Float[Array, " c"]:
    r"""Computes angular margins for `losses.arcface` from a power of the class sizes.

    .. math:: m_c = a n_c^{-p} + b

    a and b are chosen so that the smallest class has the largest margin, and the largest class has
    the smallest margin. If all classes have the same size, all of them have the largest margin.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> print(mj.dynamic_margins(jnp.array([1, 10, 100])).round(2))
        [28.65 12.15  2.86]

    Args:
        counts: ``[C]``, the number of samples of each class in the data set; 0 counts as 1.
        smallest, largest: the margins in degrees (by default 0.05 and 0.5 radians).
        power: p, > 0.

    Returns:
        ``[C]`` degrees, for ``losses.arcface(x, y, w, margin=...)`` or `losses.subcenter_arcface`.

    References:
        Ha et al., `Google Landmark Recognition 2020 Competition Third Place Solution
        <https://arxiv.org/abs/2010.05350>`_, 2020.
    """
    rare = _sizes(counts) ** -power
    low, high = jnp.min(rare), jnp.max(rare)
    spread = high > low
    share = jnp.where(spread, (rare - low) / jnp.where(spread, high - low, 1), 1)
    return smallest + (largest - smallest) * share


def _sizes(counts):
    return jnp.maximum(jnp.asarray(counts, jnp.result_type(float)), 1)
