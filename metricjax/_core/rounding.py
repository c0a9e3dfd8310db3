"""Cosines within rounding of 1 count as 1, so that equal vectors match at a threshold of 1."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from metricjax.distances import CosineSimilarity, Distance, DotProductSimilarity


def rounded(function: str, distance: Distance) -> Distance:
    """Returns the distance; if it is a cosine, values within rounding of 1 become 1.

    Cosines of equal vectors are from 0.9999995 to 1.0000006 in float32. Without rounding, half of
    them would not match at a threshold of 1, or at a threshold that was chosen between two pairs of
    duplicates.
    """
    check_distance(function, distance)
    unit = isinstance(distance, DotProductSimilarity) and distance.normalize_embeddings
    return Rounded(distance) if unit or isinstance(distance, CosineSimilarity) else distance


@dataclasses.dataclass(frozen=True)
class Rounded:
    cosine: Distance
    is_similarity: ClassVar[bool] = True

    def __call__(self, x: Array, y: Array | None = None) -> Array:
        return rounded_cosines(self.cosine(x, y))


def rounded_cosines(x: Array) -> Array:
    """Sets cosines within 16 eps of 1 to 1, and those below -1 to -1.

    The squared distance, which is 2 - 2 cos, has the same tolerance: both find the same vectors
    equal.
    """
    return jnp.maximum(jnp.where(x > 1 - 16 * jnp.finfo(x.dtype).eps, 1, x), -1)


def check_distance(function, distance):
    """Checks that a distance says whether smaller or larger values are closer."""
    if isinstance(distance, type) or not hasattr(distance, "is_similarity"):
        raise TypeError(
            f"{function}: `distance` must be a distance such as `LpDistance()`, got "
            f"{str(distance)[:80]}. Pass an instance; one of your own needs `is_similarity`."
        )
