"""Pairs and triplets that count: from labels, from lists of indices, and from each other."""

from metricjax.tuples._convert import PairLists as PairLists
from metricjax.tuples._convert import as_pair_lists as as_pair_lists
from metricjax.tuples._convert import as_pairs as as_pairs
from metricjax.tuples._convert import as_triplets as as_triplets
from metricjax.tuples._convert import check_mined as check_mined
from metricjax.tuples._convert import sample_weights as sample_weights
from metricjax.tuples._join import intersection as intersection
from metricjax.tuples._join import union as union
from metricjax.tuples._labels import all_pairs as all_pairs
from metricjax.tuples._labels import label_pairs as label_pairs
from metricjax.tuples._labels import random_triplets as random_triplets
from metricjax.tuples._lists import from_pairs as from_pairs
from metricjax.tuples._lists import from_triplets as from_triplets
from metricjax.tuples._per_anchor import per_anchor as per_anchor
