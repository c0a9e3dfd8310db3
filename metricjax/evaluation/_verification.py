"""Verification: how many matches a bar accepts that few impostors pass, over all pairs, exactly.

A pair of samples with one label is a match, any other pair is an impostor. 30,000 samples have 450
million pairs, which do not fit in memory. A false accept rate of 1e-6 depends on the 450 closest
impostors, so a sample of the pairs is too inaccurate.

The bar is the k-th largest impostor score. Nothing needs to be sorted to find it. Every score is
read as an unsigned integer that has the order of the scores, and the integer is found 16 bits at a
time, as in a radix sort. For k = 3, with 4 bits in digits of 2 bits in place of 32 bits in digits
of 16:

    impostors        1011  1001  1000  0111  0100
    first pass       counts by the first digit: 10 has 3, 01 has 2.    The third is in 10.
    second pass      counts in 10 by the next digit: 11, 01 and 00.    The third is 1000.

The counts of the matches, kept beside those of the impostors, tell how many matches are above the
bar. So a pass holds one tile of scores and 65,536 counts for each rate, and float32 takes two
passes. Both passes run one program: another program could round a product differently, and then
the counts of the second pass would not add up to those of the first. Tiles are computed by JAX and
counted by NumPy, whose counts have 64 bits; the next tile is computed while one is counted.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from metricjax._core.check import check_is_distance
from metricjax._core.masked import upcast
from metricjax._core.rounding import rounded
from metricjax._core.tuning import block_sizes
from metricjax.distances import CosineSimilarity, Distance
from metricjax.evaluation._knn import check_search
from metricjax.evaluation._labels import coded_sides, on_every_host

BITS = 16
"""The bits of a digit. With 65,536 counts for each rate, the counts stay in a core's cache."""

MOST_RATES = 256
"""Each score is compared with one prefix for each rate; and the counts of a rate take 1 MiB."""


class TarAtFar(NamedTuple):
    """True accept rates at false accept rates; the result of `tar_at_far`.

    Attributes:
        tar: ``[F]``, the share of matches that are accepted.
        threshold: ``[F]``, the smallest similarity, or largest distance, that is accepted.
        far: ``[F]``, the share of impostors that are accepted: at most the rate that was asked for.
        matches: the number of pairs with equal labels.
        impostors: the number of pairs with different labels.
    """

    tar: Float[np.ndarray, " f"]
    threshold: Float[np.ndarray, " f"]
    far: Float[np.ndarray, " f"]
    matches: int
    impostors: int


