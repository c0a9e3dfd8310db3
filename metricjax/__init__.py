"""metricjax: deep metric learning for JAX, as pure functions.

Shape letters used throughout: N anchors (the batch), M references, D features, C classes.
"""

__version__ = "0.1.0"

from metricjax import datasets as datasets
from metricjax import distances as distances
from metricjax import evaluation as evaluation
from metricjax import inference as inference
from metricjax import losses as losses
from metricjax import memory as memory
from metricjax import miners as miners
from metricjax import nn as nn
from metricjax import pictures as pictures
from metricjax import reducers as reducers
from metricjax import regularizers as regularizers
from metricjax import relations as relations
from metricjax import samplers as samplers
from metricjax import training as training
from metricjax import tuples as tuples
from metricjax._chunked import chunked as chunked
from metricjax._compose import merge as merge
from metricjax._compose import objective as objective
from metricjax._compose import reduce as reduce
from metricjax._compose import self_supervised as self_supervised
from metricjax._core.refs import gather_refs as gather_refs
from metricjax._core.tuning import for_platform as for_platform
from metricjax._core.types import LossDict as LossDict
from metricjax._core.types import LossTerm as LossTerm
from metricjax._core.types import Pairs as Pairs
from metricjax._core.types import Refs as Refs
from metricjax._embed import embed_in_chunks as embed_in_chunks
from metricjax._margins import dynamic_margins as dynamic_margins
from metricjax._margins import ldam_margins as ldam_margins
from metricjax._matryoshka import matryoshka as matryoshka
from metricjax._ring import ring as ring
from metricjax._sample_classes import sample_classes as sample_classes
from metricjax._sinkhorn import sinkhorn as sinkhorn
from metricjax._statistics import statistics as statistics
from metricjax._totals import totals as totals
