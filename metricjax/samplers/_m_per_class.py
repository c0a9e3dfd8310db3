"""Batches with m samples of each of several classes."""

import numpy as np
from numpy.typing import ArrayLike

from metricjax.samplers._arguments import check_multiple, check_samples, steps_and_part
from metricjax.samplers._classes import group, pick
from metricjax.samplers._random import endless


def m_per_class(
    labels: ArrayLike,
    m: int,
    *,
    batch_size: int,
    seed: int,
    step: ArrayLike,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    """Draws ``batch_size / m`` classes and m samples of each; over time all samples are used.

    An epoch visits each of the C classes once, in random order. Batches continue across epochs, so
    every batch is full and no batch has a class twice. Each visit takes the next m samples of the
    class, in random order, and every sample is taken once before any is taken again. So the samples
    of a visit differ, unless the class has fewer than m samples. Then the visit has all of them, as
    equally often as possible.

    All classes are equally likely, whatever their size, and so are all samples of a class.

    Example:
        >>> import numpy as np
        >>> from metricjax import samplers
        >>> labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
        >>> batch = samplers.m_per_class(labels, 2, batch_size=4, seed=0, step=0)
        >>> print(batch, labels[batch])
        [3 5 1 2] [1 1 0 0]

    Args:
        labels: ``[N]`` integers or strings, of the whole data set.
        m: the number of adjacent samples of a class in a batch.
        batch_size: size of the batch over all shards.
        seed: an integer >= 0.
        step: index of the batch, from 0; or an array of steps, for many batches at once.
        shard_index, shard_count: which of the equal parts of the batch to return. The parts in
            order are the batch. A class stays in one part if `shard_count` divides
            ``batch_size / m``.

    Returns:
        ``[*step.shape, batch_size / shard_count]`` indices of samples.
    """
    name = "samplers.m_per_class"
    labels = check_samples(name, "labels", labels, 1)
    check_multiple(name, "batch_size", batch_size, m=m)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)
    classes, per_batch = group(labels), batch_size // m
    if per_batch > len(classes.sizes):
        raise ValueError(
            f"{name}: `batch_size` must be at most m * classes = {m} * {len(classes.sizes)}, "
            f"got {batch_size}. A larger m fills it from fewer classes."
        )
    epoch, which = endless(len(classes.sizes), per_batch, seed, steps)
    # A class keeps an order until a visit ends where the order does: size / gcd(size, m) visits.
    sizes = classes.sizes[which]
    order, visit = np.divmod(epoch, sizes // np.gcd(sizes, m))
    samples = pick(classes, which, visit * m, m, seed, 1, order)
    return samples.reshape(*steps.shape, batch_size)[..., part]
