"""Pairs: whether two embeddings match, and labeled pairs from which thresholds are chosen."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from metricjax._core.check import check_at_least, check_embeddings, check_row_by_row
from metricjax._core.names import column
from metricjax._core.rounding import check_distance, rounded
from metricjax._core.types import Scalar
from metricjax.distances import Distance, LpDistance, row_distances


def match(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    threshold: Scalar,
    *,
    distance: Distance = LpDistance(),
) -> Bool[Array, " n"]:
    r"""Returns whether each row of `x` matches the same row of `y`.

    .. math:: d(x_i, y_i) \le t \quad\text{or, for a similarity,}\quad s(x_i, y_i) \ge t

    The distance is the one that compares whole sets, with its normalization and its power. A cosine
    within 16 eps of 1 counts as 1, so that equal vectors match at a threshold of 1. A NaN distance
    never matches.

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
        ValueError: if `x` and `y` do not have the same shape ``[N, D]``.
        TypeError: if they are not floating, or if `threshold` is not a number.
    """
    name = "inference.match"
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_row_by_row(name, x, y)
    check_number(name, "threshold", threshold)
    distance = rounded(name, distance)
    return within(row_distances(x, y, distance=distance), threshold, distance)


def within(distances, threshold, distance):
    """Returns which distances are within the threshold."""
    threshold = jnp.asarray(threshold, distances.dtype)
    return distances >= threshold if distance.is_similarity else distances <= threshold


def check_number(function, name, value):
    """Checks that a value is one number, on the host or traced.

    A vector would be ambiguous: it could belong to either of two axes.
    """
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not jnp.issubdtype(dtype, np.number) or np.ndim(value):
        got = f"shape {np.shape(value)}" if np.ndim(value) else type(value).__name__
        raise TypeError(
            f"{function}: `{name}` must be one number, got {got}. For several use `jax.vmap` or a "
            f"loop."
        )


def the_distance(function, of, distance):
    """Returns the distance that pairs are `of`; another `distance` raises an error.

    A threshold for one distance means nothing for another distance.
    """
    if of is not None and distance is not None and of != distance:
        raise ValueError(
            f"{function}: `distance` must be the one of the pairs, {of}, got {distance}. Leave it "
            f"out, or compute the pairs by it."
        )
    distance = of if distance is None else distance
    check_distance(function, distance)
    return distance


class LabeledPairs(NamedTuple):
    """Labeled pairs of embeddings; functions that choose thresholds take them as ``f(*pairs)``.

    Attributes:
        distances: ``[P]``, distances or similarities.
        is_match: ``[P]``, whether the two labels of a pair are equal.
        weights: ``[P]``, how many pairs each pair stands for.
        distance: the distance that `distances` were computed with.
    """

    distances: Float[np.ndarray, " p"]
    is_match: Bool[np.ndarray, " p"]
    weights: Float[np.ndarray, " p"]
    distance: Distance


def pair_distances(
    embeddings: Float[ArrayLike, "n d"],
    labels: Any,
    *,
    distance: Distance = LpDistance(),
    max_pairs: int = 2_000_000,
    seed: int = 0,
) -> LabeledPairs:
    """Computes the distance of every pair of embeddings, and whether their labels are equal.

    Two embeddings are one pair, whatever their order. If there are more than `max_pairs`, pairs
    with equal labels and pairs with different labels are sampled separately and evenly. Each
    sampled pair is weighted by the number of pairs that it stands for. All pairs of one kind are
    equally likely to be sampled, so rates and precisions are estimates of those of all pairs.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import inference
        >>> from metricjax.distances import LpDistance
        >>> x, y = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([0, 0, 1])
        >>> pairs = inference.pair_distances(x, y, distance=LpDistance(normalize_embeddings=False))
        >>> print(pairs.distances, pairs.is_match)
        [1. 5. 4.] [ True False False]

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers or strings.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``.
        max_pairs: how many pairs to compute at most; at least 2.
        seed: the seed of the sample.

    Returns:
        `LabeledPairs` with at most `max_pairs` rows.

    Raises:
        ValueError: for mismatched shapes.
        TypeError: for other dtypes.
    """
    name = "inference.pair_distances"
    x = jnp.asarray(embeddings)
    check_embeddings(name, "embeddings", x)
    labels = column(name, "labels", labels, "embeddings", len(x))
    within_rounding = rounded(name, distance)
    check_at_least(name, "max_pairs", max_pairs, 2)

    # The rows are sorted by label. The partners of row i are two runs: the rest of its class, and
    # all later classes.
    order = np.argsort(labels, kind="stable")
    row = np.arange(len(x))
    class_end = np.searchsorted(labels[order], labels[order], side="right")
    equal, different = _Runs(row + 1, class_end), _Runs(class_end, np.full_like(row, len(x)))
    some_equal = max(max_pairs // 2, max_pairs - different.total)
    rng = np.random.default_rng(seed)
    matches = equal.sample(some_equal, rng)
    others = different.sample(max_pairs - len(matches[0]), rng)

    i, j = (order[np.concatenate(side)] for side in zip(matches, others, strict=True))
    parts = ((equal, len(matches[0])), (different, len(others[0])))
    options = {"distance": within_rounding}
    distances = _distances(x, i, j, **options) if len(i) else np.zeros(0, np.float32)
    weights = np.concatenate([np.full(n, runs.total / max(n, 1)) for runs, n in parts])
    is_match = np.arange(len(i)) < len(matches[0])
    return LabeledPairs(np.asarray(distances), is_match, weights, distance)


@functools.partial(jax.jit, static_argnames="distance")
def _distances(x, i, j, *, distance):
    part = lambda ij: row_distances(x[ij[0]][None], x[ij[1]][None], distance=distance)[0]
    return jax.lax.map(part, (i, j), batch_size=4096)


class _Runs:
    """Pairs (i, j): the partners j of row i are the rows from ``start[i]`` up to ``stop[i]``."""

    def __init__(self, start, stop):
        self.start, self.ends = start, np.cumsum(stop - start)
        self.total = int(self.ends[-1]) if len(start) else 0

    def sample(self, most, rng):
        """Returns all pairs, or a random pair from each of `most` equal parts of their list."""
        if self.total <= most:
            place = np.arange(self.total)
        else:
            place = ((np.arange(most) + rng.random(most)) * (self.total / most)).astype(np.int64)
            place = np.minimum(place, self.total - 1)
        i = np.searchsorted(self.ends, place, side="right")
        return i, self.start[i] + place - np.append(0, self.ends)[i]
