r"""Better search results without more training: re-ranking, expansion and whitening.

`k_reciprocal` is the hard part. Its definition compares all Q queries and G gallery rows with each
other, N = Q + G rows in all, and gives each row a vector V of N entries. Two matrices ``[N, N]`` of
Market-1501 would take 4 GiB. Almost all entries of V are 0, so this file never holds such a matrix:

1. `search` finds the nearest rows of every row: ``near [N, max(k1 + 1, k2)]``.
2. `_reciprocal_sets` makes the set R* of every row from these lists alone.
3. `_weighted` takes the distances of a block of rows to all rows. It keeps the largest one of each
   row, and those to R*, which are the entries of V.
4. `_averaged` averages V over the k2 nearest rows. V is now final, in lists (`_Lists`)::

       row 0:  (0, 0.6) (4, 0.4)               start    0  2  5 ...
       row 1:  (0, 0.1) (2, 0.5) (3, 0.4)      columns  0  4  0  2  3 ...
       ...                                     values  .6 .4 .1 .5 .4 ...

5. Two rows overlap only if they share a column. `_by_column` lists the gallery rows that have a
   column, so `_overlaps` visits only pairs that share one. All other pairs have Jaccard distance 1.
6. `_blended` adds up both distances of a block of queries, ``[block, G]``, and `_nearest` takes the
   best.

Steps 1, 3 and 6 are products, in JAX. The others move short lists around, in NumPy on the host.
"""

import functools
import math
from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from metricjax._core.check import check_at_least, check_embeddings, check_is_distance
from metricjax._core.masked import upcast
from metricjax._core.tuning import block_sizes
from metricjax.distances import (
    CosineSimilarity,
    Distance,
    DotProductSimilarity,
    LpDistance,
    normalize,
)
from metricjax.evaluation._knn import (
    Neighbors,
    _normalized_once,
    _top_k,
    found,
    in_space_of,
    search,
)

AT_ONCE = 2**20
"""NumPy works on about this many numbers at once: 8 MiB of int64, in each of a few arrays."""

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


def expand_queries(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    *,
    n: int = 10,
    alpha: float = 3.0,
) -> Float[Array, "q d"]:
    r"""Adds to every query its `n` nearest gallery rows: alpha query expansion.

    A query and its neighbors together describe what is searched for better than the query alone.
    Search with the result instead of `query`.

    .. math::
        q' = \frac{u}{\lVert u \rVert}, \qquad
        u = \hat q + \sum_{j \in \text{top } n} \max(\hat q \cdot \hat g_j, 0)^\alpha\, \hat g_j

    Rows with :math:`\hat q \cdot \hat g_j \le 0` add nothing, even if `alpha` is 0. Then all other
    neighbors have weight 1. The search holds only a block of similarities at a time.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> query, gallery = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0], [0.0, 1.0]])
        >>> print(rerank.expand_queries(query, gallery, n=1).round(4))
        [[0.9806 0.1961]]

    Args:
        query: ``[Q, D]``.
        gallery: ``[G, D]``, the rows to search.
        n: how many gallery rows to add to each query, at most G; static.
        alpha: the power of the similarities, at least 0. Larger values give nearer neighbors more
            weight. The paper uses 3, with 50 neighbors.

    Returns:
        ``[Q, D]``, rows of length 1, in at least float32.

    Raises:
        ValueError: for mismatched shapes, for an `n` that is not from 1 to G, or for a negative or
            infinite `alpha`.
        TypeError: if embeddings are not floating.

    References:
        Radenović et al., `Fine-tuning CNN Image Retrieval with No Human Annotation
        <https://arxiv.org/abs/1711.02512>`_, 2018.
    """
    name = "evaluation.rerank.expand_queries"
    query, gallery = _both(name, query, gallery)
    _check_expansion(name, n, alpha, len(gallery), "the number of rows of `gallery`")
    cosine = CosineSimilarity()
    return _expanded(in_space_of(cosine, query), in_space_of(cosine, gallery), None, n, alpha)


