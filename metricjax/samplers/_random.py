"""Random numbers without a state: hashes of their position, such as (seed, epoch, class).

The hash is integer arithmetic modulo 2**64, and nothing here depends on NumPy's generators. The
numbers are therefore the same on every platform and with every version of NumPy.
"""

import functools
import math

import numpy as np


def words(*parts):
    """Returns uniform 64-bit words, one for each element of the broadcast integers `parts`.

    It runs SplitMix64, restarted for each part with the word so far.

    References:
        Steele et al., `Fast Splittable Pseudorandom Number Generators
        <https://doi.org/10.1145/2660193.2660195>`_, 2014.
    """
    z = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            z = z + (np.asarray(part).astype(np.uint64) + np.uint64(1)) * _GOLDEN
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return z


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio


def integers(n, *parts):
    """Returns uniform integers in ``[0, n)``, with a bias of at most ``n / 2**64``."""
    return (words(*parts) % np.asarray(n).astype(np.uint64)).astype(np.int64)


def fractions(*parts):
    """Returns uniform multiples of 2**-53 in ``[0, 1)``."""
    return (words(*parts) >> np.uint64(11)) * 2.0**-53


def shuffled(n, *parts):
    """Returns a uniform permutation of ``range(n)``."""
    return np.argsort(words(*parts, np.arange(n)), kind="stable")


@functools.lru_cache(maxsize=8)
def epoch_order(n, per_batch, seed, epoch):
    """Returns the permutation of ``range(n)`` of an epoch; batches continue across epochs.

    A batch that begins in one epoch and ends in the next contains no element twice.
    """
    if n < 2 * per_batch:  # keep one order until an epoch ends with a batch
        return shuffled(n, seed, 0, epoch - epoch % (per_batch // math.gcd(n, per_batch)))
    order = shuffled(n, seed, 0, epoch)
    begun = epoch * n % per_batch  # number of elements of the first batch from the epoch before
    if begun:
        late = np.isin(order[:per_batch], shuffled(n, seed, 0, epoch - 1)[-begun:])
        order[:per_batch] = order[:per_batch][np.argsort(late, kind="stable")]
    return order


def endless(n, per_batch, seed, step):
    """Returns epoch and element at each place ``[..., per_batch]`` of the batches `step`."""
    place = step[..., None] * per_batch + np.arange(per_batch)
    epochs, which = np.unique(place // n, return_inverse=True)
    orders = [epoch_order(n, per_batch, seed, int(epoch)) for epoch in epochs]
    stacked = np.stack(orders) if orders else np.zeros((1, n), np.int64)
    return place // n, stacked[which.reshape(place.shape), place % n]
