"""Pairs: whether two embeddings match, and the distances of labeled pairs to choose by."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from metricjax._core.check import check_at_least, check_embeddings, check_rows
from metricjax._core.types import Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.inference._names import names


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


class LabeledPairs(NamedTuple):
    """Pairs of embeddings: what the functions that choose thresholds take, ``f(*pairs, ...)``.

    Attributes:
        distances: ``[P]``, distances or similarities.
        is_match: ``[P]``, whether the labels of the two are equal.
        weights: ``[P]``, how many pairs each stands for.
    """

    distances: Float[np.ndarray, " p"]
    is_match: Bool[np.ndarray, " p"]
    weights: Float[np.ndarray, " p"]


def pair_distances(
    embeddings: Float[ArrayLike, "n d"],
    labels: Any,
    *,
    distance: Distance = LpDistance(),
    max_pairs: int = 2_000_000,
    seed: int = 0,
) -> LabeledPairs:
    """The distance of every two embeddings, and whether their labels are equal.

    Each two are one pair. If there are more than `max_pairs`, pairs with equal and with different
    labels are sampled apart, evenly, and weighted by how many each stands for. Every pair has the
    same chance among its kind, so rates and precisions are those of all pairs, but for chance.

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
        max_pairs: how many pairs to look at; at least 2.
        seed: of the sample.

    Returns:
        `LabeledPairs` with at most `max_pairs` rows.

    Raises:
        ValueError: for mismatched shapes.
        TypeError: for other dtypes.
    """
    name = "inference.pair_distances"
    x = jnp.asarray(embeddings)
    check_embeddings(name, "embeddings", x)
    labels = names(name, "labels", labels)
    check_rows(name, "labels", labels, "embeddings", len(x))
    check_at_least(name, "max_pairs", max_pairs, 2)

    # With equal labels side by side, row i pairs with the rest of its class, then with all later
    # classes: two runs of partners.
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
    distances = _distances(x, i, j, distance=distance) if len(i) else np.zeros(0, np.float32)
    weights = np.concatenate([np.full(n, runs.total / max(n, 1)) for runs, n in parts])
    return LabeledPairs(np.asarray(distances), np.arange(len(i)) < len(matches[0]), weights)


@functools.partial(jax.jit, static_argnames="distance")
def _distances(x, i, j, *, distance):
    part = lambda ij: row_distances(x[ij[0]][None], x[ij[1]][None], distance)[0]
    return jax.lax.map(part, (i, j), batch_size=4096)


class _Runs:
    """Pairs (i, j), where the partners j of row i are those from ``start[i]`` to ``stop[i]``."""

    def __init__(self, start, stop):
        self.start, self.ends = start, np.cumsum(stop - start)
        self.total = int(self.ends[-1]) if len(start) else 0

    def sample(self, most, rng):
        """All of the pairs, or one from each of `most` equal stretches of their list."""
        if self.total <= most:
            place = np.arange(self.total)
        else:
            place = ((np.arange(most) + rng.random(most)) * (self.total / most)).astype(np.int64)
            place = np.minimum(place, self.total - 1)
        i = np.searchsorted(self.ends, place, side="right")
        return i, self.start[i] + place - np.append(0, self.ends)[i]
