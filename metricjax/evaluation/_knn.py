"""Exact nearest neighbours, a block of queries at a time."""

import functools
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metricjax._check import check_embeddings, check_rows
from metricjax.distances import Distance, LpDistance


def knn(
    query: Float[Array, "q d"],
    reference: Float[Array, "m d"],
    k: int,
    *,
    distance: Distance = LpDistance(),
    self_index: Int[Array, " q"] | None = None,
    where: Bool[Array, " m"] | None = None,
    block_size: int = 256,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    r"""Finds the `k` nearest references of every query, nearest first.

    .. math:: \mathrm{index}_{i} = \operatorname{argsort}_j d(x_i, y_j)_{[:k]}

    The search is exact and looks at every pair, but holds only ``[block_size, M]`` distances at a
    time. Among equal distances the lower reference index comes first. A NaN distance ranks behind
    every number.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import knn
        >>> x = jnp.array([[0.0], [1.0], [3.0], [7.0]])
        >>> distances, indices = knn(
        ...     x, x, 2, distance=LpDistance(normalize_embeddings=False), self_index=jnp.arange(4)
        ... )
        >>> print(indices.tolist())
        [[1, 2], [0, 2], [1, 0], [2, 1]]

    Args:
        query: ``[Q, D]``.
        reference: ``[M, D]``.
        k: how many neighbours; static.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``; static. By default the Euclidean distance
            between vectors of length 1.
        self_index: ``[Q]``, where each query sits among the references, so that it is not its own
            neighbour. A value outside ``[0, M)`` leaves nothing out.
        where: ``[M]``, which references exist; all of them by default.
        block_size: how many queries to search for at once; static. Larger takes more memory.

    Returns:
        ``distances [Q, K]`` and ``indices [Q, K]``. Where `where` leaves fewer than `k` references,
        the missing neighbours have index -1, at distance inf (similarity -inf).

    Raises:
        ValueError: for mismatched shapes, or if `k` or `block_size` is not positive, or if `k` is
            more than the M references (M - 1 with `self_index`).
        TypeError: if the embeddings are not floating.
    """
    query, reference = check_search("evaluation.knn", query, reference)
    check_rows("evaluation.knn", "self_index", self_index, "query", len(query))
    check_rows("evaluation.knn", "where", where, "reference", len(reference))
    check_k("evaluation.knn", k, len(reference) - (self_index is not None))
    check_at_least_1("evaluation.knn", "block_size", block_size)
    own = jnp.full(len(query), -1) if self_index is None else jnp.asarray(self_index)
    where = jnp.ones(len(reference), bool) if where is None else jnp.asarray(where, bool)
    return _knn(query, reference, own, where, k=k, distance=distance, block_size=block_size)


@functools.partial(jax.jit, static_argnames=("k", "distance", "block_size"))
def _knn(query, reference, own, where, *, k, distance, block_size):
    def search(args):
        x, own = args
        exists = where & (jnp.arange(len(reference)) != own)
        return nearest(x, reference, exists, k=k, distance=distance)

    return jax.lax.map(search, (query, own), batch_size=block_size)


def nearest(x, reference, exists, *, k, distance):
    """The `k` references nearest to the one query `x [D]`, among those that exist."""
    mat = distance(x[None], reference)[0]
    score = mat if distance.is_similarity else -mat
    score = jnp.where(score == 0, 0, score)  # top_k ranks -0 behind 0
    score = jnp.nan_to_num(score, nan=jnp.finfo(score.dtype).min)  # and NaN first
    score, index = jax.lax.top_k(jnp.where(exists, score, -jnp.inf), k)
    found = score > -jnp.inf
    worst = -jnp.inf if distance.is_similarity else jnp.inf
    return jnp.where(found, mat[index], worst), jnp.where(found, index, -1)


def check_search(function, query, reference):
    """Both sides as checked arrays of equal width."""
    query, reference = jnp.asarray(query), jnp.asarray(reference)
    check_embeddings(function, "query", query)
    check_embeddings(function, "reference", reference)
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{function}: `reference` must have {query.shape[1]} features to match `query`, "
            f"got {reference.shape}."
        )
    return query, reference


def check_k(function, k, available):
    check_at_least_1(function, "k", k)
    if k > available:
        raise ValueError(
            f"{function}: `k` must be at most {available}, the number of references "
            f"other than the query itself, got {k}."
        )


def check_at_least_1(function, name, value):
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{function}: `{name}` must be a whole number of at least 1, got {value}.")
