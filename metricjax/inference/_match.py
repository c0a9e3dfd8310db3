"""When two embeddings match: their distance is within a threshold."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._core.check import check_embeddings
from metricjax._core.types import Scalar
from metricjax.distances import Distance, LpDistance


def match(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    threshold: Scalar,
    *,
    distance: Distance = LpDistance(),
) -> Bool[Array, " n"]:
    r"""Whether each row of `x` matches the same row of `y`.

    .. math:: d(x_i, y_i) \le t \quad\text{or, for a similarity,}\quad s(x_i, y_i) \ge t

    It is the distance that compares whole sets, with its normalization and its power. A NaN
    matches nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import inference
        >>> from metricjax.distances import CosineSimilarity
        >>> x, y = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[0.1, 0.0], [1.0, 1.0]])
        >>> print(inference.match(x, y, 0.9, distance=CosineSimilarity()))
        [ True False]

    Args:
        x: ``[N, D]``.
        y: ``[N, D]``.
        threshold: the largest distance, or smallest similarity, of a match; traced.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``.

    Raises:
        ValueError: if `x` and `y` have not the same shape ``[N, D]``.
        TypeError: if they are not floating.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_embeddings("inference.match", "x", x)
    check_embeddings("inference.match", "y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"inference.match: `y` must have shape {x.shape} to match `x` row by row, "
            f"got {y.shape}. To compare all with all, use `inference.Index.matches`."
        )
    return within(row_distances(x, y, distance), threshold, distance)


def row_distances(x, y, distance):
    """The distance of each row of `x` to the same row of `y`, by the distance of whole sets."""
    return jax.vmap(lambda a, b: distance(a[None], b[None])[0, 0])(x, y)


def within(distances, threshold, distance):
    """Which distances are those of a match."""
    threshold = jnp.asarray(threshold, distances.dtype)
    return distances >= threshold if distance.is_similarity else distances <= threshold
