"""Evaluation: exact nearest neighbors, and metrics of how well they agree with the labels."""

from metricjax.evaluation import rerank as rerank
from metricjax.evaluation._aggregate import mean_over_queries as mean_over_queries
from metricjax.evaluation._calculator import Accuracies as Accuracies
from metricjax.evaluation._calculator import AccuracyCalculator as AccuracyCalculator
from metricjax.evaluation._clusters import VMeasure as VMeasure
from metricjax.evaluation._clusters import ami as ami
from metricjax.evaluation._clusters import ari as ari
from metricjax.evaluation._clusters import connected_components as connected_components
from metricjax.evaluation._clusters import k_means as k_means
from metricjax.evaluation._clusters import nmi as nmi
from metricjax.evaluation._clusters import v_measure as v_measure
from metricjax.evaluation._correlation import pearson as pearson
from metricjax.evaluation._correlation import spearman as spearman
from metricjax.evaluation._embed import embed as embed
from metricjax.evaluation._identification import DirAtFpir as DirAtFpir
from metricjax.evaluation._identification import Templates as Templates
from metricjax.evaluation._identification import dir_at_fpir as dir_at_fpir
from metricjax.evaluation._identification import templates as templates
from metricjax.evaluation._knn import Ignore as Ignore
from metricjax.evaluation._knn import Neighbors as Neighbors
from metricjax.evaluation._knn import knn as knn
from metricjax.evaluation._knn import listed as listed
from metricjax.evaluation._metrics import mean_average_precision as mean_average_precision
from metricjax.evaluation._metrics import mean_average_precision_at_r as mean_average_precision_at_r
from metricjax.evaluation._metrics import mean_reciprocal_rank as mean_reciprocal_rank
from metricjax.evaluation._metrics import ndcg_at_k as ndcg_at_k
from metricjax.evaluation._metrics import precision_at_1 as precision_at_1
from metricjax.evaluation._metrics import precision_at_k as precision_at_k
from metricjax.evaluation._metrics import r_precision as r_precision
from metricjax.evaluation._metrics import recall_at_k as recall_at_k
from metricjax.evaluation._reidentification import cmc as cmc
from metricjax.evaluation._reidentification import match_ranks as match_ranks
from metricjax.evaluation._reidentification import (
    mean_average_precision_of_ranks as mean_average_precision_of_ranks,
)
from metricjax.evaluation._reidentification import (
    mean_inverse_negative_penalty as mean_inverse_negative_penalty,
)
from metricjax.evaluation._retrieval import retrieval_metrics as retrieval_metrics
from metricjax.evaluation._scoring import QueryInputs as QueryInputs
from metricjax.evaluation._splits import evaluate_splits as evaluate_splits
from metricjax.evaluation._splits import evaluate_two_streams as evaluate_two_streams
from metricjax.evaluation._splits import evaluate_within_parents as evaluate_within_parents
from metricjax.evaluation._splits import mean_over_parents as mean_over_parents
from metricjax.evaluation._verification import TarAtFar as TarAtFar
from metricjax.evaluation._verification import tar_at_far as tar_at_far
