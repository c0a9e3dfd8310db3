"""Miners: ``(embeddings, labels) -> mined``, which pairs or triplets count. No gradient flows."""

from metricjax.miners._multi_similarity import multi_similarity as multi_similarity
from metricjax.miners._triplet_margin import triplet_margin as triplet_margin
