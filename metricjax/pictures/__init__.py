"""Pictures of embeddings, neighbors and thresholds.

`report` writes one HTML page with numbers, curves and an interactive map. The other functions take
arrays and return a `matplotlib.figure.Figure`, and need ``pip install 'metricjax[plots]'``. No
global state is changed. Save a figure with ``figure.savefig("map.png", dpi=150)``.
"""

from metricjax.pictures._figures import BLUE as BLUE
from metricjax.pictures._figures import COLORS as COLORS
from metricjax.pictures._figures import ORANGE as ORANGE
from metricjax.pictures._figures import RED as RED
from metricjax.pictures._figures import distance_histogram as distance_histogram
from metricjax.pictures._figures import embedding_map as embedding_map
from metricjax.pictures._figures import retrieval_sheet as retrieval_sheet
from metricjax.pictures._figures import roc_curve as roc_curve
from metricjax.pictures._report import report as report
