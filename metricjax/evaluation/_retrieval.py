"""Metrics of how well nearest neighbors agree with the labels."""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from metricjax._core.check import check_at_least, check_is_distance
from metricjax._core.refs import replicated
from metricjax._core.tuning import block_sizes
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._knn import (
    Ignore,
    any_ignored,
    as_ignores,
    check_k,
    check_search,
    found,
    of_queries,
    of_references,
    search,
)
from metricjax.evaluation._labels import for_search, most_matches
from metricjax.evaluation._metrics import RANKED
from metricjax.evaluation._scoring import ELEMENTS


def retrieval_metrics(
    query: Float[Array, "q d"],
    query_labels: Int[Array, " q"],
    reference: Float[Array, "m d"] | None = None,
    reference_labels: Int[Array, " m"] | None = None,
    *,
    ref_includes_query: bool = False,
    ignore: Ignore | None = None,
    k: int | None = None,
    distance: Distance = LpDistance(),
    block_size: int | None = None,
) -> dict[str, Float[Array, ""]]:
    r"""Computes precision@1, R-precision and MAP@R: how many neighbors are of the query's class.

    Let :math:`m_i` be 1 if the i-th neighbor has the query's label and 0 otherwise, :math:`P_i` the
    share of matches among the first i neighbors, R the number of references with the query's label,
    and :math:`r = \min(R, k)`. Each metric is averaged over the queries:

    .. math::
        \text{precision@1} = m_1, \qquad
        \text{R-precision} = \frac{1}{r} \sum_{i=1}^{r} m_i, \qquad
        \text{MAP@R} = \frac{1}{R} \sum_{i=1}^{r} m_i P_i

    R differs from query to query. Queries with R = 0 are left out. A neighbor at a NaN distance
    does not match. If `k` is below R, R-precision is the precision at `k`, and MAP@R is at most
    k / R.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import retrieval_metrics
        >>> x = jnp.array([[0.0], [1.0], [3.0], [7.0], [12.0]])
        >>> labels = jnp.array([0, 0, 1, 0, 1])
        >>> scores = retrieval_metrics(x, labels, distance=LpDistance(normalize_embeddings=False))
        >>> for name, score in scores.items():
        ...     print(f"{name} {score:.1f}")
        mean_average_precision_at_r 0.2
        precision_at_1 0.4
        r_precision 0.2

    Args:
        query: ``[Q, D]``.
        query_labels: ``[Q]`` integers of any size or strings, in a NumPy array or a list; or a
            `jax.Array` of integers, in which JAX has already truncated integers beyond int32.
        reference: ``[M, D]``, the rows to search. By default each query searches among the other
            queries.
        reference_labels: ``[M]``; required if `reference` is given, and not allowed otherwise.
        ref_includes_query: whether the first Q references are the queries. If so, no query is its
            own neighbor.
        ignore: pairs that are left out of the neighbors and of R; see `Ignore`.
        k: how many neighbors to search for; static. The default is the largest R, which requires
            labels whose values are known: under `jit`, give `k`.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``; static.
        block_size: how many queries to search for at once; static. The default is that of `knn`.

    Returns:
        A dict with ``precision_at_1``, ``r_precision`` and ``mean_average_precision_at_r``, scalars
        in ``[0, 1]``; NaN if all queries are left out.

    Raises:
        ValueError: for mismatched shapes; for a `k` that is missing under `jit`, not positive, or
            larger than the number of references (without the query); for a bad `block_size`; for
            integers beyond int32 if the labels of the other side are a `jax.Array`.
        TypeError: if embeddings are not floating, or if labels are neither integers nor strings.

    References:
        Musgrave et al., `A Metric Learning Reality Check <https://arxiv.org/abs/2003.08505>`_,
        2020.
    """
    name = "evaluation.retrieval_metrics"
    ref_includes_query = ref_includes_query or reference is None
    given = query, query_labels, reference, reference_labels
    query, query_labels, reference, reference_labels = checked_sets(name, *given, distance)
    if ref_includes_query and len(reference) < len(query):
        raise ValueError(
            f"{name}: `reference` must start with the {len(query)} queries when "
            f"`ref_includes_query`, got {reference.shape}."
        )
    if k is None:
        if isinstance(query_labels, Tracer) or isinstance(reference_labels, Tracer):
            raise ValueError(
                f"{name}: `k` must be given under `jit`, where the labels have no values yet."
            )
        k = max(most_matches(query_labels, reference_labels) - ref_includes_query, 0)
    else:
        check_k(name, k, len(reference) - ref_includes_query)
    if block_size is not None:
        check_at_least(name, "block_size", block_size, 1)
    n, m = len(query), len(reference)
    ignores = as_ignores(name, ignore, "query", n, m, within=ref_includes_query)
    if ignores:  # their relation meets all references of a block of queries at once
        size = max(1, ELEMENTS // max(1, m))
        block_size = min(block_size or block_sizes().search[0], size)
    own = jnp.arange(len(query)) if ref_includes_query else None
    rows = jnp.asarray(query_labels), own, of_queries(ignores)
    shared = replicated((jnp.asarray(reference_labels), of_references(ignores)))
    options = {"k": k, "distance": distance, "block_size": block_size, "then": _scores}
    scores, counts = search(query, reference, rows, shared, own=own, ignores=ignores, **options)
    return {name: jnp.mean(x, where=replicated(counts)) for name, x in replicated(scores).items()}


def checked_sets(function, query, query_labels, reference, reference_labels, distance):
    """The arguments of a search with labels, checked; without a reference, that is the query."""
    if (reference is None) != (reference_labels is None):
        raise ValueError(f"{function}: give both `reference` and `reference_labels`, or neither.")
    if reference is None:
        reference, reference_labels = query, query_labels
    query, reference = check_search(function, query, reference)
    check_is_distance(function, distance)
    sides = (
        ("query_labels", query_labels, "query", len(query)),
        ("reference_labels", reference_labels, "reference", len(reference)),
    )
    query_labels, reference_labels = for_search(function, sides)
    return query, query_labels, reference, reference_labels


def _scores(neighbors, rows, shared):
    """Returns the scores of a block of queries, and which of these queries count."""
    (labels, own, ignores), (reference_labels, left_out) = rows, shared
    same = reference_labels[None, :] == labels[:, None]
    if own is not None:
        same &= jnp.arange(len(reference_labels))[None, :] != own[:, None]
    relevant = jnp.sum(same & ~any_ignored(ignores, left_out), 1)
    matches = found(neighbors) & (reference_labels[neighbors.indices] == labels[:, None])
    names = "mean_average_precision_at_r", "precision_at_1", "r_precision"
    return {name: RANKED[name](matches, relevant) for name in names}, relevant > 0
