"""Losses: ``(embeddings, labels, *params) -> {name: LossTerm}``. One file each."""

from metricjax._core import suggest as _suggest
from metricjax.losses.classes._adacos import adacos as adacos
from metricjax.losses.classes._adaface import adaface as adaface
from metricjax.losses.classes._arcface import arcface as arcface
from metricjax.losses.classes._center import center as center
from metricjax.losses.classes._combined_margin import combined_margin as combined_margin
from metricjax.losses.classes._cosface import cosface as cosface
from metricjax.losses.classes._curricularface import curricularface as curricularface
from metricjax.losses.classes._elasticface import elasticface as elasticface
from metricjax.losses.classes._large_margin_softmax import (
    large_margin_softmax as large_margin_softmax,
)
from metricjax.losses.classes._magface import magface as magface
from metricjax.losses.classes._manifold import manifold as manifold
from metricjax.losses.classes._normalized_softmax import normalized_softmax as normalized_softmax
from metricjax.losses.classes._p2s_grad import p2s_grad as p2s_grad
from metricjax.losses.classes._proxy_anchor import proxy_anchor as proxy_anchor
from metricjax.losses.classes._proxy_nca import proxy_nca as proxy_nca
from metricjax.losses.classes._soft_triple import soft_triple as soft_triple
from metricjax.losses.classes._sphereface import sphereface as sphereface
from metricjax.losses.classes._subcenter_arcface import subcenter_arcface as subcenter_arcface
from metricjax.losses.distillation._distill_kl import distill_kl as distill_kl
from metricjax.losses.distillation._embedding_match import embedding_match as embedding_match
from metricjax.losses.distillation._margin_mse import margin_mse as margin_mse
from metricjax.losses.distillation._pkt import pkt as pkt
from metricjax.losses.distillation._rkd_angle import rkd_angle as rkd_angle
from metricjax.losses.distillation._rkd_distance import rkd_distance as rkd_distance
from metricjax.losses.distillation._similarity_preserving import (
    similarity_preserving as similarity_preserving,
)
from metricjax.losses.pairs._angular import angular as angular
from metricjax.losses.pairs._circle import circle as circle
from metricjax.losses.pairs._contrastive import contrastive as contrastive
from metricjax.losses.pairs._ge2e import ge2e as ge2e
from metricjax.losses.pairs._generalized_lifted_structure import (
    generalized_lifted_structure as generalized_lifted_structure,
)
from metricjax.losses.pairs._intra_pair_variance import intra_pair_variance as intra_pair_variance
from metricjax.losses.pairs._lifted_structure import lifted_structure as lifted_structure
from metricjax.losses.pairs._multi_similarity import multi_similarity as multi_similarity
from metricjax.losses.pairs._n_pairs import n_pairs as n_pairs
from metricjax.losses.pairs._nca import nca as nca
from metricjax.losses.pairs._ntxent import ntxent as ntxent
from metricjax.losses.pairs._selectively_contrastive import (
    selectively_contrastive as selectively_contrastive,
)
from metricjax.losses.pairs._siglip import siglip as siglip
from metricjax.losses.pairs._signal_to_noise_ratio_contrastive import (
    signal_to_noise_ratio_contrastive as signal_to_noise_ratio_contrastive,
)
from metricjax.losses.pairs._sup_con import sup_con as sup_con
from metricjax.losses.pairs._threshold_consistent_margin import (
    threshold_consistent_margin as threshold_consistent_margin,
)
from metricjax.losses.pairs._tuplet_margin import tuplet_margin as tuplet_margin
from metricjax.losses.rankings._fast_ap import fast_ap as fast_ap
from metricjax.losses.rankings._hap import hap as hap
from metricjax.losses.rankings._histogram import histogram as histogram
from metricjax.losses.rankings._instance import instance as instance
from metricjax.losses.rankings._pnp import pnp as pnp
from metricjax.losses.rankings._ranked_list import ranked_list as ranked_list
from metricjax.losses.rankings._recall_at_k import recall_at_k as recall_at_k
from metricjax.losses.rankings._smooth_ap import smooth_ap as smooth_ap
from metricjax.losses.rankings._sup_ap import sup_ap as sup_ap
from metricjax.losses.scored._angle import angle as angle
from metricjax.losses.scored._cosent import cosent as cosent
from metricjax.losses.scored._cosine_mse import cosine_mse as cosine_mse
from metricjax.losses.triplets._dynamic_soft_margin import (
    dynamic_soft_margin as dynamic_soft_margin,
)
from metricjax.losses.triplets._margin import margin as margin
from metricjax.losses.triplets._triplet_margin import triplet_margin as triplet_margin
from metricjax.losses.views._alignment import alignment as alignment
from metricjax.losses.views._barlow_twins import barlow_twins as barlow_twins
from metricjax.losses.views._dcl import dcl as dcl
from metricjax.losses.views._dcl import dclw as dclw
from metricjax.losses.views._dino import dino as dino
from metricjax.losses.views._hard_negative_contrastive import (
    debiased_contrastive as debiased_contrastive,
)
from metricjax.losses.views._hard_negative_contrastive import (
    hard_negative_contrastive as hard_negative_contrastive,
)
from metricjax.losses.views._infonce import infonce as infonce
from metricjax.losses.views._negative_cosine import negative_cosine as negative_cosine
from metricjax.losses.views._rince import rince as rince
from metricjax.losses.views._sogclr import ISogCLRState as ISogCLRState
from metricjax.losses.views._sogclr import isogclr as isogclr
from metricjax.losses.views._sogclr import sogclr as sogclr
from metricjax.losses.views._swav import swav as swav
from metricjax.losses.views._vicreg import vicreg as vicreg
from metricjax.losses.views._w_mse import w_mse as w_mse

_suggest.for_missing_names(__name__)
