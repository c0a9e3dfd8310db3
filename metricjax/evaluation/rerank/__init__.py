"""Better search results without more training: re-ranking, expansion and whitening."""

from metricjax.evaluation.rerank._expansion import augment as augment
from metricjax.evaluation.rerank._expansion import expand_queries as expand_queries
from metricjax.evaluation.rerank._k_reciprocal import k_reciprocal as k_reciprocal
from metricjax.evaluation.rerank._k_reciprocal import (
    k_reciprocal_distances as k_reciprocal_distances,
)
from metricjax.evaluation.rerank._whitening import Whitening as Whitening
from metricjax.evaluation.rerank._whitening import fit_whitening as fit_whitening
