"""Exact nearest neighbors, a block of queries and a block of references at a time."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from metricjax._core.check import (
    as_indices,
    as_labels,
    check_at_least,
    check_embeddings,
    check_is_distance,
    check_weights,
)
from metricjax._core.rounding import Rounded, rounded_cosines
from metricjax._core.tuning import block_sizes
from metricjax._core.types import Labels, Match
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


def all_equal(values: Labels, others: Labels) -> Bool[Array, "q m"]:
    """Whether all values of two samples are equal; the values may have several columns."""
    if isinstance(values, dict) and isinstance(others, dict) and values.keys() != others.keys():
        raise ValueError(
            f"evaluation.Ignore: `reference` must have the keys {sorted(values)} of `query`, got "
            f"{sorted(others)}."
        )
    mine, theirs = _columns(values), _columns(others)
    if len(mine) != len(theirs):
        raise ValueError(
            f"evaluation.Ignore: `reference` must have {len(mine)} values for each row to match "
            f"`query`, got {len(theirs)}."
        )
    equal = (a[:, None] == b[None, :] for a, b in zip(mine, theirs, strict=True))
    return functools.reduce(jnp.logical_and, equal)


def _columns(tree):
    """The columns ``[N]`` of all arrays with N rows of a tree."""
    flat = (jnp.reshape(x, (len(x), math.prod(x.shape[1:]))) for x in jax.tree.leaves(tree))
    return [x[:, i] for x in flat for i in range(x.shape[1])]


def listed(lists: Int[Array, "q l"], rows: Int[Array, " m"]) -> Bool[Array, "q m"]:
    """Whether a reference is in the list of a query: a relation for `Ignore`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import Ignore, knn, listed
        >>> x = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [1.0, 1.0]])
        >>> lists = jnp.array([[0, 1], [1, -1], [2, -1], [3, 2]])
        >>> print(knn(x, x, 2, ignore=Ignore(lists, jnp.arange(4), listed)).indices)
        [[2 3]
         [0 2]
         [3 1]
         [1 0]]

    Args:
        lists: ``[Q, L]`` rows of the references, filled up with -1.
        rows: ``[M]``, the row of each reference, ``jnp.arange(M)``: in ascending order.
    """
    # Comparing each entry with each row would hold [Q, L, M], and take L times as long.
    place = jnp.searchsorted(rows, lists)
    here = rows.at[place].get(mode="fill", fill_value=-1) == lists
    place = jnp.where(here & (lists >= 0), place, len(rows))  # beyond the last: dropped
    none = jnp.zeros((len(lists), len(rows)), bool)
    return none.at[jnp.arange(len(lists))[:, None], place].set(True, mode="drop")


def different(values: Labels, others: Labels) -> Bool[Array, "q m"]:
    """Whether any value of two samples differs."""
    return ~all_equal(values, others)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("query", "reference"),
    meta_fields=("relation",),  # static under `jit`: the same function compiles once
)
@dataclasses.dataclass(frozen=True, eq=False)
class Ignore:
    """Pairs of a query and a reference that a search leaves out, as if they did not exist.

    Whether a pair is left out depends on values of its two samples. By default it is left out if
    all of their values are equal. The relation is computed for one block of pairs at a time.

    Example:
        A person is not searched for in pictures of the same camera, which are nearly the same
        picture (Market-1501):

        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import Ignore, knn
        >>> person, camera = jnp.array([0, 0, 0, 1]), jnp.array([0, 0, 1, 1])
        >>> x = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [1.0, 1.0]])
        >>> print(knn(x, x, 2, ignore=Ignore((person, camera))).indices)
        [[2 3]
         [2 3]
         [3 1]
         [2 1]]

    Attributes:
        query: values of the queries: an array with Q rows, or a pytree of such arrays.
        reference: values of the references, with M rows. By default those of the queries, which
            then search among themselves.
        relation: ``relation(query, reference) -> [Q, M]``, true where a pair is left out. It gets
            the values of a block of queries and of a block of references, or of all references
            where matches are counted. Define it once: each new
            function is compiled again. `listed` takes a list of references for each query.
    """

    query: Labels
    reference: Labels = None
    relation: Match = all_equal


def knn(
    query: Float[Array, "q d"],
    reference: Float[Array, "m d"],
    k: int,
    *,
    distance: Distance = LpDistance(),
    self_index: Int[Array, " q"] | None = None,
    where: Bool[Array, " m"] | None = None,
    ignore: Ignore | None = None,
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
        ignore: the pairs of a query and a reference that are left out; see `Ignore`.
        block_size: how many queries to search for at once; static. By default 256 on a CPU, 1,024
            elsewhere.
        ref_block_size: how many references to look at at once, at least ``4 * k``; static. By
            default 65,536 on a CPU, 131,072 elsewhere.
        approx: use `jax.lax.approx_max_k`, which TPUs have hardware for, and which may miss some
            neighbors (5 % by its default recall target); static.

    Returns:
        ``distances [Q, K]`` and ``indices [Q, K]``. Where `where` and `ignore` leave a query fewer
        than `k` references, the missing neighbors have index -1, at distance inf (similarity -inf).

    Raises:
        ValueError: for mismatched shapes, or if `k`, `block_size` or `ref_block_size` is not
            positive, or if `k` is more than the M references (M - 1 with `self_index`).
        TypeError: if the embeddings are not floating, or if `ignore` is not an `Ignore`.
    """
    query, reference = check_search("evaluation.knn", query, reference)
    check_is_distance("evaluation.knn", distance)
    if self_index is not None:
        self_index = as_indices("evaluation.knn", "self_index", self_index, "query", len(query))
    check_weights("evaluation.knn", "where", where, "reference", len(reference))
    ignores = as_ignores("evaluation.knn", ignore, "query", len(query), len(reference))
    check_k("evaluation.knn", k, len(reference) - (self_index is not None))
    for name, size in ("block_size", block_size), ("ref_block_size", ref_block_size):
        if size is not None:
            check_at_least("evaluation.knn", name, size, 1)
    return search(
        query, reference, own=self_index, where=where, ignores=ignores, k=k, distance=distance,
        block_size=block_size, ref_block_size=ref_block_size, approx=approx,
    )  # fmt: skip


