"""Losses: ``(embeddings, labels, *params) -> {name: LossTerm}``. One file each."""

from metricjax.losses._arcface import arcface as arcface
from metricjax.losses._contrastive import contrastive as contrastive
from metricjax.losses._multi_similarity import multi_similarity as multi_similarity
from metricjax.losses._ntxent import ntxent as ntxent
from metricjax.losses._proxy_anchor import proxy_anchor as proxy_anchor
from metricjax.losses._triplet_margin import triplet_margin as triplet_margin
