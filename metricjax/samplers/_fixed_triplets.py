"""Batches from a fixed set of random triplets."""

import numpy as np
from numpy.typing import ArrayLike

from metricjax._core.check import check_at_least
from metricjax.samplers._arguments import check_multiple, check_samples, steps_and_part
from metricjax.samplers._classes import group
from metricjax.samplers._random import endless, integers


def fixed_triplets(
    labels: ArrayLike,
    num_triplets: int,
    *,
    seed: int,
    step: ArrayLike | None = None,
    batch_size: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    """Draws a fixed set of triplets and splits it into batches, in a new order every epoch.

    The triplets are independent. For each, two classes are drawn uniformly, the first among those
    with two samples or more. Anchor and positive are two samples of the first class, and the
    negative is a sample of the second. Batches continue across epochs, so every batch is full, and
    no batch takes a triplet of the set twice. A set smaller than two batches may keep an order for
    several epochs.

    Example:
        >>> import numpy as np
        >>> from metricjax import samplers
        >>> labels = np.array([0, 0, 1, 1, 2])
        >>> print(samplers.fixed_triplets(labels, 4, seed=0))
        [[1 0 2]
         [1 0 4]
         [3 2 4]
         [1 0 3]]
        >>> print(samplers.fixed_triplets(labels, 4, seed=0, step=0, batch_size=6))
        [1 0 4 1 0 2]

    Args:
        labels: ``[N]`` integers or strings, of the whole data set.
        num_triplets: T, the number of triplets in the set.
        seed: an integer >= 0.
        step: index of the batch, from 0; or an array of steps, for many batches at once.
        batch_size: how many samples (not triplets) a batch over all shards has; needed with `step`.
        shard_index, shard_count: which of the equal parts of the batch to return. Each part has
            whole triplets. The parts in order are the batch.

    Returns:
        Indices of samples. Without `step`, the set ``[T, 3]``: anchors, positives, negatives. With
        `step`, ``[*step.shape, batch_size / shard_count]``, one triplet after the other. To pass
        these triplets to a loss, call `metricjax.tuples.from_triplets` with
        ``(*jnp.arange(batch_size).reshape(-1, 3).T)``.
    """
    name = "samplers.fixed_triplets"
    classes = group(check_samples(name, "labels", labels, 1))
    check_at_least(name, "num_triplets", num_triplets, 1)
    total, paired = len(classes.sizes), np.flatnonzero(classes.sizes > 1)
    if total < 2 or not len(paired):
        raise ValueError(
            f"{name}: `labels` must have two classes, one of them with two samples, "
            f"got sizes {classes.sizes}."
        )

    def triplets(t):
        first = paired[integers(len(paired), seed, 1, t)]
        other = (first + 1 + integers(total - 1, seed, 2, t)) % total
        anchor = integers(classes.sizes[first], seed, 3, t)
        further = 1 + integers(classes.sizes[first] - 1, seed, 4, t)
        positive = (anchor + further) % classes.sizes[first]
        negative = integers(classes.sizes[other], seed, 5, t)
        places = [(first, anchor), (first, positive), (other, negative)]
        return np.stack([classes.members[classes.starts[c] + i] for c, i in places], -1)

    if step is None:
        return triplets(np.arange(num_triplets))
    check_multiple(name, "batch_size", batch_size, triplet=3, shard_count=shard_count)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)
    if batch_size > 3 * num_triplets:
        raise ValueError(
            f"{name}: `batch_size` must be at most 3 * num_triplets = {3 * num_triplets}, "
            f"got {batch_size}."
        )
    _, which = endless(num_triplets, batch_size // 3, seed, steps)
    return triplets(which).reshape(*steps.shape, batch_size)[..., part]
