"""Exact nearest neighbors, a block of queries and a block of references at a time."""

import functools
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from metricjax._core.check import (
    as_indices,
    check_embeddings,
    check_is_distance,
    check_weights,
)
from metricjax._core.tuning import block_sizes
from metricjax.distances import (
    CosineSimilarity,
    Distance,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
    normalize,
)

GROUP = 16
"""References that compete for the top k through their best one. Measured: 8 to 48 are alike."""


class Neighbors(NamedTuple):
    """The neighbors of Q queries, nearest first.

    Attributes:
        distances: ``[Q, K]``.
        indices: ``[Q, K]``, rows of the reference; -1 where there is no such neighbor.
    """

    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]


def knn(
    query: Float[Array, "q d"],
    reference: Float[Array, "m d"],
    k: int,
    *,
    distance: Distance = LpDistance(),
    self_index: Int[Array, " q"] | None = None,
    where: Bool[Array, " m"] | None = None,
    block_size: int | None = None,
    ref_block_size: int | None = None,
    approx: bool = False,
) -> Neighbors:
    r"""Finds the `k` nearest references of every query, nearest first.

    .. math:: \mathrm{index}_{i} = \operatorname{argsort}_j d(x_i, y_j)_{[:k]}

    The search is exact and looks at every pair, but holds only ``[block_size, ref_block_size]``
    distances at a time, and the best k so far. Among equal distances the lower reference index
    comes first. A NaN distance ranks behind every number.

    Rows that are sharded over a mesh stay where they are: every device searches its own references
    for its own queries (for all of them where both are sharded over one axis), and the best of each
    device are merged. Under `jit` that takes explicit axes, which are known while tracing; with
    automatic ones XLA decides.

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
        k: how many neighbors; static.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``; static. By default the Euclidean distance
            between vectors of length 1.
        self_index: ``[Q]``, where each query sits among the references, so that it is not its own
            neighbor. A value outside ``[0, M)`` leaves nothing out.
        where: ``[M]``, which references exist; all of them by default.
        block_size: how many queries to search for at once; static. By default 256 on a CPU, 1,024
            elsewhere.
        ref_block_size: how many references to look at at once, at least ``4 * k``; static. By
            default 65,536 on a CPU, 131,072 elsewhere.
        approx: use `jax.lax.approx_max_k`, which TPUs have hardware for, and which may miss some
            neighbors (5 % by its default recall target); static.

    Returns:
        ``distances [Q, K]`` and ``indices [Q, K]``. Where `where` leaves fewer than `k` references,
        the missing neighbors have index -1, at distance inf (similarity -inf).

    Raises:
        ValueError: for mismatched shapes, or if `k`, `block_size` or `ref_block_size` is not
            positive, or if `k` is more than the M references (M - 1 with `self_index`).
        TypeError: if the embeddings are not floating.
    """
    query, reference = check_search("evaluation.knn", query, reference)
    check_is_distance("evaluation.knn", distance)
    if self_index is not None:
        self_index = as_indices("evaluation.knn", "self_index", self_index, "query", len(query))
    check_weights("evaluation.knn", "where", where, "reference", len(reference))
    check_k("evaluation.knn", k, len(reference) - (self_index is not None))
    for name, size in ("block_size", block_size), ("ref_block_size", ref_block_size):
        if size is not None:
            check_at_least_1("evaluation.knn", name, size)
    return search(
        query, reference, own=self_index, where=where, k=k, distance=distance,
        block_size=block_size, ref_block_size=ref_block_size, approx=approx,
    )  # fmt: skip


def search(
    query, reference, rows=None, shared=None, *,
    own=None, where=None, groups=None, ref_groups=None, apart=None, ref_apart=None, nearest=None,
    block_size=None, ref_block_size=None, **how,
):  # fmt: skip
    """``then(Neighbors, rows, shared)`` of each block of queries, joined along the first axis.

    `rows` is a pytree of arrays with one row for each query, `shared` one that every block sees
    whole. What is made of the neighbors need not keep them.

    Args:
        own: ``[Q]``, each query's place among the references; it is none of its neighbors.
        where: ``[M]``, which references exist.
        groups, ref_groups: ``[Q]``, ``[M]``; only pairs of one group exist.
        apart, ref_apart: ``[Q]``, ``[M]``; only pairs of different groups exist.
        nearest: ``[Q]`` distances; pairs nearer than this do not exist. The best k are those of the
            pairs that are left, so nothing has to be fetched in excess.
        how: `then`, by default the neighbors themselves, and the options of `knn`.
    """
    mesh, axes = _sharding(query, reference)
    sides = (own, groups, apart, nearest), (where, ref_groups, ref_apart)
    args = query, reference, *sides, rows, shared
    queries, references = block_sizes().search
    sizes = {"block_size": block_size or queries, "ref_block_size": ref_block_size or references}
    return _search(*args, mesh=mesh, axes=axes, **sizes, **how)


