r"""Re-ranking by k-reciprocal neighbors, without a matrix of all rows.

The definition of `k_reciprocal` compares all Q queries and G gallery rows with each other,
N = Q + G rows in all, and gives each row a vector V of N entries. Two matrices ``[N, N]`` of
Market-1501 would take 4 GiB. Almost all entries of V are 0, so this file never holds such a matrix:

1. `search` finds the nearest rows of every row: ``near [N, max(k1 + 1, k2)]``.
2. `reciprocal_sets` makes the set R* of every row from these lists alone.
3. `_weighted` takes the distances of a block of rows to all rows. It keeps the largest one of each
   row, and those to R*, which are the entries of V.
4. `averaged` averages V over the k2 nearest rows. V is now final, in lists (`Lists`)::

       row 0:  (0, 0.6) (4, 0.4)               start    0  2  5 ...
       row 1:  (0, 0.1) (2, 0.5) (3, 0.4)      columns  0  4  0  2  3 ...
       ...                                     values  .6 .4 .1 .5 .4 ...

5. Two rows overlap only if they share a column. `by_column` lists the gallery rows that have a
   column, so `overlaps` visits only pairs that share one. All other pairs have Jaccard distance 1.
6. `_blended` adds up both distances of a block of queries, ``[block, G]``, and `_nearest` takes the
   best.

Steps 1, 3 and 6 are products, in JAX. The others move short lists around, in NumPy on the host.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metricjax._core.check import check_at_least, check_is_distance, check_known
from metricjax._core.masked import upcast
from metricjax._core.tuning import block_sizes
from metricjax.distances import Distance, LpDistance, SNRDistance
from metricjax.evaluation._knn import Neighbors, in_space_of, search
from metricjax.evaluation.rerank._arguments import both_sides, check_number
from metricjax.evaluation.rerank._lists import (
    Lists,
    averaged,
    by_column,
    full_blocks,
    overlaps,
    reciprocal_sets,
)

PAIRS = 2**23
"""A block of rows has about this many distances, 32 MiB, but at least `LEAST_ROWS` rows."""

LEAST_ROWS = 32
"""Products of fewer rows wait for the gallery to come from memory."""


def k_reciprocal(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    k: int,
    *,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
    distance: Distance = LpDistance(),
    block_size: int | None = None,
) -> Neighbors:
    r"""Finds the `k` best gallery rows of every query by their k-reciprocal distance, best first.

    Two rows are k-reciprocal neighbors if each is among the nearest rows of the other. Rows that
    have the same such neighbors probably belong together, even if they are far apart. Queries and
    gallery are ranked together here, so every query also changes the results of other queries.

    Let :math:`N_k(i)` be the k + 1 nearest of all rows, including row i itself, and c run over all
    rows:

    .. math::
        D_{ij} = \frac{d(x_i, x_j)^2}{\max_c d(x_i, x_c)^2}, \qquad
        R_k(i) = \{j \in N_k(i) : i \in N_k(j)\}

    .. math::
        R^*(i) = R_{k_1}(i) \cup \bigcup_j \left\{ R_h(j) : j \in R_{k_1}(i),\
        |R_h(j) \cap R_{k_1}(i)| > \tfrac{2}{3} |R_h(j)| \right\}, \qquad h = k_1 / 2

    .. math::
        V_{ic} = \frac{e^{-D_{ic}} [c \in R^*(i)]}{\sum_{b \in R^*(i)} e^{-D_{ib}}}, \qquad
        \bar V_i = \frac{1}{k_2} \sum_{j \in N_{k_2 - 1}(i)} V_j

    .. math::
        s_{ij} = \sum_c \min(\bar V_{ic}, \bar V_{jc}), \qquad
        d^*_{ij} = (1 - \lambda) \left( 1 - \frac{s_{ij}}{2 - s_{ij}} \right) + \lambda D_{ij}

    Among equal distances the lower index comes first, in the result and in every :math:`N_k`. `h`
    is rounded to the nearest integer, and a half to the even one. If there are fewer rows than `k1`
    or `k2` ask for, all rows are taken.

    The result is exact. Memory does not grow as :math:`(Q + G)^2`: a block of rows is compared with
    all rows at a time, and only short lists are kept. Part of the work is done by NumPy, so the
    function cannot be called under `jit`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import rerank
        >>> query = jnp.array([[1.0, 0.2], [0.3, 1.0]])
        >>> gallery = jnp.array([[1.0, 1.1], [-1.0, 2.0], [2.0, 1.0], [1.0, 2.2]])
        >>> raw = LpDistance(normalize_embeddings=False)
        >>> found = rerank.k_reciprocal(query, gallery, 2, k1=2, k2=1, distance=raw)
        >>> print(found.indices.tolist())
        [[0, 2], [0, 3]]
        >>> print(found.distances[0].round(3))
        [0.108 0.768]

    Args:
        query: ``[Q, D]``.
        gallery: ``[G, D]``.
        k: how many gallery rows to return for each query.
        k1: how many neighbors must be reciprocal.
        k2: over how many of the nearest rows V is averaged, including the row itself; 1 leaves V as
            it is.
        lam: the weight of the original distance, from 0 to 1.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``; no similarity. It is squared, as in the
            formula, so `LpDistance` must keep ``power=1``. By default the Euclidean distance
            between vectors of length 1.
        block_size: how many rows to compare with all rows at once; by default about 8 million
            distances are computed at once.

    Returns:
        ``distances [Q, K]``, the k-reciprocal distances, in [0, 1]; and ``indices [Q, K]``, rows of
        the gallery.

    Raises:
        ValueError: for mismatched shapes, for a `k` that is not from 1 to G, for a `k1`, `k2` or
            `block_size` that is not positive, for a `lam` outside [0, 1], or if distances are NaN
            or infinite.
        TypeError: if embeddings are not floating or are traced, or if `distance` is a similarity.

    References:
        Zhong et al., `Re-ranking Person Re-identification with k-reciprocal Encoding
        <https://arxiv.org/abs/1701.08398>`_, 2017.
    """
    name = "evaluation.rerank.k_reciprocal"
    options = {"k1": k1, "k2": k2, "lam": lam, "distance": distance, "block_size": block_size}
    query, gallery = _checked(name, query, gallery, **options)
    check_at_least(name, "k", k, 1)
    if k > len(gallery):
        raise ValueError(
            f"{name}: `k` must be at most {len(gallery)}, the number of rows of `gallery`, got {k}."
        )
    nearest = np.empty((len(query), k), upcast(query).dtype)
    indices = np.empty((len(query), k), np.int32)
    for rows, distances in _reranked(name, query, gallery, **options):
        nearest[rows], indices[rows] = _nearest(distances, k=k)
    return Neighbors(jnp.asarray(nearest), jnp.asarray(indices))


def k_reciprocal_distances(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    *,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
    distance: Distance = LpDistance(),
    block_size: int | None = None,
) -> Float[Array, "q g"]:
    """Computes the k-reciprocal distance of every query to every gallery row.

    The formula and the arguments are those of `metricjax.evaluation.rerank.k_reciprocal`, which
    does not hold all distances. Use this function for small galleries.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> query, gallery = jnp.array([[1.0, 0.2]]), jnp.array([[1.0, 0.4], [0.1, 1.0]])
        >>> print(rerank.k_reciprocal_distances(query, gallery, k1=1, k2=1).round(3))
        [[0.026 1.   ]]

    Args:
        query: ``[Q, D]``.
        gallery: ``[G, D]``.
        k1: how many neighbors must be reciprocal.
        k2: over how many of the nearest rows V is averaged.
        lam: the weight of the original distance, from 0 to 1.
        distance: pairwise ``[N, D], [M, D] -> [N, M]``; no similarity.
        block_size: how many rows to compare with all rows at once.

    Returns:
        ``[Q, G]``, in [0, 1].

    Raises:
        ValueError: as `metricjax.evaluation.rerank.k_reciprocal`.
        TypeError: as `metricjax.evaluation.rerank.k_reciprocal`.

    References:
        Zhong et al., `Re-ranking Person Re-identification with k-reciprocal Encoding
        <https://arxiv.org/abs/1701.08398>`_, 2017.
    """
    name = "evaluation.rerank.k_reciprocal_distances"
    options = {"k1": k1, "k2": k2, "lam": lam, "distance": distance, "block_size": block_size}
    query, gallery = _checked(name, query, gallery, **options)
    mat = np.empty((len(query), len(gallery)), upcast(query).dtype)
    for rows, distances in _reranked(name, query, gallery, **options):
        mat[rows] = distances
    return jnp.asarray(mat)


def _reranked(
    function, query, gallery, *, k1, k2, lam, distance, block_size
) -> Iterator[tuple[slice, jax.Array]]:
    """Yields the final distances of blocks of queries. The last block starts early, to be full."""
    if not len(query):
        return
    x, q = jnp.concatenate([query, gallery]), len(query)
    n = len(x)
    wanted = min(n, max(k1 + 1, k2))
    near = np.asarray(search(x, x, k=wanted, distance=distance, block_size=block_size).indices)
    x = in_space_of(distance, x)
    size = block_size or min(block_sizes().search[0], max(LEAST_ROWS, PAIRS // n))
    lists, farthest = _weighted(function, reciprocal_sets(near, k1), x, distance, size)
    if k2 > 1:
        lists = averaged(lists, near[:, :k2])
    gallery_lists = by_column(lists, q, n)
    query, gallery = x[:q], x[q:]
    for rows in full_blocks(q, size):
        common = overlaps(lists, rows, gallery_lists, n - q).astype(farthest.dtype)
        args = query, rows.start, gallery, farthest[rows], common, float(lam)
        yield rows, _blended(*args, distance=distance)


def _weighted(function, sets, x, distance, size):
    """V before it is averaged, and the largest distance of every row."""
    start, columns = sets
    n, counts = len(x), np.diff(start)
    # one width for all blocks, and for most calls, so that one program is compiled
    width = -(-int(counts.max()) // 32) * 32
    dtype = upcast(x[:0]).dtype
    farthest, values = np.empty(n, dtype), np.empty(len(columns), dtype)
    for rows in full_blocks(n, size):
        part = slice(start[rows.start], start[rows.stop])
        there = np.arange(width)[None, :] < counts[rows, None]
        padded = np.zeros(there.shape, np.int32)
        padded[there] = columns[part]
        largest, distances = map(np.asarray, _against_all(x, rows.start, padded, distance=distance))
        if not np.isfinite(largest).all():
            raise ValueError(
                f"{function}: distances of `query` and `gallery` must be finite, got NaN or "
                f"infinity. Leave such rows out, or scale them."
            )
        largest = np.where(largest > 0, largest, 1)  # all rows are equal, and all distances 0
        weights = np.where(there, np.exp(-((distances / largest[:, None]) ** 2)), 0)
        # of many duplicates, those with a high index are among the nearest of no row, not even
        # of themselves: they have no columns
        weights /= np.maximum(weights.sum(1, keepdims=True), np.finfo(dtype).tiny)
        farthest[rows], values[part] = largest, weights[there]
    return Lists(start, columns, values), farthest


def _in_space(distance):
    """Returns the distance of rows that are in its space: they are not normalized again."""
    ours = type(distance) in (LpDistance, SNRDistance)
    return distance.between if ours and distance.normalize_embeddings else distance


@functools.partial(jax.jit, static_argnames="distance")
def _against_all(x, start, columns, *, distance):
    """The largest distance of a block of rows to any row, and their distances to `columns`."""
    mat = _in_space(distance)(jax.lax.dynamic_slice_in_dim(x, start, len(columns)), x)
    return jnp.max(mat, 1), jnp.take_along_axis(mat, columns, 1)


@functools.partial(jax.jit, static_argnames="distance")
def _blended(query, start, gallery, farthest, common, lam, *, distance):
    """The final distances of a block of queries."""
    mat = _in_space(distance)(jax.lax.dynamic_slice_in_dim(query, start, len(common)), gallery)
    mat = jnp.square(mat / farthest[:, None])
    jaccard = jnp.maximum(1 - common / (2 - common), 0)  # `common` is 1 but for rounding
    return (1 - lam) * jaccard + lam * mat


@functools.partial(jax.jit, static_argnames="k")
def _nearest(distances, *, k):
    score, indices = jax.lax.top_k(-distances, k)
    return -score, indices


def _checked(function, query, gallery, *, k1, k2, lam, distance, block_size):
    check_known(function, "query", query)
    check_known(function, "gallery", gallery)
    query, gallery = both_sides(function, query, gallery)
    check_at_least(function, "k1", k1, 1)
    check_at_least(function, "k2", k2, 1)
    check_number(function, "lam", lam, 1)
    check_is_distance(function, distance)
    if distance.is_similarity:
        raise TypeError(
            f"{function}: `distance` must be a distance, got {distance}. Use LpDistance(), which "
            f"orders rows as the cosine does."
        )
    if getattr(distance, "power", 1) != 1:
        raise ValueError(
            f"{function}: `distance` must have power=1, because it is squared here, got {distance}."
        )
    if block_size is not None:
        check_at_least(function, "block_size", block_size, 1)
    return query, gallery
