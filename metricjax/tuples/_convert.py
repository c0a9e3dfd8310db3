"""Conversions of mined tuples: to pairs, padded lists and sample weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_at_least
from metricjax._core.refs import replicated
from metricjax._core.stream import sum_over, zeros_like
from metricjax._core.triplets import triplets_at, walk_positives
from metricjax._core.types import Mined, Pairs, TripletRule, Triplets
from metricjax.tuples._lists import from_pairs, there


class PairLists(NamedTuple):
    """Pairs as index lists of fixed length: positives ``(a1, p)``, negatives ``(a2, n)``.

    The field names are the argument names of `from_pairs`. A weight of 0 is padding.
    """

    a1: Int[Array, " t"]
    p: Int[Array, " t"]
    a2: Int[Array, " u"]
    n: Int[Array, " u"]
    where_positive: Num[Array, " t"]
    where_negative: Num[Array, " u"]


def as_pairs(mined: Mined, shape: tuple[int, int] | None = None) -> Pairs:
    """Converts `mined` to pairs; a pair has the total weight of the triplets that contain it.

    Args:
        mined: what a miner returned. `Pairs` are returned unchanged.
        shape: ``(N, M)``; needed for a list of `Triplets`, which does not contain it.
    """
    if isinstance(mined, Pairs):
        return mined
    if isinstance(mined, Triplets):
        if shape is None:
            raise ValueError("tuples.as_pairs: `shape` (N, M) is needed for a list of triplets.")
        a, p, n, weights = there(mined, *shape)
        where = {"where_positive": weights, "where_negative": weights}
        return from_pairs(a, p, a, n, shape=shape, **where)
    walk, columns = walk_positives(mined.positive), jnp.arange(mined.positive.shape[1])

    def slab(k):
        j, kept = triplets_at(mined, walk, k)
        here = j[:, None] == columns[None, :]
        return Pairs(jnp.where(here, jnp.sum(kept, 1, keepdims=True), 0), kept)

    return sum_over(slab, walk.steps)


def as_pair_lists(
    mined: Mined, size: int | tuple[int, int], shape: tuple[int, int] | None = None
) -> tuple[PairLists, tuple[Int[Array, ""], Int[Array, ""]]]:
    """Converts `mined` to index lists of pairs, to inspect or pass on; inverts `from_pairs`.

    Each pair is listed once, ordered by anchor and reference, with its multiplicity as weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import tuples
        >>> pairs = tuples.all_pairs(jnp.array([0, 0, 1]))
        >>> lists, left_out = tuples.as_pair_lists(pairs, size=3)
        >>> print(lists.a1, lists.p, lists.where_positive)
        [0 1 0] [1 0 0] [1. 1. 0.]
        >>> print(lists.a2, lists.n, *left_out)
        [0 1 2] [2 2 0] 0 1
        >>> again = tuples.from_pairs(**lists._asdict(), shape=(3, 3))

    Args:
        mined: what a miner returned; triplets are converted to pairs as in `as_pairs`.
        size: length of both lists, or their two lengths ``(positives, negatives)``; static.
        shape: ``(N, M)``; needed for a list of `Triplets`, which does not contain it.

    Returns:
        The lists, and the numbers of positive and of negative pairs that did not fit.
    """
    name = "tuples.as_pair_lists"
    sizes = size if isinstance(size, tuple) else (size, size)
    for one in sizes:
        check_at_least(name, "size", one, 0)
    check_mined(name, mined)
    pairs = replicated(as_pairs(mined, shape))
    (a1, p), where_positive, left_positive = _listed(pairs.positive, sizes[0])
    (a2, n), where_negative, left_negative = _listed(pairs.negative, sizes[1])
    return PairLists(a1, p, a2, n, where_positive, where_negative), (left_positive, left_negative)


def _listed(mat, size):
    """Returns indices and values of the first `size` entries above 0, and the number of others."""
    mat = mat.astype(jnp.float32) if mat.size else jnp.zeros((1,) * mat.ndim)
    exists = mat > 0
    index = jnp.nonzero(exists, size=size, fill_value=0)
    count = jnp.sum(exists)
    fits = jnp.arange(size) < count
    return index, jnp.where(fits, mat[index], 0), count - jnp.sum(fits)


def as_triplets(mined: Mined, size: int) -> tuple[Triplets, Int[Array, ""]]:
    """Converts `mined` to a list of triplets of fixed length, to inspect or pass on.

    The triplets of `Pairs` are all that join a positive and a negative pair of the same anchor.
    Triplets of `Pairs` or of a rule are ordered by anchor, positive and negative. Each is listed
    once, with its multiplicity as weight. `Triplets` keep their order, and padding moves to the
    end. Working memory is ``N * M + T``.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import tuples
        >>> pairs = tuples.all_pairs(jnp.array([0, 0, 1, 1]))
        >>> triplets, left_out = tuples.as_triplets(pairs, size=6)
        >>> for index in triplets[:3]:
        ...     print(index)
        [0 0 1 1 2 2]
        [1 1 0 0 3 3]
        [2 3 2 3 0 1]
        >>> print(left_out)
        2

    Args:
        mined: what a miner returned, or `all_pairs`.
        size: T, the length of the list; static.

    Returns:
        `Triplets`, padded with weight 0 at the end, and the number of triplets that did not fit.
        Triplets are counted up to ``2**30``.
    """
    name = "tuples.as_triplets"
    check_at_least(name, "size", size, 0)
    check_mined(name, mined)
    mined = replicated(mined)
    if not mined[0].size:
        none = jnp.zeros(size, int)
        return Triplets(none, none, none, none.astype(jnp.float32)), jnp.sum(none)
    if isinstance(mined, Triplets):
        (at,), weights, left_out = _listed(mined.weights, size)
        return Triplets(mined.anchor[at], mined.positive[at], mined.negative[at], weights), left_out
    positive, negative = (x.astype(jnp.float32) for x in mined[:2])
    mined = mined._replace(positive=positive, negative=negative)
    walk = walk_positives(positive)

    def count(k, counts):
        exists = triplets_at(mined, walk, k)[1] > 0
        return jax.lax.dynamic_update_index_in_dim(counts, jnp.sum(exists, 1), k, 1)

    counts = _loop(count, walk.steps, walk.table.shape)
    ends = _running_total(counts.ravel())
    starts = ends.reshape(counts.shape) - counts

    def place(k, columns):
        exists = triplets_at(mined, walk, k)[1] > 0
        start = jax.lax.dynamic_index_in_dim(starts, k, 1)
        slots = jnp.where(exists, start + jnp.cumsum(exists, 1) - 1, size)
        return columns.at[slots].set(jnp.arange(exists.shape[1])[None, :], mode="drop")

    slots, total = jnp.arange(size), ends[-1]
    run = jnp.searchsorted(ends, slots, side="right")  # the triplets of one anchor and positive
    exists = slots < total
    a, k = jnp.divmod(jnp.where(exists, run, 0), counts.shape[1])
    p = jnp.where(exists, walk.table[a, k], 0)
    n = _loop(place, walk.steps, (size,))
    weights = jnp.where(exists, positive[a, p] * negative[a, n], 0)
    return Triplets(a, p, n, weights), total - jnp.sum(exists)


def _loop(step, steps, shape):
    """Runs ``x = step(k, x)`` for each k, starting from integer zeros."""
    like = jax.eval_shape(lambda k: step(k, jnp.zeros(shape, int)), jnp.int32(0))
    return jax.lax.fori_loop(0, steps, step, zeros_like(like))


def _running_total(counts):
    """Returns cumulative sums, limited to ``2**30`` so that none overflows."""
    about = jnp.cumsum(counts.astype(jnp.float32))
    return jnp.where(about < 2**30, jnp.minimum(jnp.cumsum(counts), 2**30), 2**30)


def sample_weights(
    mined: Mined, n: int, *, self_refs: bool = True, dtype=jnp.float32
) -> Float[Array, " n"]:
    """Counts how often each sample occurs in `mined`, relative to the most frequent sample.

    All weights are 1 if nothing was mined. The weights let a miner weight the samples of a loss
    that has no pairs.

    Args:
        mined: what a miner returned.
        n: how many samples there are.
        self_refs: whether the references are the batch itself, so that occurrences as a reference
            count as well.
        dtype: of the result.
    """
    return samples_weighed("tuples.sample_weights", mined, n, self_refs, dtype)


def samples_weighed(function, mined, n, self_refs=True, dtype=jnp.float32):
    """Computes `sample_weights` for another public function, which error messages name."""
    check_at_least(function, "n", n, 0)
    check_mined(function, mined)
    if isinstance(mined, Triplets):
        mined = there(mined, n, n if self_refs else jnp.iinfo(jnp.int32).max)
        count = lambda index: jnp.zeros(n, dtype).at[index].add(mined.weights.astype(dtype))
        as_anchor = count(mined.anchor)
        as_reference = count(mined.positive) + count(mined.negative)
    else:
        of = mined.positive.shape
        if of[0] != n or (self_refs and of[1] != n):
            raise ValueError(
                f"{function}: `mined` must have shape ({n}, {n if self_refs else 'M'}), got {of}."
            )
        triplets = isinstance(mined, TripletRule)  # an anchor is once in each, not in two pairs
        positive, negative = (x.astype(dtype) for x in as_pairs(mined))
        as_anchor = jnp.sum(positive, 1) + (0 if triplets else jnp.sum(negative, 1))
        as_reference = jnp.sum(positive, 0) + jnp.sum(negative, 0)
    counts = as_anchor + as_reference if self_refs else as_anchor
    most = jnp.max(counts, initial=0)
    return jnp.where(most > 0, counts / jnp.where(most > 0, most, 1), 1)


def check_mined(function, mined):
    if not isinstance(mined, Pairs | Triplets | TripletRule):
        raise TypeError(
            f"{function}: `mined` must be what a miner or `metricjax.tuples` returns, "
            f"got {type(mined).__name__}."
        )
