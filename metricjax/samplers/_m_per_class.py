"""Batches of m samples from each of some classes."""

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
    """Draws ``batch_size / m`` classes and m samples of each, and leaves none out.

    An epoch is C visits, one to each class in random order. Batches run on across epochs, so all
    are full and none has a class twice. The visits to a class take its samples m by m, in random
    order, each once before any comes again. So the samples of a visit differ, unless the class has
    fewer than m: then all of them are there, as equally often as possible.

    Every class is as likely as any other, whatever its size, and so is every sample of it.

    Example:
        >>> import numpy as np
        >>> from metricjax import samplers
        >>> labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
        >>> batch = samplers.m_per_class(labels, 2, batch_size=4, seed=0, step=0)
        >>> print(batch, labels[batch])
        [3 5 1 2] [1 1 0 0]

    Args:
        labels: ``[N]`` integers or strings, of the whole data set.
        m: how many samples of a class are next to each other in a batch.
        batch_size: of the batch over all shards.
        seed: an integer >= 0.
        step: which batch, from 0 on; or an array of steps, for many at once.
        shard_index, shard_count: which of the equal parts of the batch is wanted. The parts in
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
    # An order of a class lasts until a visit ends where it does: m visits, or a divisor of m.
    sizes = classes.sizes[which]
    order, visit = np.divmod(epoch, sizes // np.gcd(sizes, m))
    samples = pick(classes, which, visit * m, m, seed, 1, order)
    return samples.reshape(*steps.shape, batch_size)[..., part]