def search(
    query, reference, rows=None, shared=None, *,
    k, own=None, where=None, ignores=(), nearest=None, block_size=None, ref_block_size=None, **how,
):  # fmt: skip
    """``then(Neighbors, rows, shared)`` of each block of queries, joined along the first axis.

    `rows` is a pytree of arrays with one row for each query, `shared` one that every block sees
    whole. What is made of the neighbors need not keep them.

    Args:
        own: ``[Q]``, each query's place among the references; it is none of its neighbors.
        where: ``[M]``, which references exist.
        ignores: a tuple of `Ignore`, as `as_ignores` returns it; the pairs of none of them exist.
        nearest: ``[Q]`` distances; pairs nearer than this do not exist. The best k are those of the
            pairs that are left, so nothing has to be fetched in excess.
        how: `then`, by default the neighbors themselves, and more options of `knn`.
    """
    mesh, axes = _sharding(query, reference)
    sides = (own, nearest, of_queries(ignores)), (where, of_references(ignores))
    args = query, reference, *sides, rows, shared
    return _search(*args, mesh=mesh, axes=axes, k=k, **_sizes(k, block_size, ref_block_size), **how)


def count_before(query, reference, neighbors, *, ignores=(), distance):
    """``[Q, K]``, how many references come before each of the `neighbors` in the order of `knn`.

    Pairs of `ignores` are not counted, but may be among the neighbors. Blocks are as large as those
    of `search`. So both compute the same distances, and a tie in one is a tie in the other.
    """
    mesh, axes = _sharding(query, reference)
    sides = (None, None, of_queries(ignores)), (None, of_references(ignores))
    args = query, reference, *sides, neighbors, None
    sizes = _sizes(neighbors.indices.shape[1])
    return _count_before(*args, mesh=mesh, axes=axes, distance=distance, **sizes)


def _sizes(k, block_size=None, ref_block_size=None):
    """How many queries and references are compared at once: at least 4 k references."""
    queries, references = block_sizes().search
    size, ref_size = block_size or queries, max(ref_block_size or references, 4 * k)
    return {"block_size": size, "ref_block_size": ref_size}


_STATIC = ("mesh", "axes", "distance", "block_size", "ref_block_size")


