"""What every query scores in every metric: the part of `AccuracyCalculator` that searches."""

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from metricjax._core.types import Labels, Match
from metricjax.evaluation._clusters import CLUSTERING
from metricjax.evaluation._knn import Neighbors, found, search
from metricjax.evaluation._metrics import CUT, RANKED

CUT_NAME = re.compile(rf"({'|'.join(CUT)})_at_(k|[1-9]\d*)")
WHOLE_R = {"r_precision", "mean_average_precision_at_r"}
ELEMENTS = 2**24
"""A block of queries has at most this many neighbors."""


class QueryInputs(NamedTuple):
    """What a metric of one's own is computed from.

    Attributes:
        matches: ``[Q, K]`` float32, how much each neighbor matches, nearest first; 0 where there
            is none.
        relevant: ``[Q]``, how many references match (the sum of the degrees to which they do).
        distances: ``[Q, K]``.
        indices: ``[Q, K]``, rows of the reference, or -1.
        labels: ``[Q]``, the queries' labels.
    """

    matches: Float[Array, "q k"]
    relevant: Num[Array, " q"]
    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]
    labels: Any


class Sets(NamedTuple):
    """Queries and references with their labels, checked.

    `codes` and `ref_codes` stand for labels that match where equal: integers from 0 on, which do
    not collide whatever the labels' size. With a relation they are the labels as they came.
    """

    query: Array
    reference: Array
    labels: Labels
    codes: Labels
    ref_codes: Labels
    includes_query: bool
    groups: Any = None
    ref_groups: Any = None

    @property
    def own(self):
        """Where each query is among the references, if it is."""
        return np.arange(len(self.query)) if self.includes_query else None


class Scores(NamedTuple):
    """Per-query values of each metric, float64; how many references match; the `k` searched."""

    values: dict[str, np.ndarray]
    relevant: np.ndarray
    k: int


def cut_of(name):
    """The number in a name such as ``recall_at_10``; ``None`` if there is none."""
    cut = CUT_NAME.fullmatch(name)
    return int(cut[2]) if cut and cut[2] != "k" else None


