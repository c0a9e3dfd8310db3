"""Short lists of columns and values for every row, in NumPy: sparse matrices of all rows.

The steps of `metricjax.evaluation.rerank.k_reciprocal` that only move lists around; the file of
that function says what they are for.
"""

from typing import NamedTuple

import numpy as np

AT_ONCE = 2**20
"""NumPy works on about this many numbers at once: 8 MiB of int64, in each of a few arrays."""


class Lists(NamedTuple):
    """A list of columns and values for every row: row i has those from start[i] to start[i + 1]."""

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def _mutual(near, k):
    """``[N, k + 1]``: which of the k + 1 nearest rows have this row among their k + 1 nearest."""
    near = near[:, : k + 1]
    mutual = np.empty(near.shape, bool)
    for rows in slices(len(near), near.shape[1] ** 2):
        row = np.arange(rows.start, rows.stop)[:, None, None]
        mutual[rows] = (near[near[rows]] == row).any(2)
    return mutual


def reciprocal_sets(near, k1):
    """R* of every row, sorted: row i has the columns from start[i] to start[i + 1]."""
    n, half = len(near), round(k1 / 2)  # a half is rounded to even, as in the definition
    wide, narrow = near[:, : k1 + 1], near[:, : half + 1]
    in_wide, in_narrow = _mutual(near, k1), _mutual(near, half)
    sizes = in_narrow.sum(1)
    counts, columns = [], []
    # `members` has a byte for each of N columns, `candidates` has (k1 + 1) (half + 1) numbers
    for rows in slices(n, max(n // 16, wide.shape[1] * narrow.shape[1])):
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


def averaged(lists, near):
    """The mean of the lists of the rows `near` ``[N, k2]`` each row."""
    n, k2 = near.shape
    near = np.sort(near, 1)  # so that rows with the same neighbors have the same sum, to the bit
    counts, columns, values = [], [], []
    for rows in slices(n, k2 * int(np.diff(lists.start).max())):
        entries, owner = _entries(lists.start, near[rows].ravel())
        key = owner // k2 * n + lists.columns[entries]
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        values.append(np.add.reduceat(lists.values[entries[order]], first) / k2)
        row, column = np.divmod(key[first], n)
        columns.append(column.astype(np.int32))
        counts.append(np.bincount(row, minlength=rows.stop - rows.start))
    return Lists(_starts(np.concatenate(counts)), np.concatenate(columns), np.concatenate(values))


def by_column(lists, q, n):
    """The lists of the gallery, turned around: for every column, the gallery rows that have it."""
    first = lists.start[q]
    columns, values = lists.columns[first:], lists.values[first:]
    row = np.repeat(np.arange(n - q, dtype=np.int32), np.diff(lists.start[q:]))
    order = np.argsort(columns, kind="stable")
    return Lists(_starts(np.bincount(columns, minlength=n)), row[order], values[order])


def overlaps(lists, rows, by_column, g):
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


def slices(n, numbers):
    """Slices of n rows with `numbers` each: about `AT_ONCE` numbers, and at least one row."""
    size = max(1, AT_ONCE // max(1, numbers))
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def full_blocks(n, size):
    """Slices of equal size, so that one program is compiled. The last may repeat some rows."""
    size = min(size, n)
    return [slice(min(i, n - size), min(i + size, n)) for i in range(0, n, size)]
