"""Losses: ``(embeddings, labels, *params) -> {name: LossTerm}``. One file each."""

from metricjax.losses._angular import angular as angular
from metricjax.losses._arcface import arcface as arcface
from metricjax.losses._barlow_twins import barlow_twins as barlow_twins
from metricjax.losses._center import center as center
from metricjax.losses._circle import circle as circle
from metricjax.losses._contrastive import contrastive as contrastive
from metricjax.losses._cosface import cosface as cosface
from metricjax.losses._dynamic_soft_margin import dynamic_soft_margin as dynamic_soft_margin
from metricjax.losses._fast_ap import fast_ap as fast_ap
from metricjax.losses._generalized_lifted_structure import (
    generalized_lifted_structure as generalized_lifted_structure,
)
from metricjax.losses._histogram import histogram as histogram
from metricjax.losses._infonce import infonce as infonce
from metricjax.losses._instance import instance as instance
from metricjax.losses._intra_pair_variance import intra_pair_variance as intra_pair_variance
from metricjax.losses._large_margin_softmax import large_margin_softmax as large_margin_softmax
from metricjax.losses._lifted_structure import lifted_structure as lifted_structure
from metricjax.losses._manifold import manifold as manifold
from metricjax.losses._margin import margin as margin
from metricjax.losses._multi_similarity import multi_similarity as multi_similarity
from metricjax.losses._n_pairs import n_pairs as n_pairs
from metricjax.losses._nca import nca as nca
from metricjax.losses._normalized_softmax import normalized_softmax as normalized_softmax
from metricjax.losses._ntxent import ntxent as ntxent
from metricjax.losses._p2s_grad import p2s_grad as p2s_grad
from metricjax.losses._pnp import pnp as pnp
from metricjax.losses._proxy_anchor import proxy_anchor as proxy_anchor
from metricjax.losses._proxy_nca import proxy_nca as proxy_nca
from metricjax.losses._ranked_list import ranked_list as ranked_list
from metricjax.losses._siglip import siglip as siglip
from metricjax.losses._signal_to_noise_ratio_contrastive import (
    signal_to_noise_ratio_contrastive as signal_to_noise_ratio_contrastive,
)
from metricjax.losses._smooth_ap import smooth_ap as smooth_ap
from metricjax.losses._soft_triple import soft_triple as soft_triple
from metricjax.losses._sphereface import sphereface as sphereface
from metricjax.losses._subcenter_arcface import subcenter_arcface as subcenter_arcface
from metricjax.losses._sup_con import sup_con as sup_con
from metricjax.losses._threshold_consistent_margin import (
    threshold_consistent_margin as threshold_consistent_margin,
)
from metricjax.losses._triplet_margin import triplet_margin as triplet_margin
from metricjax.losses._tuplet_margin import tuplet_margin as tuplet_margin
from metricjax.losses._vicreg import vicreg as vicreg
