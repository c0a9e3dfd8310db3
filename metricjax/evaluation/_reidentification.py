r"""Metrics of re-identification: find every picture of a person, from the ranks of all matches.

`match_ranks` searches once and returns the rank of every match. The metrics are formulas of these
ranks. In the formulas :math:`r_{ij}` is the rank of the j-th of the :math:`R_i` matches of query i,
in ascending order from 1, and Q counts the queries that have a match. All others are left out.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from metricjax._core.check import check_at_least, check_known
from metricjax._core.types import Labels
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._knn import (
    Ignore,
    as_ignores,
    count_before,
    different,
    search,
)
from metricjax.evaluation._labels import most_matches, on_every_host
from metricjax.evaluation._retrieval import checked_sets


def match_ranks(
    query: Float[Array, "q d"],
    query_labels: Labels,
    reference: Float[Array, "m d"] | None = None,
    reference_labels: Labels = None,
    *,
    ignore: Ignore | None = None,
    distance: Distance = LpDistance(),
) -> Int[np.ndarray, "q r"]:
    r"""Finds the ranks of all references with the query's label, among all references.

    .. math:: r_{ij} = j + |\{n : y_n \ne y_i,\ n \text{ comes before the } j\text{-th match}\}|

    Among equal distances the lower reference index comes first. The references are never sorted:
    one search finds the matches, nearest first, and a second pass over the references counts those
    that come before each match. Both hold a block of distances at a time, as `knn` does. The cost
    is :math:`Q M (2 D + R)`, where R is the largest number of matches.

    Example:
        Two persons in the pictures of two cameras. The query's own camera is left out
        (the rules of Market-1501):

        >>> import jax.numpy as jnp
        >>> from metricjax import evaluation
        >>> query, person, camera = jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.array([0])
        >>> gallery = jnp.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]])
        >>> persons, cameras = jnp.array([0, 1, 0, 0]), jnp.array([0, 1, 1, 1])
        >>> ranks = evaluation.match_ranks(
        ...     query, person, gallery, persons,
        ...     ignore=evaluation.Ignore((person, camera), (persons, cameras)),
        ... )
        >>> print(ranks)
        [[2 3 0]]
        >>> print(evaluation.cmc(ranks, 3))
        [0. 1. 1.]
        >>> print(f"{evaluation.mean_average_precision_of_ranks(ranks):.4f}")
        0.5833
        >>> print(f"{evaluation.mean_inverse_negative_penalty(ranks):.4f}")
        0.6667

    Args:
        query: ``[Q, D]``.
        query_labels: ``[Q]`` integers of any size or strings; their values must be known, so this
            function cannot be called under `jit`.
        reference: ``[M, D]``, the gallery. By default each query searches among the other queries.
        reference_labels: ``[M]``; required if `reference` is given, and not allowed otherwise.
        ignore: pairs that are left out, as if the reference did not exist for this query; see
            `Ignore`.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``.

    Returns:
        ``[Q, R]`` ranks from 1, in ascending order; 0 where a query has fewer than R matches. R is
        at least 1.

    Raises:
        ValueError: for mismatched shapes, or if the distance of a match is NaN.
        TypeError: if the embeddings are not floating, or if `ignore` is not an `Ignore`.

    References:
        Zheng et al., `Scalable Person Re-identification: A Benchmark
        <https://doi.org/10.1109/ICCV.2015.133>`_, 2015.
    """
    name = "evaluation.match_ranks"
    within = reference is None
    given = query, query_labels, reference, reference_labels
    sides = "query", "query_labels", "reference", "reference_labels"
    for side, value in zip(sides, given, strict=True):
        check_known(name, side, value)
    query, labels, reference, ref_labels = checked_sets(name, *given, distance)
    ignores = as_ignores(name, ignore, "query", len(query), len(reference), within=within)
    most = most_matches(labels, ref_labels) - within
    if most < 1:
        return np.zeros((len(query), 1), np.int32)
    matches = search(
        query, reference, k=most, distance=distance, own=jnp.arange(len(query)) if within else None,
        ignores=(*ignores, Ignore(labels, ref_labels, different)),
    )  # fmt: skip
    distances, indices = map(on_every_host, matches)
    _check_no_nan(name, distances)
    # Matches are in order, so only others are counted. A match is then never before itself, even
    # if the two passes round its distance differently.
    others = (*ignores, Ignore(labels, ref_labels))
    before = count_before(query, reference, matches, ignores=others, distance=distance)
    return np.where(indices >= 0, on_every_host(before) + np.arange(1, most + 1)[None, :], 0)


def cmc(ranks: ArrayLike, max_rank: int = 10) -> Float[np.ndarray, " k"]:
    r"""Computes the cumulative matching characteristic: how many first matches have rank <= k.

    .. math:: \mathrm{CMC}@k = \frac{1}{Q} |\{i : r_{i1} \le k\}|

    The entry at index k - 1 is CMC@k, often called Rank-k. It is the mean of
    `metricjax.evaluation.recall_at_k`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import cmc
        >>> print(cmc(jnp.array([[1, 4], [3, 0], [0, 0]]), 4))
        [0.5 0.5 1.  1. ]

    Args:
        ranks: ``[Q, R]``, as `match_ranks` returns them.
        max_rank: the largest k.

    Returns:
        ``[max_rank]``; NaN if no query has a match.
    """
    check_at_least("evaluation.cmc", "max_rank", max_rank, 1)
    first = _of_kept("cmc", ranks)[:, :1]
    return _mean(first <= np.arange(1, max_rank + 1)[None, :])


def mean_average_precision_of_ranks(ranks: ArrayLike) -> float:
    r"""Computes the mean average precision (mAP): the mean of the precisions at every match.

    .. math:: \mathrm{mAP} = \frac{1}{Q} \sum_i \frac{1}{R_i} \sum_j \frac{j}{r_{ij}}

    It is the mean of `metricjax.evaluation.mean_average_precision` if that is given all neighbors.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import mean_average_precision_of_ranks
        >>> print(mean_average_precision_of_ranks(jnp.array([[1, 4], [4, 0], [0, 0]])))
        0.5

    Args:
        ranks: ``[Q, R]``, as `match_ranks` returns them.

    Returns:
        A float; NaN if no query has a match.
    """
    kept = _of_kept("mean_average_precision_of_ranks", ranks)
    matched, count = kept > 0, np.arange(1, kept.shape[1] + 1)[None, :]
    precision = count / np.where(matched, kept, np.inf)  # 0 where there is no match
    return float(_mean(precision.sum(1) / matched.sum(1)))


def mean_inverse_negative_penalty(ranks: ArrayLike) -> float:
    r"""Computes the mean inverse negative penalty (mINP): how early the last match is found.

    .. math:: \mathrm{mINP} = \frac{1}{Q} \sum_i \frac{R_i}{r_{i R_i}}

    It is 1 if all matches come before all other references.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import mean_inverse_negative_penalty
        >>> print(mean_inverse_negative_penalty(jnp.array([[1, 4], [4, 0], [0, 0]])))
        0.375

    Args:
        ranks: ``[Q, R]``, as `match_ranks` returns them.

    Returns:
        A float; NaN if no query has a match.

    References:
        Ye et al., `Deep Learning for Person Re-identification: A Survey and Outlook
        <https://arxiv.org/abs/2001.04193>`_, 2021.
    """
    kept = _of_kept("mean_inverse_negative_penalty", ranks)
    return float(_mean((kept > 0).sum(1) / kept.max(1)))


def _of_kept(function, ranks):
    """The ranks of the queries that have a match."""
    array = np.asarray(ranks)
    if array.ndim != 2 or not array.shape[1] or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"evaluation.{function}: `ranks` must be integers [Q, R], as `match_ranks` returns "
            f"them, got {array.dtype} {list(array.shape)}."
        )
    return array[array[:, 0] > 0]


def _mean(values):
    """The mean over the queries; NaN without a query, and no warning."""
    return values.sum(0) / (len(values) or np.nan)


def _check_no_nan(function, distances):
    if nan := int(np.isnan(distances).any(1).sum()):
        raise ValueError(
            f"{function}: `query` must have no NaN distance to a match, got some for {nan} of "
            f"{len(distances)} queries. Leave out the rows that are NaN or infinite."
        )