def tar_at_far(
    query: Float[Array, "q d"],
    labels: Any,
    reference: Float[Array, "m d"] | None = None,
    reference_labels: Any = None,
    *,
    far: float | Sequence[float] = (1e-4, 1e-3, 1e-2),
    distance: Distance = CosineSimilarity(),
) -> TarAtFar:
    r"""Computes the true accept rate (TAR) at given false accept rates (FAR), over all pairs.

    .. math::
        \mathrm{TAR}(f) = P(s > b_f \mid \text{match}), \qquad
        b_f = \min \{b : P(s > b \mid \text{impostor}) \le f\}

    The bar :math:`b_f` is the score of an impostor: the closest one that has to be rejected. Only
    pairs that are closer than the bar are accepted. So the FAR is never above f, and no other
    threshold accepts more matches.

    The result is exact, also for rates of which `inference.pair_distances` would take too small a
    sample. It looks at every pair twice, a tile of pairs at a time: memory does not grow with the
    number of pairs. It runs on the host, between jitted steps. Rows that are sharded over a mesh
    are gathered first, and every process computes all tiles on one device.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import tar_at_far
        >>> x, labels = jnp.array([[0.0], [1.0], [3.0], [7.0], [9.0]]), ["a", "a", "b", "b", "b"]
        >>> euclidean = LpDistance(normalize_embeddings=False)
        >>> result = tar_at_far(x, labels, far=(0.0, 0.5), distance=euclidean)
        >>> print(result.tar, result.far, result.matches, result.impostors)
        [0.25 1.  ] [0.  0.5] 4 6

    Args:
        query: ``[Q, D]``.
        labels: ``[Q]`` integers or strings.
        reference: ``[M, D]``. Every query is paired with every reference. Without references, every
            query is paired with every later query: two samples are one pair, and no sample is
            paired with itself.
        reference_labels: ``[M]`` integers or strings; required with `reference`.
        far: ``[F]`` rates from 0 to 1, or one rate.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. A cosine within 16 eps of 1 counts as 1, as
            in `inference`.

    Returns:
        `TarAtFar`. A pair is accepted if its similarity is at least `threshold`, or its distance at
        most `threshold`, as in `inference.match`. The threshold is the float next to the bar. If
        `far` is 1, everything is accepted, at ``-inf`` (``inf`` for distances).

    Warns:
        UserWarning: if there are fewer impostors than ``1 / far``. No impostor is then accepted.

    Raises:
        ValueError: for mismatched shapes, for rates outside of [0, 1], if there are no matches or
            no impostors, or if a distance is NaN.
        TypeError: if embeddings are not floating, or for labels that are neither integers nor
            strings.
    """
    name = "evaluation.tar_at_far"
    if (reference is None) != (reference_labels is None):
        missing, given = "reference", "reference_labels"
        if reference_labels is None:
            missing, given = given, missing
        raise ValueError(
            f"{name}: `{missing}` must be given with `{given}`, got None. Give both or neither."
        )
    itself = reference is None
    query, reference = check_search(name, query, query if itself else reference)
    query, reference = _on_one_device(query), _on_one_device(reference)
    check_is_distance(name, distance)
    rates = as_rates(name, "far", far)
    queries = ("labels", labels, "query", len(query))
    references = ("reference_labels", reference_labels, "reference", len(reference))
    classes, ref_classes = coded_sides(name, queries, queries if itself else references)
    matches, impostors = _pair_counts(classes, ref_classes, itself)
    if not matches or not impostors:
        raise ValueError(
            f"{name}: `labels` must be equal for some pairs and differ for others, got {matches} "
            f"matches and {impostors} impostors. Add samples of the other kind."
        )
    warn_of_few(name, "far", rates, "impostors", impostors)

    most = np.array([most_within(rate, impostors) for rate in rates], np.int64)
    sides = (query, classes), (reference, ref_classes)
    counter = _Counter(name, *sides, itself, distance, len(rates))
    bars, accepted = _select(counter, np.minimum(most, impostors - 1))
    every = most == impostors
    accepted[every] = impostors, matches
    thresholds = threshold_above(bars, every, distance.is_similarity)
    far_reached, tar = accepted[:, 0] / impostors, accepted[:, 1] / matches
    return TarAtFar(tar, thresholds, far_reached, matches, impostors)


def as_rates(function, name, rates) -> np.ndarray:
    """Returns rates ``[F]`` in float64, checked to be from 0 to 1."""
    array = np.atleast_1d(np.asarray(rates))
    if array.size and array.dtype.kind not in "iuf":
        raise TypeError(
            f"{function}: `{name}` must be numbers, got {array.dtype.name}. 0.001 is 0.1 %."
        )
    if array.ndim > 1 or not 0 < array.size <= MOST_RATES:
        raise ValueError(
            f"{function}: `{name}` must have shape [F] with at most {MOST_RATES} rates, got "
            f"{array.shape}. Give one rate or a list."
        )
    outside = array[~((array >= 0) & (array <= 1))]
    if outside.size:
        raise ValueError(
            f"{function}: `{name}` must be from 0 to 1, got {outside[0]}. 0.001 is 0.1 %."
        )
    return array.astype(np.float64)


def most_within(rate, count) -> int:
    """Returns the largest k with ``k / count <= rate``.

    ``int(rate * count)`` may be one less: 0.29 * 100 is 28.999999999999996.
    """
    k = int(rate * count)
    return next(k for k in (k + 1, k, k - 1) if k <= count and k / count <= rate)


