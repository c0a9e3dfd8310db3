"""Inference: search a gallery of embeddings, save it to a file, and decide which pairs match.

These functions run on the host, between jitted steps. Only `match` is for use under `jit`.
"""

from metricjax.inference._codes import BinaryCodes as BinaryCodes
from metricjax.inference._codes import Int8Codes as Int8Codes
from metricjax.inference._folds import VerificationAccuracy as VerificationAccuracy
from metricjax.inference._folds import verification_accuracy as verification_accuracy
from metricjax.inference._index import Index as Index
from metricjax.inference._index import Neighbors as Neighbors
from metricjax.inference._pairs import LabeledPairs as LabeledPairs
from metricjax.inference._pairs import match as match
from metricjax.inference._pairs import pair_distances as pair_distances
from metricjax.inference._thresholds import DetCurve as DetCurve
from metricjax.inference._thresholds import EqualErrorRate as EqualErrorRate
from metricjax.inference._thresholds import OperatingPoint as OperatingPoint
from metricjax.inference._thresholds import RocCurve as RocCurve
from metricjax.inference._thresholds import best_threshold as best_threshold
from metricjax.inference._thresholds import det_curve as det_curve
from metricjax.inference._thresholds import equal_error_rate as equal_error_rate
from metricjax.inference._thresholds import operating_point as operating_point
from metricjax.inference._thresholds import roc_auc as roc_auc
from metricjax.inference._thresholds import roc_curve as roc_curve
from metricjax.inference._thresholds import threshold as threshold
from metricjax.inference._thresholds import threshold_at_fmr as threshold_at_fmr
