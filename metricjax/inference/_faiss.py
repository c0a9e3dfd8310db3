"""Search by a flat index of FAISS."""

import jax.numpy as jnp
import numpy as np

from metricjax._optional import needed
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, normalize
from metricjax.inference._pairs import rounded_cosines


def check(function, distance):
    """FAISS has to be installed, and to know the distance."""
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
    index = kind(embeddings.shape[1])
    index.add(_prepared(embeddings, distance))
    return index


def search(index, query, k, distance):
    """Distances and rows; row -1 where FAISS found none, as the distance is not finite."""
    distances, rows = index.search(_prepared(query, distance), k)
    if not distance.is_similarity:
        distances = np.maximum(distances, 0) ** (distance.power / 2)
    elif _unit(distance):
        distances = np.asarray(rounded_cosines(jnp.asarray(distances)))
    return distances, rows


def _prepared(x, distance):
    x = normalize(jnp.asarray(x)) if _unit(distance) else x
    return np.ascontiguousarray(x, np.float32)


def _unit(distance):
    return isinstance(distance, CosineSimilarity) or distance.normalize_embeddings


def _library(function):
    advice = "`backend='faiss'` needs FAISS: pip install 'metricjax[faiss]'"
    return needed("faiss", f"{function}: {advice}")