def warn_of_few(function, name, rates, what, count):
    """Warns of rates that are too small for this many impostors or unknown probes."""
    few = [rate for rate in rates if rate > 0 and not most_within(rate, count)]
    if few:
        warnings.warn(
            f"{function}: `{name}` of {min(few):g} needs at least "
            f"{math.ceil(round(1 / min(few), 6))} {what}, got "
            f"{count}. None of them is accepted, as at a rate of 0.",
            stacklevel=3,
        )


def threshold_above(bars, every, similar) -> np.ndarray:
    """Returns the thresholds that accept what is above the bars; where `every`, they accept all.

    Bars are scores, and larger is closer. The next float after a bar is never subnormal: JAX counts
    subnormal numbers as 0.
    """
    above, tiny = np.nextafter(bars, np.inf, dtype=bars.dtype), np.finfo(bars.dtype).tiny
    above = np.where(np.abs(above) < tiny, np.where(bars < 0, 0, tiny), above)
    above = np.where(every, -np.inf, above).astype(bars.dtype)
    return above if similar else 0 - above  # not -0


def scores(distance, x, y):
    """Returns scores in at least float32: similarities, or distances times -1."""
    score = upcast(distance(x, y))
    return score if distance.is_similarity else -score


def _on_one_device(x):
    """Gathers rows that are sharded. A tile of sharded rows would be gathered anew every time."""
    return x if len(x.sharding.device_set) == 1 else jnp.asarray(on_every_host(x))


