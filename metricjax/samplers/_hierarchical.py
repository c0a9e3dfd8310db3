"""Batches of a few super classes, with many classes of each."""

import functools
import itertools
import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from metricjax._core.check import check_at_least, check_choice
from metricjax.samplers._arguments import check_multiple, check_samples, steps_and_part
from metricjax.samplers._classes import group, once, pick
from metricjax.samplers._random import endless


def hierarchical(
    labels: ArrayLike,
    *,
    batch_size: int,
    samples_per_class: int | Literal["all"],
    seed: int,
    step: ArrayLike,
    batches_per_super_tuple: int = 4,
    super_classes_per_batch: int = 2,
    inner_label: int = 0,
    outer_label: int = 1,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    """Draws batches of similar classes: each batch has classes of the same few super classes.

    With S super classes and X of them in a batch, an epoch has `batches_per_super_tuple` batches
    for each of the :math:`\\binom{S}{X}` sets of super classes, in random order. A super class
    fills ``batch_size / X`` places with its classes in random order, and `samples_per_class`
    samples of each class, drawn without replacement. A class with too few samples repeats them. If
    the super class runs out of classes, they come again, with other samples as long as there are
    any. So every batch is full.

    Example:
        >>> import numpy as np
        >>> from metricjax import samplers
        >>> labels = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [2, 1], [2, 1], [3, 1], [3, 1]])
        >>> batch = samplers.hierarchical(
        ...     labels, batch_size=4, samples_per_class=2, seed=0, step=0
        ... )
        >>> print(batch)
        [3 2 5 4]

    Args:
        labels: ``[N, levels]`` integers or strings, of the whole data set.
        batch_size: size of the batch over all shards.
        samples_per_class: an integer; or ``"all"`` for whole classes as long as they fit, and then
            a part of one that does not.
        seed: an integer >= 0.
        step: index of the batch, from 0; or an array of steps, for many batches at once.
        batches_per_super_tuple: number of batches with the same super classes in an epoch.
        super_classes_per_batch: X, the number of super classes in a batch.
        inner_label, outer_label: the columns of the classes and of the super classes. Classes with
            the same label in two super classes are different classes.
        shard_index, shard_count: which of the equal parts of the batch to return. The parts in
            order are the batch. With an integer `samples_per_class`, the super classes take turns
            class by class. Every part then has all super classes if `shard_count` divides
            ``batch_size / X / samples_per_class``. With ``"all"``, one super class follows another.

    Returns:
        ``[*step.shape, batch_size / shard_count]`` indices of samples.

    References:
        Cakir et al., `Deep Metric Learning to Rank
        <https://openaccess.thecvf.com/content_CVPR_2019/papers/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.pdf>`_,
        2019.
    """
    name = "samplers.hierarchical"
    labels = check_samples(name, "labels", labels, 2)
    for option, column in (("inner_label", inner_label), ("outer_label", outer_label)):
        check_choice(name, option, column, range(labels.shape[1]))
    check_at_least(name, "batches_per_super_tuple", batches_per_super_tuple, 1)
    per_class = 1 if samples_per_class == "all" else samples_per_class
    factors = {"super_classes_per_batch": super_classes_per_batch, "samples_per_class": per_class}
    check_multiple(name, "batch_size", batch_size, **factors)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)

    classes, supers = _levels(labels[:, [outer_label, inner_label]])
    sets = _sets(name, len(supers.sizes), super_classes_per_batch)
    _, batch = endless(len(sets) * batches_per_super_tuple, 1, seed, steps)
    chosen = sets[batch[..., 0] // batches_per_super_tuple]  # [..., X]
    fill = _whole_classes if samples_per_class == "all" else _some_of_each
    samples = fill(classes, supers, chosen, batch_size, per_class, seed, steps[..., None])
    return samples.reshape(*steps.shape, batch_size)[..., part]


def _some_of_each(classes, supers, chosen, batch_size, per_class, seed, step):
    """Returns ``[..., classes, X, per_class]`` samples."""
    count = batch_size // chosen.shape[-1] // per_class
    inner = pick(supers, chosen, 0, count, seed, 1, step)  # [..., X, classes]
    first = np.arange(count) // supers.sizes[chosen][..., None] * per_class
    samples = pick(classes, inner, first, per_class, seed, 2, step[..., None])
    return np.swapaxes(samples, -3, -2)


def _whole_classes(classes, supers, chosen, batch_size, _, seed, step):
    """Returns ``[..., X, samples]``: classes that fit, part of one that does not, then repeats."""
    size = batch_size // chosen.shape[-1]

    def one(which, step):
        order = pick(supers, which, 0, supers.sizes[which], seed, 1, step)
        fits, room = [], size
        for c in order:
            fits.append(classes.sizes[c] <= room)
            room -= fits[-1] * classes.sizes[c]
        samples = []
        for c in order[np.argsort(np.logical_not(fits), kind="stable")]:
            if len(samples) < size:
                samples.extend(pick(classes, c, 0, classes.sizes[c], seed, 2, step))
        return np.resize(samples, size)

    pairs = zip(chosen.ravel(), np.broadcast_to(step, chosen.shape).ravel(), strict=True)
    return np.array([one(*pair) for pair in pairs], np.int64).reshape(*chosen.shape, size)


@once
def _levels(labels):
    """Groups samples by class and classes by super class; labels ``[N, 2]`` are (super, class)."""
    pairs, class_of = np.unique(labels, axis=0, return_inverse=True)
    return group(class_of.ravel()), group(pairs[:, 0])


@functools.lru_cache(maxsize=4)
def _sets(function, total, size):
    """Returns all sets of `size` super classes, ``[., size]``."""
    count = math.comb(total, size)
    if not count:
        raise ValueError(
            f"{function}: `super_classes_per_batch` must be at most the {total} super classes, "
            f"got {size}."
        )
    if count > 10**7:
        raise ValueError(
            f"{function}: {total} super classes have {count:,} sets of "
            f"`super_classes_per_batch` {size}, too many for an epoch. Take fewer, or fewer "
            f"super classes."
        )
    return np.array(list(itertools.combinations(range(total), size)))