def augment(gallery: Float[Array, "g d"], *, n: int = 10, alpha: float = 3.0) -> Array:
    r"""Adds to every gallery row its `n` nearest other rows: database augmentation.

    This is `metricjax.evaluation.rerank.expand_queries` of the gallery by itself. A row is not
    among its own n neighbors:

    .. math::
        g_i' = \frac{u_i}{\lVert u_i \rVert}, \qquad
        u_i = \hat g_i + \sum_{j \in \text{top } n,\ j \ne i}
        \max(\hat g_i \cdot \hat g_j, 0)^\alpha\, \hat g_j

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> gallery = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> print(rerank.augment(gallery, n=1)[0].round(4))
        [0.9806 0.1961]

    Args:
        gallery: ``[G, D]``.
        n: how many other rows to add to each row, at most G - 1; static.
        alpha: the power of the similarities, at least 0.

    Returns:
        ``[G, D]``, rows of length 1, in at least float32.

    Raises:
        ValueError: for a wrong shape, for an `n` that is not from 1 to G - 1, or for a negative or
            infinite `alpha`.
        TypeError: if `gallery` is not floating.

    References:
        Radenović et al., `Fine-tuning CNN Image Retrieval with No Human Annotation
        <https://arxiv.org/abs/1711.02512>`_, 2018.
    """
    name = "evaluation.rerank.augment"
    gallery = jnp.asarray(gallery)
    check_embeddings(name, "gallery", gallery)
    _check_expansion(name, n, alpha, len(gallery) - 1, "the number of other rows of `gallery`")
    rows = in_space_of(CosineSimilarity(), gallery)
    return _expanded(rows, rows, jnp.arange(len(rows)), n, alpha)


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
    _check_known(name, "x", x)
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
    _check_number(name, "eps", eps)
    _check_number(name, "power", power)

    slices = _slices(n, AT_ONCE // features)
    mean, covariance = np.zeros(features), np.zeros((features, features))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite raises below
        for part in slices:
            mean += rows[part].astype(np.float64).sum(0) / n
        for part in slices:
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


# --- k-reciprocal distances --------------------------------------------------------------------


class _Lists(NamedTuple):
    """A list of columns and values for every row: row i has those from start[i] to start[i + 1]."""

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray


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
    x = _prepared(x, distance=distance)
    size = block_size or min(block_sizes().search[0], max(LEAST_ROWS, PAIRS // n))
    lists, farthest = _weighted(function, _reciprocal_sets(near, k1), x, distance, size)
    if k2 > 1:
        lists = _averaged(lists, near[:, :k2])
    by_column = _by_column(lists, q, n)
    query, gallery = x[:q], x[q:]
    for rows in _full_blocks(q, size):
        overlaps = _overlaps(lists, rows, by_column, n - q).astype(farthest.dtype)
        args = query, rows.start, gallery, farthest[rows], overlaps, float(lam)
        yield rows, _blended(*args, distance=distance)


def _mutual(near, k):
    """``[N, k + 1]``: which of the k + 1 nearest rows have this row among their k + 1 nearest."""
    near = near[:, : k + 1]
    mutual = np.empty(near.shape, bool)
    for rows in _slices(len(near), AT_ONCE // near.shape[1] ** 2):
        row = np.arange(rows.start, rows.stop)[:, None, None]
        mutual[rows] = (near[near[rows]] == row).any(2)
    return mutual


def _reciprocal_sets(near, k1):
    """R* of every row, sorted: row i has the columns from start[i] to start[i + 1]."""
    n, half = len(near), round(k1 / 2)  # a half is rounded to even, as in the definition
    wide, narrow = near[:, : k1 + 1], near[:, : half + 1]
    in_wide, in_narrow = _mutual(near, k1), _mutual(near, half)
    sizes = in_narrow.sum(1)
    counts, columns = [], []
    # `members` has a byte for each of N columns, `candidates` has (k1 + 1) (half + 1) numbers
    at_once = min(16 * AT_ONCE // n, AT_ONCE // (wide.shape[1] * narrow.shape[1]))
    for rows in _slices(n, at_once):
        near_rows, reciprocal = wide[rows], in_wide[rows]
        row = np.arange(len(near_rows))[:, None]
        members = np.zeros((len(near_rows), n), bool)
        members[row, near_rows] = reciprocal
        candidates = narrow[near_rows]
        exist = in_narrow[near_rows] & reciprocal[:, :, None]
        common = (members[row[:, :, None], candidates] & exist).sum(2)
        grown = exist & (3 * common > 2 * sizes[near_rows])[:, :, None]
        # N, which is no column, stands for what is left out, and is sorted to the end
        both = [np.where(reciprocal, near_rows, n), np.where(grown, candidates, n)]
        merged = np.sort(np.concatenate([part.reshape(len(row), -1) for part in both], 1), 1)
        new = merged < n
        new[:, 1:] &= merged[:, 1:] != merged[:, :-1]
        counts.append(new.sum(1))
        columns.append(merged[new])
    return _starts(np.concatenate(counts)), np.concatenate(columns)


def _weighted(function, sets, x, distance, size):
    """V before it is averaged, and the largest distance of every row."""
    start, columns = sets
    n, counts = len(x), np.diff(start)
    # one width for all blocks, and for most calls, so that one program is compiled
    width = -(-int(counts.max()) // 32) * 32
    dtype = upcast(x[:0]).dtype
    farthest, values = np.empty(n, dtype), np.empty(len(columns), dtype)
    for rows in _full_blocks(n, size):
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
    return _Lists(start, columns, values), farthest


def _averaged(lists, near):
    """The mean of the lists of the rows `near` ``[N, k2]`` each row."""
    n, k2 = near.shape
    near = np.sort(near, 1)  # so that rows with the same neighbors have the same sum, to the bit
    counts, columns, values = [], [], []
    for rows in _slices(n, AT_ONCE // (k2 * int(np.diff(lists.start).max()))):
        entries, owner = _entries(lists.start, near[rows].ravel())
        key = owner // k2 * n + lists.columns[entries]
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        values.append(np.add.reduceat(lists.values[entries[order]], first) / k2)
        row, column = np.divmod(key[first], n)
        columns.append(column.astype(np.int32))
        counts.append(np.bincount(row, minlength=rows.stop - rows.start))
    return _Lists(_starts(np.concatenate(counts)), np.concatenate(columns), np.concatenate(values))


def _by_column(lists, q, n):
    """The lists of the gallery, turned around: for every column, the gallery rows that have it."""
    first = lists.start[q]
    columns, values = lists.columns[first:], lists.values[first:]
    row = np.repeat(np.arange(n - q, dtype=np.int32), np.diff(lists.start[q:]))
    order = np.argsort(columns, kind="stable")
    return _Lists(_starts(np.bincount(columns, minlength=n)), row[order], values[order])


def _overlaps(lists, rows, by_column, g):
    """The sum of ``min(V_i, V_j)`` for a block of queries and all gallery rows, ``[block, G]``."""
    entries, owner = _entries(lists.start, np.arange(rows.start, rows.stop))
    columns, values = lists.columns[entries], lists.values[entries]
    pairs = np.cumsum(by_column.start[columns + 1] - by_column.start[columns])
    total = np.zeros((rows.stop - rows.start) * g)
    # entries are cut where they have met `AT_ONCE` gallery rows more
    cuts = np.searchsorted(pairs, np.arange(AT_ONCE, pairs[-1] if len(pairs) else 0, AT_ONCE))
    for part in np.split(np.arange(len(pairs)), cuts):
        met, which = _entries(by_column.start, columns[part])
        place = owner[part][which] * g + by_column.columns[met]
        common = np.minimum(values[part][which], by_column.values[met])
        total += np.bincount(place, common, minlength=len(total))
    return total.reshape(rows.stop - rows.start, g)


def _entries(start, rows):
    """Where the entries of these rows are in their lists, and for which of the rows each is."""
    counts = start[rows + 1] - start[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    ends = np.cumsum(counts)
    return np.arange(len(owner)) + (start[rows] - (ends - counts))[owner], owner


def _starts(counts):
    return np.concatenate([[0], np.cumsum(counts)])


def _slices(n, size):
    """Slices of at most `size` of n rows, and of at least one."""
    size = max(1, size)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _full_blocks(n, size):
    """Slices of equal size, so that one program is compiled. The last may repeat some rows."""
    size = min(size, n)
    return [slice(min(i, n - size), min(i + size, n)) for i in range(0, n, size)]


@functools.partial(jax.jit, static_argnames="distance")
def _prepared(x, *, distance):
    """Normalizes rows once, and not again in every block, if `distance` does normalize."""
    return _normalized_once(distance, x, x)[1]


def _measured(rows, x, distance):
    """The distances of prepared rows."""
    measure, *_ = _normalized_once(distance, rows, x)  # XLA drops what is not used: other rows
    return measure(rows, x)


@functools.partial(jax.jit, static_argnames="distance")
def _against_all(x, start, columns, *, distance):
    """The largest distance of a block of rows to any row, and their distances to `columns`."""
    mat = _measured(jax.lax.dynamic_slice_in_dim(x, start, len(columns)), x, distance)
    return jnp.max(mat, 1), jnp.take_along_axis(mat, columns, 1)


@functools.partial(jax.jit, static_argnames="distance")
def _blended(query, start, gallery, farthest, overlaps, lam, *, distance):
    """The final distances of a block of queries."""
    mat = _measured(jax.lax.dynamic_slice_in_dim(query, start, len(overlaps)), gallery, distance)
    mat = jnp.square(mat / farthest[:, None])
    jaccard = jnp.maximum(1 - overlaps / (2 - overlaps), 0)  # overlaps are 1 but for rounding
    return (1 - lam) * jaccard + lam * mat


@functools.partial(jax.jit, static_argnames="k")
def _nearest(distances, *, k):
    score, indices = _top_k(-distances, k)
    return -score, indices


# --- expansion ---------------------------------------------------------------------------------


def _expanded(query, gallery, own, n, alpha):
    """The expansion of normalized rows. The sum is taken right after the search of each block."""
    similarity = DotProductSimilarity(normalize_embeddings=False)
    shared = gallery, jnp.asarray(alpha, gallery.dtype)
    options = {"own": own, "k": n, "distance": similarity, "then": _with_neighbors}
    return search(query, gallery, query, shared, **options)


def _with_neighbors(neighbors, rows, shared):
    gallery, alpha = shared
    scores = jnp.where(found(neighbors), neighbors.distances, 0)
    positive = scores > 0  # so that 0 to the power 0 is 0
    weights = jnp.where(positive, jnp.where(positive, scores, 1) ** alpha, 0)
    return normalize(rows + jnp.sum(weights[:, :, None] * gallery[neighbors.indices], 1))


# --- whitening ---------------------------------------------------------------------------------


@jax.jit
def _whitened(x, mean, matrix):
    x = upcast(x)
    centered, matrix = x - mean.astype(x.dtype)[None, :], matrix.astype(x.dtype)
    return normalize(jnp.matmul(centered, matrix, precision=jax.lax.Precision.HIGHEST))


# --- checks ------------------------------------------------------------------------------------


def _both(function, query, gallery):
    """Both sides as checked arrays of equal width and dtype."""
    query, gallery = jnp.asarray(query), jnp.asarray(gallery)
    check_embeddings(function, "query", query)
    check_embeddings(function, "gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"{function}: `gallery` must have {query.shape[1]} features to match `query`, "
            f"got {gallery.shape}."
        )
    if query.dtype != gallery.dtype:
        query, gallery = upcast(query), upcast(gallery)
        dtype = max(query.dtype, gallery.dtype, key=lambda dtype: dtype.itemsize)
        query, gallery = query.astype(dtype), gallery.astype(dtype)
    return query, gallery


def _checked(function, query, gallery, *, k1, k2, lam, distance, block_size):
    _check_known(function, "query", query)
    _check_known(function, "gallery", gallery)
    query, gallery = _both(function, query, gallery)
    check_at_least(function, "k1", k1, 1)
    check_at_least(function, "k2", k2, 1)
    _check_number(function, "lam", lam, 1)
    check_is_distance(function, distance)
    if distance.is_similarity:
        raise TypeError(
            f"{function}: `distance` must be a distance, got {distance}. Use LpDistance(), which "
            f"orders rows as the cosine does."
        )
    if block_size is not None:
        check_at_least(function, "block_size", block_size, 1)
    return query, gallery


def _check_known(function, name, x):
    if isinstance(x, Tracer):
        raise TypeError(
            f"{function}: `{name}` must have known values, got {x.aval.str_short()} under `jit` or "
            f"another transformation. Call the function outside of it."
        )


def _check_expansion(function, n, alpha, most, what):
    check_at_least(function, "n", n, 1)
    if n > most:
        raise ValueError(f"{function}: `n` must be at most {most}, {what}, got {n}.")
    _check_number(function, "alpha", alpha)


def _check_number(function, name, value, most=math.inf):
    if not isinstance(value, Real) or not 0 <= value <= most or not math.isfinite(value):
        limits = "at least 0 and finite" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"{function}: `{name}` must be a number {limits}, got {value!r}.")
