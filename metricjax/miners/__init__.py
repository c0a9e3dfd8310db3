"""Miners: ``(embeddings, labels) -> mined`` says which pairs or triplets count. No gradient."""

from metricjax._core import suggest as _suggest
from metricjax.miners._angular import angular as angular
from metricjax.miners._batch_easy_hard import batch_easy_hard as batch_easy_hard
from metricjax.miners._batch_hard import batch_hard as batch_hard
from metricjax.miners._distance_weighted import distance_weighted as distance_weighted
from metricjax.miners._hdc import hdc as hdc
from metricjax.miners._multi_similarity import multi_similarity as multi_similarity
from metricjax.miners._pair_margin import pair_margin as pair_margin
from metricjax.miners._triplet_margin import triplet_margin as triplet_margin
from metricjax.miners._uniform_histogram import uniform_histogram as uniform_histogram

_suggest.for_missing_names(__name__)
