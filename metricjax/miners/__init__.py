"""Miners: ``(embeddings, labels) -> mined``, which pairs or triplets count. No gradient flows."""

from metricjax.miners._easy_hard import batch_easy_hard as batch_easy_hard
from metricjax.miners._easy_hard import batch_hard as batch_hard
from metricjax.miners._hdc import hdc as hdc
from metricjax.miners._margins import multi_similarity as multi_similarity
from metricjax.miners._margins import pair_margin as pair_margin
from metricjax.miners._random import distance_weighted as distance_weighted
from metricjax.miners._random import uniform_histogram as uniform_histogram
from metricjax.miners._rules import angular as angular
from metricjax.miners._rules import triplet_margin as triplet_margin
