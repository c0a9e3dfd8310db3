"""The part of `AccuracyCalculator` that searches, and scores every query in every metric."""

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from metricjax._core.tuning import block_sizes
from metricjax._core.types import Labels, Match
from metricjax.evaluation._clusters import CLUSTERING
from metricjax.evaluation._knn import (
    Ignore,
    Neighbors,
    all_equal,
    any_ignored,
    different,
    found,
    of_queries,
    of_references,
    search,
)
from metricjax.evaluation._labels import coded, fits, on_every_host
from metricjax.evaluation._metrics import (
    CUT,
    RANKED,
    Gain,
    check_ascends,
    check_range,
    most_degree,
    precision,
)

CUT_NAME = re.compile(rf"({'|'.join(CUT)})_at_(k|[1-9]\d*)")
WHOLE_R = {"r_precision", "mean_average_precision_at_r"}
ELEMENTS = 2**24
"""A block of queries has at most this many neighbors, or degrees of match."""


class QueryInputs(NamedTuple):
    """The inputs of a user-defined metric.

    Attributes:
        matches: ``[Q, K]`` float32, how much each neighbor matches, nearest first; 0 where there
            is no neighbor.
        relevant: ``[Q]``, how many references match (the sum of their degrees of match).
        distances: ``[Q, K]``; inf (similarity -inf) where there is no neighbor.
        indices: ``[Q, K]``, rows of the reference; -1 where there is no neighbor.
        labels: ``[Q]``, the labels of the queries. If JAX cannot hold the labels (strings, integers
            beyond int32), integers from 0 on replace them.
        k: ``[Q]``, how many neighbors of each query were used: K, or fewer where `ignore` or a
            small parent leaves fewer.
    """

    matches: Float[Array, "q k"]
    relevant: Num[Array, " q"]
    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]
    labels: Any
    k: Int[Array, " q"]


class Sets(NamedTuple):
    """Checked queries and references with their labels.

    `codes` and `ref_codes` are integers from 0 on that are equal where the labels match. They do
    not collide, however large the labels are. With a relation they are the labels as given. Pairs
    of different `groups` do not exist, and neither do the pairs of `ignores`.
    """

    query: Array
    reference: Array
    labels: Labels
    codes: Labels
    ref_codes: Labels
    includes_query: bool
    groups: Any = None
    ref_groups: Any = None
    ignores: tuple[Ignore, ...] = ()

    @property
    def left_out(self):
        """All pairs that do not exist, but for that of a query with itself."""
        if self.groups is None:
            return self.ignores
        return (*self.ignores, Ignore(self.groups, self.ref_groups, different))

    @property
    def own(self):
        """The row of each query among the references; ``None`` if these exclude the queries."""
        return np.arange(len(self.query)) if self.includes_query else None


class Scores(NamedTuple):
    """For every query: each metric in float64, how many references match, how many were used."""

    values: dict[str, np.ndarray]
    relevant: np.ndarray
    k: np.ndarray


def cut_of(name):
    """Returns the number in a name such as ``recall_at_10``; ``None`` if there is none."""
    cut = CUT_NAME.fullmatch(name)
    return int(cut[2]) if cut and cut[2] != "k" else None