def score(function, sets: Sets, names, calculator) -> Scores:
    """Searches for the neighbors of each query, a block at a time, and scores them."""
    names = [name for name in names if name not in CLUSTERING]
    counts, relevant = _relevance(sets, calculator.match, calculator.block_size)
    limits, k = _limits(function, sets, counts, calculator.k, names)
    if k == 0 or not names:
        return Scores({name: np.zeros(len(relevant)) for name in names}, relevant, 0)
    own, groups, ref_groups = sets.own, sets.groups, sets.ref_groups
    metrics = tuple((name, calculator.metrics.get(name)) for name in names)
    values = search(
        sets.query, sets.reference,
        (sets.labels, sets.codes, relevant.astype(np.float32), limits, own, groups),
        (sets.ref_codes, ref_groups),
        own=own, groups=groups, ref_groups=ref_groups, k=k, distance=calculator.distance,
        block_size=max(1, min(calculator.block_size, ELEMENTS // k)),
        then=_Metrics(metrics, calculator.match),
    )  # fmt: skip
    return Scores({name: np.asarray(x, np.float64) for name, x in values.items()}, relevant, k)


@dataclasses.dataclass(frozen=True)
class _Metrics:
    """Every metric of a block of queries; compared by value, so that it compiles once."""

    metrics: tuple[tuple[str, Callable | None], ...]
    match: Match | None

    def __call__(self, neighbors: Neighbors, rows, shared):
        labels, codes, relevant, limits, own, groups = rows
        ref_codes, ref_groups = shared
        there = found(neighbors)
        if limits is not None:
            there &= jnp.arange(there.shape[1])[None, :] < limits[:, None]
        theirs = jax.tree.map(lambda x: x[neighbors.indices], ref_codes)
        match, ideal = self.match, None
        if match is None:
            matches = theirs == codes[:, None]
        else:
            one = lambda x: jax.tree.map(lambda x: x[None], x)
            matches = jax.vmap(lambda x, others: match(one(x), others)[0])(codes, theirs)
            degrees = _degrees(match, codes, ref_codes, own, groups, ref_groups)
            ideal = lambda: jax.lax.top_k(degrees, there.shape[1])[0]
        matches = jnp.where(there, matches.astype(jnp.float32), 0)
        inputs = QueryInputs(matches, relevant, *neighbors, labels)
        return {name: _one(name, custom, inputs, ideal) for name, custom in self.metrics}


def _one(name, custom, inputs, ideal):
    if custom is not None:
        return custom(inputs)
    if name in RANKED:
        return RANKED[name](inputs.matches, inputs.relevant)
    kind = CUT_NAME.fullmatch(name)[1]
    k = cut_of(name) and min(cut_of(name), inputs.matches.shape[1])
    options = {"ideal": ideal()} if ideal and kind == "ndcg" else {}
    return CUT[kind](inputs.matches, inputs.relevant, k=k, **options)


def _degrees(match, labels, ref_labels, own, groups, ref_groups):
    """How much each query matches each reference, ``[Q, M]`` float32; 0 for pairs left out."""
    degrees = match(labels, ref_labels).astype(jnp.float32)
    if own is not None:
        degrees = jnp.where(jnp.arange(degrees.shape[1])[None, :] == own[:, None], 0, degrees)
    if groups is not None:
        degrees = jnp.where(groups[:, None] == ref_groups[None, :], degrees, 0)
    return degrees


def _relevance(sets, match, block_size):
    """How many references match each query, and the sum of the degrees to which they do."""
    if match is not None:
        size = max(1, min(block_size, ELEMENTS // max(1, len(sets.reference))))
        args = sets.codes, sets.ref_codes, sets.own, sets.groups, sets.ref_groups
        return map(np.asarray, _count_matches(*args, match=match, size=size))
    mine, theirs = sets.codes, sets.ref_codes
    if sets.groups is not None:
        mine, theirs = coded(np.c_[mine, sets.groups], np.c_[theirs, sets.ref_groups])
    size = max(mine.max(initial=0), theirs.max(initial=0)) + 1
    counts = np.bincount(theirs, minlength=size)[mine] - sets.includes_query
    return counts, counts


@functools.partial(jax.jit, static_argnames=("match", "size"))
def _count_matches(labels, ref_labels, own, groups, ref_groups, *, match, size):
    def block(row):
        row = jax.tree.map(lambda x: x[None], row)
        degrees = _degrees(match, row[0], ref_labels, *row[1:], ref_groups)[0]
        return jnp.sum(degrees > 0), jnp.sum(degrees)

    return jax.lax.map(block, (labels, own, groups), batch_size=size)


def _limits(function, sets, counts, k, names):
    """How many neighbors each query may have (``None``: all that are searched for), and the most.

    Only queries in groups differ: `k` is a matter of each group.
    """
    if sets.groups is None:
        most = counts.max(initial=0)
        available = np.int64(len(sets.reference) - sets.includes_query)
    else:
        size = max(sets.groups.max(initial=0), sets.ref_groups.max(initial=0)) + 1
        most = np.zeros(size, np.int64)
        np.maximum.at(most, sets.groups, counts)
        most = most[sets.groups]
        available = np.bincount(sets.ref_groups, minlength=size)[sets.groups] - sets.includes_query
    limits = {None: available, "max_bin_count": most}.get(k)
    if limits is None:
        limits = np.minimum(k, available)
        if k < counts.max(initial=0) and WHOLE_R & set(names):
            warnings.warn(
                f"{function}: `k` = {k} is less than the {counts.max()} references that match some "
                f"query, which lowers {' and '.join(sorted(WHOLE_R & set(names)))}. For their "
                f"definition, give k='max_bin_count'.",
                stacklevel=4,
            )
    longest = int(np.max(limits, initial=0))
    for name in set(names) - set(RANKED):
        if longest < min(cut_of(name) or 0, np.max(available, initial=0)) and longest:
            raise ValueError(
                f"{function}: `k` must be at least {cut_of(name)} for {name}, got {longest}."
            )
    return (None if sets.groups is None else limits.astype(np.int32)), longest


def coded(labels, others):
    """Both as integers from 0 on, equal where the labels (or rows of labels) are."""
    both = np.concatenate([labels, others])
    codes = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
    return codes[: len(labels)], codes[len(labels) :]