@functools.partial(jax.jit, static_argnames=(*_STATIC, "k", "approx", "then"))
def _search(
    *args, k, axes, distance, approx=False,
    then=lambda neighbors, rows, shared: neighbors, **how,
):  # fmt: skip
    top_k = jax.lax.approx_max_k if approx else _top_k

    def find(blocks, rows, shared):
        best = _best_of(blocks, k, top_k)
        if axes[1] is not None:
            gather = lambda part: jax.lax.all_gather(part, axes[1], axis=1, tiled=True)
            best = _best(*map(gather, best), k)
        score, index = best
        value = _unranked(score, distance.is_similarity)
        neighbors = Neighbors(value, jnp.where(score > -jnp.inf, index, -1))
        return then(neighbors, rows, shared)

    return _for_queries(find, args, axes=axes, distance=distance, **how)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _count_before(*args, axes, distance, **how):
    def find(blocks, neighbors, _):
        score = _ranked(neighbors.distances, distance.is_similarity)
        counts = _before(blocks, score, neighbors.indices)
        return counts if axes[1] is None else jax.lax.psum(counts, axes[1])

    return _for_queries(find, args, axes=axes, distance=distance, **how)


def _for_queries(find, args, *, mesh, axes, **how):
    """``find(blocks, rows, shared)`` of each block of queries, on the devices that have them."""
    local = functools.partial(_by_block, find, ref_axis=axes[1], **how)
    if mesh is None:
        return local(*args)
    by_query, by_ref = (jax.P(axis) for axis in axes)
    specs = (by_query, by_ref, by_query, by_ref, by_query, jax.P())
    args = tuple(_placed(x, mesh, spec) for x, spec in zip(args, specs, strict=True))
    local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=by_query, check_vma=False)
    return local(*args)