def _pair_counts(classes, ref_classes, itself):
    """Returns how many pairs are matches and how many are impostors, as Python integers."""
    n, m = len(classes), len(ref_classes)
    size = 1 + max(classes.max(initial=0), ref_classes.max(initial=0))
    sizes, ref_sizes = (np.bincount(x, minlength=size) for x in (classes, ref_classes))
    if itself:
        matches = int(np.sum(sizes * (sizes - 1) // 2))
        return matches, n * (n - 1) // 2 - matches
    matches = int(np.sum(sizes * ref_sizes))
    return matches, n * m - matches


def _select(counter: "_Counter", ranks: Int[np.ndarray, " f"]):
    """Returns the scores of the impostors with these ranks, and how many pairs are above them.

    Args:
        ranks: ``[F]``; 0 is the closest impostor.

    Returns:
        ``[F]`` scores, and ``[F, 2]`` impostors and matches with a larger score.
    """
    left, above = ranks.copy(), np.zeros((len(ranks), 2), np.int64)
    keys = np.zeros(len(ranks), counter.unsigned)
    for shift in range(counter.unsigned.itemsize * 8 - BITS, -1, -BITS):
        prefixes, place = np.unique(keys, return_inverse=True)
        counts = counter(prefixes, shift)[:, ::-1]  # largest digit first
        for f, p in enumerate(place.reshape(-1)):
            through = np.cumsum(counts[p, :, 0])
            digit = min(int(np.searchsorted(through, left[f], side="right")), len(through) - 1)
            before = counts[p, :digit].sum(0)
            above[f] += before
            left[f] -= before[0]
            keys[f] = (int(keys[f]) << BITS) | (len(through) - 1 - digit)
    return _from_keys(keys), above


class _Counter:
    """Counts the pairs by the next digit of their scores, those of each prefix separately."""

    def __init__(self, function, query_side, reference_side, itself, distance, rates):
        sizes = tuple(
            min(size, len(rows))
            for size, (rows, _) in zip(
                block_sizes().ref_chunk, (query_side, reference_side), strict=True
            )
        )
        self.shape = len(query_side[0]), len(reference_side[0])
        self.starts = [
            np.array([i, j], np.int32)
            for i in range(0, self.shape[0], sizes[0])
            for j in range(0, self.shape[1], sizes[1])
            if not itself or j + sizes[1] - 1 > i
        ]
        self.function, self.rates = function, rates
        sides = _padded(query_side, sizes[0]), _padded(reference_side, sizes[1])
        how = {"shape": self.shape, "sizes": sizes, "itself": itself}
        how["distance"] = rounded(function, distance)
        self.bins: Callable = functools.partial(_bins, *sides, **how)
        dtype = jax.eval_shape(
            functools.partial(scores, how["distance"]), *(side[0][:1] for side in sides)
        ).dtype
        self.unsigned = np.dtype(f"uint{dtype.itemsize * 8}")

    def __call__(self, prefixes, shift) -> Int[np.ndarray, "u digits 2"]:
        """Returns the counts of impostors and matches, by digit, of each prefix.

        Args:
            prefixes: ``[U]`` ascending, the digits before this one.
            shift: the bits after this digit.
        """
        padded = np.pad(prefixes, (0, self.rates - len(prefixes)), "edge")  # one shape: one program
        shift = np.array(shift, self.unsigned)
        counts = np.zeros(1 + (len(prefixes) << (BITS + 1)), np.int64)
        for bins in _one_ahead(self.bins(start, padded, shift) for start in self.starts):
            found = np.bincount(np.asarray(bins).reshape(-1))
            counts[: len(found)] += found
        by_digit = counts[1:].reshape(len(prefixes), -1, 2)
        if shift == 8 * self.unsigned.itemsize - BITS and by_digit[0, 0].any():
            raise ValueError(
                f"{self.function}: `query` must have no NaN distance, got {by_digit[0, 0].sum()}. "
                f"Leave out the rows that are NaN or infinite."
            )
        return by_digit


@functools.partial(jax.jit, static_argnames=("shape", "sizes", "itself", "distance"))
def _bins(query_side, reference_side, start, prefixes, shift, *, shape, sizes, itself, distance):
    """Returns the bin that each pair of a tile counts in, ``[rows, columns]`` int32.

    The bin is 0 where there is no pair, or where the digits before this one are none of `prefixes`.
    Otherwise it is one more than (place of the prefix, digit, match or not), written as one number.
    """
    part = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, start[axis], sizes[axis])
    x, labels = (part(rows, 0) for rows in query_side)
    y, ref_labels = (part(rows, 1) for rows in reference_side)
    row, column = (start[k] + jnp.arange(sizes[k], dtype=jnp.int32) for k in (0, 1))
    exists = (row < shape[0])[:, None] & (column < shape[1])[None, :]
    if itself:
        exists &= row[:, None] < column[None, :]
    is_match = (labels[:, None] == ref_labels[None, :]).astype(jnp.int32)

    digits = _keys(scores(distance, x, y)) >> shift
    before, digit = digits >> BITS, (digits & (2**BITS - 1)).astype(jnp.int32)
    # 1.1 ns a pair for 16 prefixes, where `searchsorted` takes 5 to 64, and its memory. In reverse,
    # because the padding repeats the last prefix, whose first place is the one that counts.
    place = jnp.full(before.shape, -1, jnp.int32)
    for k in reversed(range(len(prefixes))):
        place = jnp.where(before == prefixes[k], k, place)
    exists &= place >= 0
    return jnp.where(exists, 1 + ((((place << BITS) | digit) << 1) | is_match), 0)


def _keys(score):
    """Returns unsigned integers in the order of the scores. NaN is below all others.

    The bits of a positive float are in its order. Those of a negative float are in reverse.
    """
    unsigned = np.dtype(f"uint{score.dtype.itemsize * 8}")
    sign = np.array(1 << (score.dtype.itemsize * 8 - 1), unsigned)
    bits = jax.lax.bitcast_convert_type(jnp.where(score == 0, 0, score), unsigned)  # -0 is 0
    keys = jnp.where(bits < sign, bits | sign, ~bits)
    return jnp.where(jnp.isnan(score), jnp.zeros_like(keys), keys)


def _from_keys(keys):
    """Returns the scores that have these keys."""
    sign = np.array(1 << (keys.dtype.itemsize * 8 - 1), keys.dtype)
    return np.where(keys < sign, ~keys, keys ^ sign).view(f"float{keys.dtype.itemsize * 8}")


def _padded(side, size):
    """Returns arrays with as many rows as full tiles have, on the device."""
    missing = -len(side[0]) % size
    fill = lambda x: jnp.pad(jnp.asarray(x), [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return tuple(fill(x) for x in side)


def _one_ahead(items: Iterable):
    """Yields every item after the next one has been started."""
    waiting: list = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
