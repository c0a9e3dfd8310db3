"""Training: steps for the known schemes, and a loop that survives being killed.

A step is a pure function of a state and a batch. `fit` runs on the host.
"""

from metricjax.training._cascaded import Stage as Stage
from metricjax.training._cascaded import cascaded as cascaded
from metricjax.training._checkpoints import restore as restore
from metricjax.training._deep_adversarial import deep_adversarial as deep_adversarial
from metricjax.training._fit import Fitted as Fitted
from metricjax.training._fit import fit as fit
from metricjax.training._loggers import CsvLog as CsvLog
from metricjax.training._loggers import TensorBoardLog as TensorBoardLog
from metricjax.training._loggers import print_metrics as print_metrics
from metricjax.training._nnx import nnx_network as nnx_network
from metricjax.training._plain import metric_loss_only as metric_loss_only
from metricjax.training._plain import two_streams as two_streams
from metricjax.training._plain import with_classifier as with_classifier
from metricjax.training._step import State as State
from metricjax.training._step import make_step as make_step
from metricjax.training._teacher import Teacher as Teacher
from metricjax.training._teacher import with_teacher as with_teacher