def _by_block(
    find, query, reference, query_side, ref_side, rows, shared, *,
    ref_axis, distance, block_size, ref_block_size,
):  # fmt: skip
    """The results of `find` on one device, for all of its queries."""
    measure, query, reference = _normalized_once(distance, query, reference)
    offset = 0 if ref_axis is None else jax.lax.axis_index(ref_axis) * len(reference)
    how = offset, measure, distance.is_similarity, ref_block_size

    def block(args):
        x, side, rows = args
        return find(_score_blocks(x, reference, side, ref_side, *how), rows, shared)

    n = len(query)
    count = max(1, -(-n // block_size))
    size = max(1, -(-n // count))
    fill = lambda x: jnp.pad(x, [(0, count * size - n)] + [(0, 0)] * (x.ndim - 1))
    cut = lambda x: fill(jnp.asarray(x)).reshape(count, size, *x.shape[1:])
    results = jax.lax.map(block, jax.tree.map(cut, (query, query_side, rows)))
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], results)


class _ScoreBlocks(NamedTuple):
    """The scores of a block of queries with all references, a block of references at a time.

    ``block(i)`` has the scores ``[q, size]``, larger is closer, and the rows ``[size]`` of the
    references. The score of a pair that does not exist is -inf.
    """

    number: int
    block: Callable[[Any], tuple[Array, Array]]


def _score_blocks(x, reference, side, ref_side, offset, measure, similar, size):
    m = len(reference)
    count = max(1, -(-m // size))
    size = -(-m // count)
    (own, nearest, ignores), (where, left_out) = side, ref_side

    def block(i):
        first = i * size
        start = jnp.minimum(first, m - size)  # the last block is full, too
        part = lambda y: jax.lax.dynamic_slice_in_dim(y, start, size)
        mat = measure(x, part(reference))
        index = start + jnp.arange(size)
        exists = (index >= first)[None, :]
        if own is not None:
            exists &= (offset + index)[None, :] != own[:, None]
        if where is not None:
            exists &= part(where).astype(bool)[None, :]
        if ignores:
            exists &= ~any_ignored(ignores, jax.tree.map(part, left_out))
        score = _ranked(mat, similar)
        if nearest is not None:
            exists &= score <= _ranked(nearest.astype(mat.dtype), similar)[:, None]
        return jnp.where(exists, score, -jnp.inf), offset + index

    return _ScoreBlocks(count, block)


def _best_of(blocks, k, top_k):
    """Score and index of the best k references of each query, best first."""

    def best_in(i):
        score, index = blocks.block(i)
        score, column = top_k(score, min(k, len(index)))
        return score, index[column]

    if blocks.number == 1:
        return best_in(0)

    def step(i, best):
        return _best(*(jnp.concatenate(pair, 1) for pair in zip(best, best_in(i), strict=True)), k)

    none = jax.eval_shape(best_in, 0)
    score, index = (jnp.zeros((x.shape[0], k), x.dtype) for x in none)
    return jax.lax.fori_loop(0, blocks.number, step, (score - jnp.inf, index))


def _before(blocks, score, index):
    """How many references come before those that have these scores and indices, ``[q, K]``."""

    def step(i, counts):
        scores, rows = blocks.block(i)

        def one(at):  # one neighbor of each query at a time: nothing is [q, K, size]
            at, row = (x[:, None] for x in at)
            return jnp.sum((scores > at) | ((scores == at) & (rows[None, :] < row)), 1)

        return counts + jax.lax.map(one, (score.T, index.T)).T

    return jax.lax.fori_loop(0, blocks.number, step, jnp.zeros_like(index))


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
    if isinstance(distance, Rounded):
        cosine, query, reference = _normalized_once(distance.cosine, query, reference)
        return lambda x, y: rounded_cosines(cosine(x, y)), query, reference
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


def check_search(function, query, reference, name="query", other="reference"):
    """Both sides as checked arrays of equal width; `name` and `other` are what they are called."""
    query, reference = jnp.asarray(query), jnp.asarray(reference)
    check_embeddings(function, name, query)
    check_embeddings(function, other, reference)
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{function}: `{other}` must have {query.shape[1]} features to match `{name}`, "
            f"got {reference.shape}."
        )
    return query, reference


def as_ignores(function, ignore, of, n, m, *, within=True):
    """A tuple with the checked `Ignore` of N queries, called `of`, and M references, if any.

    Only queries that search `within` themselves may leave out the values of the references.
    """
    if ignore is None:
        return ()
    if not isinstance(ignore, Ignore):
        raise TypeError(
            f"{function}: `ignore` must be an `evaluation.Ignore`, got {type(ignore).__name__}. "
            f"Wrap the values: Ignore(of_queries, of_references)."
        )
    if ignore.reference is None and not within:
        raise ValueError(
            f"{function}: `ignore.reference` must be given with `reference`, got None."
        )
    others = ignore.query if ignore.reference is None else ignore.reference
    if not jax.tree.leaves(ignore.query):
        raise ValueError(f"{function}: `ignore.query` must have values of the queries, got none.")
    if any(np.asarray(x).dtype.kind in "OSU" for x in _host_leaves(ignore.query, others)):
        raise TypeError(
            f"{function}: `ignore` must have numbers, got strings. Code both sides together: "
            f"np.unique(np.concatenate([of_queries, of_references]), return_inverse=True)[1]."
        )
    ignore = Ignore(
        as_labels(function, "ignore.query", ignore.query, of, n),
        as_labels(function, "ignore.reference", others, "reference", m),
        ignore.relation,
    )
    shape_of = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    got = jax.eval_shape(ignore.relation, shape_of(ignore.query), shape_of(ignore.reference)).shape
    if got != (n, m):
        raise ValueError(
            f"{function}: `ignore.relation` must return [{n}, {m}], one for each pair of a query "
            f"and a reference, got {list(got)}."
        )
    return (ignore,)


def _host_leaves(*trees):
    """The arrays and lists on the host."""
    return [x for x in jax.tree.leaves(trees) if not isinstance(x, jax.Array)]


def of_queries(ignores):
    """What a block of queries needs of a tuple of `Ignore`: a pytree with a row for each query."""
    return tuple(dataclasses.replace(ignore, reference=None) for ignore in ignores)


def of_references(ignores):
    """The values of the references, a pytree with a row for each reference."""
    return tuple(ignore.reference for ignore in ignores)


def any_ignored(ignores, references):
    """Which pairs are left out: booleans ``[q, m]``; one False, if none can be."""
    left_out = (
        ignore.relation(ignore.query, values).astype(bool)
        for ignore, values in zip(ignores, references, strict=True)
    )
    return functools.reduce(jnp.logical_or, left_out, np.False_)


def check_k(function, k, available):
    check_at_least(function, "k", k, 1)
    if k > available:
        raise ValueError(
            f"{function}: `k` must be at most {available}, the number of references "
            f"other than the query itself, got {k}."
        )
