"""Evaluation: exact nearest neighbors, and metrics of how well they agree with the labels."""

from metricjax.evaluation._aggregate import mean_over_queries as mean_over_queries
from metricjax.evaluation._calculator import Accuracies as Accuracies
from metricjax.evaluation._calculator import AccuracyCalculator as AccuracyCalculator
from metricjax.evaluation._clusters import ami as ami
from metricjax.evaluation._clusters import k_means as k_means
from metricjax.evaluation._clusters import nmi as nmi
from metricjax.evaluation._embed import embed as embed
from metricjax.evaluation._knn import Neighbors as Neighbors
from metricjax.evaluation._knn import knn as knn
from metricjax.evaluation._metrics import mean_average_precision as mean_average_precision
from metricjax.evaluation._metrics import mean_average_precision_at_r as mean_average_precision_at_r
from metricjax.evaluation._metrics import mean_reciprocal_rank as mean_reciprocal_rank
from metricjax.evaluation._metrics import ndcg_at_k as ndcg_at_k
from metricjax.evaluation._metrics import precision_at_1 as precision_at_1
from metricjax.evaluation._metrics import precision_at_k as precision_at_k
from metricjax.evaluation._metrics import r_precision as r_precision
from metricjax.evaluation._metrics import recall_at_k as recall_at_k
from metricjax.evaluation._retrieval import retrieval_metrics as retrieval_metrics
from metricjax.evaluation._scoring import QueryInputs as QueryInputs
from metricjax.evaluation._splits import evaluate_splits as evaluate_splits
from metricjax.evaluation._splits import evaluate_two_streams as evaluate_two_streams
from metricjax.evaluation._splits import evaluate_within_parents as evaluate_within_parents
from metricjax.evaluation._splits import mean_over_parents as mean_over_parents
