"""Search by a flat index of FAISS."""

import jax.numpy as jnp
import numpy as np

from metricjax._optional import needed
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, normalize


def check(function, distance):
    """FAISS has to be installed, and to know the distance."""
    euclidean = isinstance(distance, LpDistance) and distance.p == 2 and distance.power > 0
    if not euclidean and not isinstance(distance, CosineSimilarity | DotProductSimilarity):
        raise TypeError(
            f"{function}: `distance` must be LpDistance(p=2), DotProductSimilarity or "
            f"CosineSimilarity for FAISS, got {distance}."
        )
    _library(function)


def build(embeddings, distance):
    faiss = _library("inference.Index")
    kind = faiss.IndexFlatIP if distance.is_similarity else faiss.IndexFlatL2
    index = kind(embeddings.shape[1])
    index.add(_prepared(embeddings, distance))
    return index


def search(index, query, k, distance):
    """Distances and rows; row -1 where FAISS found none, as the distance is not finite."""
    distances, rows = index.search(_prepared(query, distance), k)
    if not distance.is_similarity:
        distances = np.maximum(distances, 0) ** (distance.power / 2)
    return distances, rows


def _prepared(x, distance):
    unit = isinstance(distance, CosineSimilarity) or distance.normalize_embeddings
    x = normalize(jnp.asarray(x)) if unit else x
    return np.ascontiguousarray(x, np.float32)


def _library(function):
    advice = "`backend='faiss'` needs FAISS: pip install 'metricjax[faiss]'"
    return needed("faiss", f"{function}: {advice}")
