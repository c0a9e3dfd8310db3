"""Which samples make a batch: pure functions of the data, a seed, a step and a shard.

All of it is NumPy on the host, except the search of `hard_negatives`, which runs on the device. The
numbers come from a hash of their position (`_random.py`). So any step can be computed without the
steps before it, and is the same on every machine.
"""

from metricjax._core import suggest as _suggest
from metricjax.samplers._batches import Batches as Batches
from metricjax.samplers._by_weight import by_weight as by_weight
from metricjax.samplers._by_weight import effective_number_weights as effective_number_weights
from metricjax.samplers._fixed_pairs import fixed_pairs as fixed_pairs
from metricjax.samplers._fixed_triplets import fixed_triplets as fixed_triplets
from metricjax.samplers._hard_negatives import hard_negatives as hard_negatives
from metricjax.samplers._hard_negatives import with_negatives as with_negatives
from metricjax.samplers._hierarchical import hierarchical as hierarchical
from metricjax.samplers._m_per_class import m_per_class as m_per_class

_suggest.for_missing_names(__name__)
