"""Batches of samples drawn by weight, and weights that balance classes."""

import numpy as np
from numpy.typing import ArrayLike

from metricjax.samplers._arguments import check_samples, steps_and_part
from metricjax.samplers._random import fractions


def by_weight(
    weights: ArrayLike,
    *,
    batch_size: int,
    seed: int,
    step: ArrayLike,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    r"""Draws samples independently, with replacement and in proportion to their weights.

    .. math:: P(i) = \frac{w_i}{\sum_j w_j}

    A miner gives such weights through `metricjax.tuples.sample_weights`: draw what it found hard.

    Example:
        >>> from metricjax import samplers
        >>> print(samplers.by_weight([0.0, 1.0, 3.0], batch_size=8, seed=0, step=0))
        [1 2 2 2 2 2 2 1]

    Args:
        weights: ``[N]``, finite and not negative; a sample of weight 0 is never drawn.
        batch_size: of the batch over all shards.
        seed: an integer >= 0.
        step: which batch, from 0 on; or an array of steps, for many at once.
        shard_index, shard_count: which of the equal parts of the batch is wanted. The parts in
            order are the batch.

    Returns:
        ``[*step.shape, batch_size / shard_count]`` indices of samples.
    """
    name = "samplers.by_weight"
    weights = check_samples(name, "weights", weights, 1, np.number).astype(np.float64)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)
    below = np.cumsum(weights)
    if not (np.all(weights >= 0) and 0 < below[-1] < np.inf):
        raise ValueError(f"{name}: `weights` must be finite, >= 0 and not all 0, got {weights}.")
    drawn = below[-1] * fractions(seed, steps[..., None], np.arange(batch_size)[part])
    drawn = np.minimum(drawn, np.nextafter(below[-1], 0))  # the product may have been rounded up
    return np.searchsorted(below, drawn, side="right")


def effective_number_weights(labels: ArrayLike, beta: float = 0.9999) -> np.ndarray:
    r"""Weighs each sample by the inverse of the effective number of samples of its class.

    .. math:: w_i \propto \frac{1 - \beta}{1 - \beta^{n_{y_i}}}

    :math:`n_c` is the number of samples of class c. The weights have mean 1. At `beta` 0 all are 1.
    Toward 1 they become inverse to :math:`n_c`.

    These are weights for losses: give those of a batch, ``weights[batch]``, as `where`, or to
    `metricjax.reducers.class_weighted`. `by_weight` also takes them. It draws class c in proportion
    to :math:`n_c w_c`: at `beta` 0 as often as the class occurs, and toward 1 all classes equally
    often. Use one of the two ways, because both together balance twice.

    Example:
        >>> from metricjax import samplers
        >>> labels = ["cat", "cat", "cat", "dog"]
        >>> print(samplers.effective_number_weights(labels, beta=0.9).round(3))
        [0.701 0.701 0.701 1.898]

    Args:
        labels: ``[N]`` integers or strings, of the whole data set.
        beta: from 0 to below 1. The effective number of a class is at most ``1 / (1 - beta)``.

    Returns:
        ``[N]``, float64.

    References:
        Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
        <https://arxiv.org/abs/1901.05555>`_, 2019.
    """
    name = "samplers.effective_number_weights"
    labels = check_samples(name, "labels", labels, 1)
    if not 0 <= beta < 1:
        raise ValueError(f"{name}: `beta` must be in [0, 1), got {beta}.")
    _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights = ((1 - beta) / (1 - beta**sizes))[which]
    return weights / weights.mean()