_STATIC = ("then", "mesh", "axes", "k", "distance", "block_size", "ref_block_size", "approx")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _search(*args, mesh, axes, **how):
    if mesh is None:
        return _by_block(*args, axis_name=None, **how)
    by_query, by_ref = (jax.P(axis) for axis in axes)
    specs = (by_query, by_ref, by_query, by_ref, by_query, jax.P())
    args = tuple(_placed(x, mesh, spec) for x, spec in zip(args, specs, strict=True))
    local = functools.partial(_by_block, axis_name=axes[1], **how)
    local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=by_query, check_vma=False)
    return local(*args)


def _by_block(
    query, reference, query_side, ref_side, rows, shared, *,
    k, distance, axis_name, block_size, ref_block_size, approx=False,
    then=lambda neighbors, rows, shared: neighbors,
):  # fmt: skip
    """The search on one device, for all of its queries."""
    measure, query, reference = _normalized_once(distance, query, reference)
    offset = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(reference)
    ref_size, top_k = max(ref_block_size, 4 * k), jax.lax.approx_max_k if approx else _top_k

    def block(args):
        x, side, rows = args
        how = k, measure, distance.is_similarity, ref_size, top_k
        best = _over_references(x, reference, side, ref_side, offset, *how)
        if axis_name is not None:
            gather = lambda part: jax.lax.all_gather(part, axis_name, axis=1, tiled=True)
            best = _best(*map(gather, best), k)
        score, index = best
        value = _unranked(score, distance.is_similarity)
        neighbors = Neighbors(value, jnp.where(score > -jnp.inf, index, -1))
        return then(neighbors, rows, shared)

    n = len(query)
    count = max(1, -(-n // block_size))
    size = max(1, -(-n // count))
    fill = lambda x: jnp.pad(x, [(0, count * size - n)] + [(0, 0)] * (x.ndim - 1))
    cut = lambda x: fill(jnp.asarray(x)).reshape(count, size, *x.shape[1:])
    results = jax.lax.map(block, jax.tree.map(cut, (query, query_side, rows)))
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], results)


def _over_references(x, reference, side, ref_side, offset, k, measure, similar, size, top_k):
    """Score and index of the best k references of each query, best first."""
    m = len(reference)
    count = max(1, -(-m // size))
    size = -(-m // count)
    (own, groups, apart, nearest), (where, ref_groups, ref_apart) = side, ref_side

    def block(start, first):
        """The best among `size` references from `start` on, leaving out those before `first`."""
        part = lambda y: jax.lax.dynamic_slice_in_dim(y, start, size)
        mat = measure(x, part(reference))
        index = start + jnp.arange(size)
        exists = (index >= first)[None, :]
        if own is not None:
            exists &= (offset + index)[None, :] != own[:, None]
        if where is not None:
            exists &= part(where).astype(bool)[None, :]
        if groups is not None:
            exists &= groups[:, None] == part(ref_groups)[None, :]
        if apart is not None:
            exists &= apart[:, None] != part(ref_apart)[None, :]
        score = _ranked(mat, similar)
        if nearest is not None:
            exists &= score <= _ranked(nearest.astype(mat.dtype), similar)[:, None]
        score, index = top_k(jnp.where(exists, score, -jnp.inf), min(k, size))
        return score, offset + start + index

    if count == 1:
        return block(0, 0)

    def step(i, best):
        first = i * size
        found = block(jnp.minimum(first, m - size), first)
        return _best(*(jnp.concatenate(pair, 1) for pair in zip(best, found, strict=True)), k)

    none = jax.eval_shape(lambda: block(0, 0))
    score, index = (jnp.zeros((len(x), k), like.dtype) for like in none)
    return jax.lax.fori_loop(0, count, step, (score - jnp.inf, index))


def _ranked(mat, similar):
    """Distances as scores, larger is closer: NaN is the last finite one, an infinite distance next.

    The score tells the distance, so that the matrix of distances is not needed again.
    """
    score = mat if similar else -mat
    score = jnp.where(score == 0, 0, score)  # top_k ranks -0 behind 0
    last, next_one = _least(score.dtype)
    return jnp.where(jnp.isnan(score), last, jnp.maximum(score, next_one))


def _unranked(score, similar):
    """The distances that have these scores; -inf, where there is no neighbor, is far away."""
    last, next_one = _least(score.dtype)
    score = jnp.where(score == last, jnp.nan, jnp.where(score == next_one, -jnp.inf, score))
    return score if similar else 0 - score  # not -0


def _least(dtype):
    """The least two finite floats."""
    last = jnp.finfo(dtype).min
    return last, np.nextafter(last, dtype.type(0))


def _best(score, index, k):
    """The best k columns; those further left come first among equals."""
    score, column = jax.lax.top_k(score, k)
    return score, jnp.take_along_axis(index, column, 1)


def _top_k(score, k):
    """The best k of each row and their columns, the lower column first among equals.

    Long rows are cut into groups: the best k are in the k groups with the best leaders. That is
    quicker on CPUs, where `lax.top_k` is slow, and much quicker for rows in ascending order.
    """
    n = score.shape[1]
    if not 0 < 2 * GROUP * k <= n:
        return jax.lax.top_k(score, k)
    grouped = jnp.pad(score, ((0, 0), (0, -n % GROUP)), constant_values=-jnp.inf)
    grouped = grouped.reshape(len(score), -1, GROUP)
    _, group = jax.lax.top_k(jnp.max(grouped, -1), k)
    group = jnp.sort(group, -1)  # so that the lower column is further left
    score = jnp.take_along_axis(grouped, group[:, :, None], 1).reshape(-1, k * GROUP)
    score, place = jax.lax.top_k(score, k)
    return score, jnp.take_along_axis(group, place // GROUP, 1) * GROUP + place % GROUP


def _normalized_once(distance, query, reference):
    """The distance of rows normalized already, and both sides so: not once in every block."""
    if type(distance) is CosineSimilarity:
        distance = DotProductSimilarity(precision=distance.precision)
    ours = type(distance) in (LpDistance, DotProductSimilarity, SNRDistance)
    if not ours or not distance.normalize_embeddings:
        return distance, query, reference
    p = distance.p if isinstance(distance, LpDistance) else 2
    return distance.between, normalize(query, p), normalize(reference, p)


def in_space_of(distance, embeddings):
    """The vectors that a distance compares: normalized if it normalizes."""
    if isinstance(distance, CosineSimilarity) or getattr(distance, "normalize_embeddings", False):
        return _normalize(jnp.asarray(embeddings), getattr(distance, "p", 2))
    return embeddings


_normalize = jax.jit(normalize, static_argnames="p")


def found(neighbors):
    """Which neighbors are there: a NaN distance is none."""
    return (neighbors.indices >= 0) & ~jnp.isnan(neighbors.distances)


def _sharding(query, reference):
    """The mesh that rows are sharded over, if any, and the axes of each side."""

    def of(x):
        known = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else x.sharding
        spec = known.spec if isinstance(known, NamedSharding) else ()
        return (known.mesh, spec[0]) if len(spec) and spec[0] else (None, None)

    (query_mesh, query_axes), (ref_mesh, ref_axes) = of(query), of(reference)
    names = lambda axes: {axes} if isinstance(axes, str) else set(axes or ())
    if names(query_axes) & names(ref_axes):
        query_axes = None
    return query_mesh or ref_mesh, (query_axes, ref_axes)


def _placed(tree, mesh, spec):
    """The arrays of a tree, sharded as a `shard_map` over an explicit mesh wants them."""
    if AxisType.Explicit not in mesh.axis_types:
        return tree
    return jax.tree.map(lambda x: jax.sharding.reshard(x, NamedSharding(mesh, spec)), tree)


def check_search(function, query, reference, name="query"):
    """Both sides as checked arrays of equal width; `name` is what the function calls `query`."""
    query, reference = jnp.asarray(query), jnp.asarray(reference)
    check_embeddings(function, name, query)
    check_embeddings(function, "reference", reference)
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{function}: `reference` must have {query.shape[1]} features to match `{name}`, "
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
