"""Search with a flat index of FAISS."""

import jax.numpy as jnp
import numpy as np

from metricjax._core.rounding import rounded_cosines
from metricjax._optional import needed
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, normalize


def check(function, distance):
    """Checks that FAISS is installed and supports the distance."""
    euclidean = isinstance(distance, LpDistance) and distance.p == 2 and distance.power > 0
    if not euclidean and not isinstance(distance, CosineSimilarity | DotProductSimilarity):
        raise TypeError(
            f"{function}: `distance` must be LpDistance(p=2), DotProductSimilarity or "
            f"CosineSimilarity for FAISS, got {distance}. Leave `backend` out for others."
        )
    _library(function)


def build(embeddings, distance):
    faiss = _library("inference.Index")
    kind = faiss.IndexFlatIP if distance.is_similarity else faiss.IndexFlatL2
    rows = _prepared(embeddings, distance, 0)
    index = kind(rows.shape[1])
    index.add(rows)
    return index


def search(index, query, k, distance):
    """Returns distances and rows.

    The row is -1 where FAISS found no row because the distance is not finite.
    """
    distances, rows = index.search(_prepared(query, distance, 1), k)
    if not distance.is_similarity:
        distances = np.maximum(distances, 0) ** (distance.power / 2)
    elif _unit(distance):
        distances = np.asarray(rounded_cosines(jnp.asarray(distances)))
    return distances, rows


def _prepared(x, distance, side):
    """Returns the rows in the form that FAISS needs.

    For Euclidean distances of unit vectors, a zero row becomes a unit vector in an extra dimension
    that only its side uses, because a zero row counts as orthogonal to all rows.
    """
    x = normalize(jnp.asarray(x)) if _unit(distance) else x
    x = np.asarray(x, np.float32)
    if _unit(distance) and not distance.is_similarity:
        x = np.pad(x, ((0, 0), (0, 2)))
        x[:, side - 2] = ~x.any(1)
    return np.ascontiguousarray(x)


def _unit(distance):
    return isinstance(distance, CosineSimilarity) or distance.normalize_embeddings


def _library(function):
    advice = "`backend='faiss'` needs FAISS: pip install 'metricjax[faiss]'"
    return needed("faiss", f"{function}: {advice}")
