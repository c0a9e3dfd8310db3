"""Evaluation: exact nearest neighbours, and how well they agree with the labels."""

from metricjax.evaluation._knn import knn as knn
from metricjax.evaluation._retrieval import retrieval_metrics as retrieval_metrics
