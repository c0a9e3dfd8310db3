"""Batches from a fixed set of random pairs."""

import numpy as np
from numpy.typing import ArrayLike

from metricjax._core.check import check_at_least
from metricjax.samplers._arguments import check_multiple, check_samples, steps_and_part
from metricjax.samplers._classes import group
from metricjax.samplers._random import endless, integers


def fixed_pairs(
    labels: ArrayLike,
    num_pairs: int,
    *,
    seed: int,
    step: ArrayLike | None = None,
    batch_size: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    """Draws a fixed set of pairs, half of them positive, and splits it into batches.

    The pairs are independent. For a positive pair, a class is drawn uniformly among those with two
    samples or more, and then two of its samples. For a negative pair, two classes are drawn, and a
    sample of each. Positive and negative pairs alternate. Every epoch has a new order. Batches
    continue across epochs, so every batch is full, and no batch takes a pair of the set twice. A
    set smaller than two batches may keep an order for several epochs.

    Example:
        >>> import numpy as np
        >>> from metricjax import samplers
        >>> labels = np.array([0, 0, 1, 1, 2])
        >>> pairs = samplers.fixed_pairs(labels, 4, seed=0)
        >>> print(labels[pairs[0::2]].tolist(), (labels[pairs[1::2, 0]] != labels[pairs[1::2, 1]]))
        [[0, 0], [0, 0]] [ True  True]
        >>> print(samplers.fixed_pairs(labels, 4, seed=0, step=0, batch_size=4).shape)
        (4,)

    Args:
        labels: ``[N]`` integers or strings, of the whole data set.
        num_pairs: T, the number of pairs in the set; even.
        seed: an integer >= 0.
        step: index of the batch, from 0; or an array of steps, for many batches at once.
        batch_size: how many samples (not pairs) a batch over all shards has; needed with `step`.
        shard_index, shard_count: which of the equal parts of the batch to return. Each part has as
            many positive as negative pairs. The parts in order are the batch.

    Returns:
        Indices of samples. Without `step`, the set ``[T, 2]``, starting with a positive pair. With
        `step`, ``[*step.shape, batch_size / shard_count]``, one pair after the other. To pass these
        pairs to a loss, call `metricjax.tuples.from_pairs` with
        ``(i[:, 0], i[:, 1], i[:, 2], i[:, 3], shape=(batch_size, batch_size))``, where
        ``i = jnp.arange(batch_size).reshape(-1, 4)``.
    """
    name = "samplers.fixed_pairs"
    classes = group(check_samples(name, "labels", labels, 1))
    check_at_least(name, "num_pairs", num_pairs, 2)
    total, paired = len(classes.sizes), np.flatnonzero(classes.sizes > 1)
    if total < 2 or not len(paired) or num_pairs % 2:
        raise ValueError(
            f"{name}: `num_pairs` must be even, and `labels` have two classes, one of them with "
            f"two samples, got {num_pairs} and sizes {classes.sizes}."
        )

    def two_pairs(t):
        """Returns the t-th positive pair followed by the t-th negative pair."""
        same = paired[integers(len(paired), seed, 1, t)]
        anchor = integers(classes.sizes[same], seed, 2, t)
        further = 1 + integers(classes.sizes[same] - 1, seed, 3, t)
        first = integers(total, seed, 4, t)
        other = (first + 1 + integers(total - 1, seed, 5, t)) % total
        places = [
            (same, anchor),
            (same, (anchor + further) % classes.sizes[same]),
            (first, integers(classes.sizes[first], seed, 6, t)),
            (other, integers(classes.sizes[other], seed, 7, t)),
        ]
        return np.stack([classes.members[classes.starts[c] + i] for c, i in places], -1)

    if step is None:
        return two_pairs(np.arange(num_pairs // 2)).reshape(num_pairs, 2)
    check_multiple(name, "batch_size", batch_size, two_pairs=4, shard_count=shard_count)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)
    if batch_size > 2 * num_pairs:
        raise ValueError(
            f"{name}: `batch_size` must be at most 2 * num_pairs = {2 * num_pairs}, "
            f"got {batch_size}."
        )
    _, which = endless(num_pairs // 2, batch_size // 4, seed, steps)
    return two_pairs(which).reshape(*steps.shape, batch_size)[..., part]