def score(function, sets: Sets, names, calculator) -> Scores:
    """Searches for the neighbors of a block of queries at a time, and scores them."""
    names = [name for name in names if name not in CLUSTERING]
    most = calculator.block_size or block_sizes().search[0]
    counts, relevant, extremes, available = _relevance(sets, calculator.match, most)
    _check_degrees(function, names, extremes, calculator)
    with_ndcg = any(name.startswith("ndcg") for name in names)
    if callable(calculator.gain) and with_ndcg:
        top = float(extremes[1])  # and all whole grades below
        check_ascends(function, calculator.gain, np.append(np.arange(1.0, min(top, 100)), top))
    limits = _limits(function, sets, counts, available, calculator.k, names)
    k = int(limits.max(initial=0))
    if k == 0 or not names:
        none = np.zeros(len(relevant))
        return Scores(dict.fromkeys(names, none), relevant, none.astype(int))
    own, left_out = sets.own, sets.left_out
    metrics = tuple((name, calculator.metrics.get(name)) for name in names)
    labels = sets.labels if all(map(fits, jax.tree.leaves(sets.labels))) else sets.codes
    rows = labels, sets.codes, relevant.astype(np.float32), limits, own, of_queries(left_out)
    shared = sets.ref_codes, of_references(left_out)
    width = len(sets.reference) if calculator.match is not None and with_ndcg else 0  # of degrees
    block_size = max(1, min(most, ELEMENTS // max(k, width)))
    similarity = calculator.distance.is_similarity
    then = _Metrics(metrics, calculator.match, calculator.gain, similarity)
    if calculator.search is not None:
        neighbors = _neighbors_of(function, calculator.search, sets, k)
        values = _in_blocks(neighbors, rows, shared, then=then, block_size=block_size)
    else:
        values = search(
            sets.query, sets.reference, rows, shared, own=own, ignores=left_out, k=k,
            distance=calculator.distance, block_size=block_size, then=then,
        )  # fmt: skip
    values = {name: on_every_host(x).astype(np.float64) for name, x in values.items()}
    return Scores(values, relevant, limits)


def _neighbors_of(function, search, sets, k):
    """Returns the neighbors that the user's `search` finds, without the query itself."""
    extra = int(sets.includes_query)  # the query is expected among its neighbors
    distances, indices = map(on_every_host, search(sets.query, sets.reference, k + extra))
    shape = len(sets.query), k + extra
    if distances.shape != shape or indices.shape != shape:
        raise ValueError(
            f"{function}: `search` must give distances and indices {list(shape)}, nearest first, "
            f"got {distances.shape} and {indices.shape}."
        )
    if not np.all((indices >= -1) & (indices < len(sets.reference))):
        raise ValueError(
            f"{function}: `search` must give rows of the {len(sets.reference)} references, or -1 "
            f"for none, got indices from {indices.min()} to {indices.max()}."
        )
    if extra:  # if the search missed the query, the last neighbor is dropped instead
        own = indices == np.arange(len(indices))[:, None]
        first = np.argsort(own, 1, kind="stable")[:, :k]
        distances, indices = (np.take_along_axis(x, first, 1) for x in (distances, indices))
    return Neighbors(distances, indices.astype(np.int32))


@functools.partial(jax.jit, static_argnames=("then", "block_size"))
def _in_blocks(neighbors, rows, shared, *, then, block_size):
    """Computes ``then(neighbors, rows, shared)`` for one block of queries at a time."""

    def one(args):
        neighbors, rows = jax.tree.map(lambda x: x[None], args)
        return jax.tree.map(lambda x: x[0], then(neighbors, rows, shared))

    return jax.lax.map(one, (neighbors, rows), batch_size=block_size)


@dataclasses.dataclass(frozen=True)
class _Metrics:
    """Computes every metric of a block of queries; compared by value, so that it compiles once."""

    metrics: tuple[tuple[str, Callable | None], ...]
    match: Match | None
    gain: Gain
    similarity: bool

    def __call__(self, neighbors: Neighbors, rows, shared):
        labels, codes, relevant, limits, own, ignores = rows
        ref_codes, left_out = shared
        # The metrics of a query must not depend on how many neighbors other queries use.
        within = jnp.arange(neighbors.indices.shape[1])[None, :] < limits[:, None]
        none = -jnp.inf if self.similarity else jnp.inf
        distances, indices = neighbors
        neighbors = Neighbors(jnp.where(within, distances, none), jnp.where(within, indices, -1))
        there = found(neighbors)
        theirs = jax.tree.map(lambda x: x[neighbors.indices], ref_codes)
        match, ideal = self.match, None
        if match is None:
            matches = theirs == codes[:, None]
        else:
            one = lambda x: jax.tree.map(lambda x: x[None], x)
            matches = jax.vmap(lambda x, others: match(one(x), others)[0])(codes, theirs)
            degrees = _degrees(match, codes, ref_codes, own, ignores, left_out)
            ideal = lambda: jax.lax.top_k(degrees, there.shape[1])[0]
        matches = jnp.where(there, matches.astype(jnp.float32), 0)
        inputs = QueryInputs(matches, relevant, *neighbors, labels, limits)
        return {name: self._one(name, custom, inputs, ideal) for name, custom in self.metrics}

    def _one(self, name, custom, inputs, ideal):
        if custom is not None:
            return custom(inputs)
        if name in RANKED:
            return RANKED[name](inputs.matches, inputs.relevant)
        kind, cut = CUT_NAME.fullmatch(name)[1], cut_of(name)
        k = cut and min(cut, inputs.matches.shape[1])
        if kind == "precision":  # even with 3 references precision_at_8 is divided by 8
            return precision(inputs.matches[:, :k], cut or inputs.k)
        options = {"ideal": ideal and ideal(), "gain": self.gain} if kind == "ndcg" else {}
        return CUT[kind](inputs.matches, inputs.relevant, k=k, **options)


def _degrees(match, labels, ref_labels, own, ignores, left_out):
    """Returns how much each query matches each reference, ``[Q, M]`` float32; 0 if left out."""
    degrees = match(labels, ref_labels).astype(jnp.float32)
    return jnp.where(_exists(degrees.shape[1], own, ignores, left_out), degrees, 0)


def _exists(m, own, ignores, left_out):
    """Returns which pairs with the M references exist, ``[Q, M]`` or ``[1, M]``."""
    exists = jnp.ones((1, m), bool) & ~any_ignored(ignores, left_out)
    return exists if own is None else exists & (jnp.arange(m)[None, :] != own[:, None])


def _relevance(sets, match, block_size):
    """Counts the references that match each query, and sums their degrees.

    Also returns the smallest and the largest degree, and how many references each query has.
    """
    if match is not None or sets.ignores:
        size = max(1, min(block_size, ELEMENTS // max(1, len(sets.reference))))
        args = sets.codes, sets.ref_codes, sets.own, sets.left_out
        counts = _count_matches(*args, match=match or all_equal, size=size)
        return jax.tree.map(on_every_host, counts)
    mine, theirs, available = sets.codes, sets.ref_codes, len(sets.reference)
    if sets.groups is not None:
        available = _occurrences(sets.groups, sets.ref_groups)
        mine, theirs = coded(np.c_[mine, sets.groups], np.c_[theirs, sets.ref_groups])
    counts = _occurrences(mine, theirs) - sets.includes_query
    return counts, counts, (0, 1), available - sets.includes_query


def _occurrences(codes, others):
    """Returns how often each code is among the others."""
    size = max(codes.max(initial=0), others.max(initial=0)) + 1
    return np.bincount(others, minlength=size)[codes]


@functools.partial(jax.jit, static_argnames=("match", "size"))
def _count_matches(labels, ref_labels, own, left_out, *, match, size):
    references = of_references(left_out)

    def block(row):
        labels, own, ignores = jax.tree.map(lambda x: x[None], row)
        degrees = _degrees(match, labels, ref_labels, own, ignores, references)[0]
        exists = _exists(len(degrees), own, ignores, references)
        low, high = jnp.min(degrees, initial=0), jnp.max(degrees, initial=0)
        return jnp.sum(degrees > 0), jnp.sum(degrees), low, high, jnp.sum(exists)

    rows = labels, own, of_queries(left_out)
    counts, sums, low, high, exist = jax.lax.map(block, rows, batch_size=size)
    return counts, sums, (jnp.min(low, initial=0), jnp.max(high, initial=0)), exist


def _check_degrees(function, names, extremes, calculator):
    """Checks the degrees of match; only NDCG and user-defined metrics accept grades above 1."""
    graded = [name in calculator.metrics or name.startswith("ndcg") for name in names]
    most = most_degree(calculator.gain) if all(graded) else 1.0
    check_range(function, "match", *map(float, extremes), most)


def _limits(function, sets, counts, available, k, names):
    """Returns how many neighbors each query may have, ``[Q]``, given how many are `available`."""
    most = counts.max(initial=0)
    if sets.groups is not None:
        most_of = np.zeros(sets.groups.max(initial=0) + 1, np.int64)
        np.maximum.at(most_of, sets.groups, counts)
        most = most_of[sets.groups]
    limits = np.minimum({None: available, "max_bin_count": most}.get(k, k), available)
    if isinstance(k, Integral):
        if k < counts.max(initial=0) and WHOLE_R & set(names):
            warnings.warn(
                f"{function}: `k` = {k} is less than the {counts.max()} references that match some "
                f"query, which lowers {' and '.join(sorted(WHOLE_R & set(names)))}. For their "
                f"definition, give k='max_bin_count'.",
                stacklevel=4,
            )
    for name in sorted(set(names) - set(RANKED)):
        short = (limits > 0) & (limits < np.minimum(cut_of(name) or 0, available))
        if short.any():
            raise ValueError(
                f"{function}: `k` must be at least {cut_of(name)} for {name}, got "
                f"{np.broadcast_to(limits, short.shape)[short].min()}."
            )
    return np.broadcast_to(limits, len(sets.query)).astype(np.int32)
