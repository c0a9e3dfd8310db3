"""Handwritten digits from scikit-learn: seven to train on, and three that stay unseen."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from metricjax import samplers

NUM_SEEN = 7
HELD_OUT = 0.4


class Digits(NamedTuple):
    images: np.ndarray  # [N, 8, 8, 1], from 0 to 1
    labels: np.ndarray  # [N]


def load(seed: int) -> tuple[Digits, Digits, Digits]:
    """Loads training images of digits 0-6, held-out images of 0-6, and all images of 7-9."""
    values, labels = load_digits(return_X_y=True)
    images = (values / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    seen = np.random.default_rng(seed).permutation(np.flatnonzero(labels < NUM_SEEN))
    held_out, train = np.split(seen, [int(HELD_OUT * len(seen))])
    take = lambda rows: Digits(images[rows], labels[rows])
    return take(train), take(held_out), take(np.flatnonzero(labels >= NUM_SEEN))


def join(*parts: Digits) -> Digits:
    return Digits(*map(np.concatenate, zip(*parts, strict=True)))


def pixels(images: np.ndarray) -> np.ndarray:
    """Returns the pixels of the images as embeddings."""
    return images.reshape(len(images), -1)


def batches(digits: Digits, per_class: int, steps: int, seed: int) -> Iterator[Digits]:
    """Yields batches with `per_class` images of every class, each moved by up to a pixel."""
    rng = np.random.default_rng(seed)
    size = per_class * len(np.unique(digits.labels))
    options = {"m": per_class, "batch_size": size, "seed": seed, "steps": steps}
    for rows in samplers.Batches(samplers.m_per_class, digits.labels, **options):
        padded = np.pad(digits.images[rows], ((0, 0), (1, 1), (1, 1), (0, 0)))
        corners = rng.integers(0, 3, (len(rows), 2))
        moved = [x[i : i + 8, j : j + 8] for x, (i, j) in zip(padded, corners, strict=True)]
        yield Digits(np.stack(moved), digits.labels[rows])
