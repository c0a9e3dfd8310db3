"""How well unseen classes are found: for each query, and without any learning."""

import jax.numpy as jnp
import numpy as np

from benchmarks.data._fetch import module
from metricjax import evaluation

BLOCK = 1000
"""How many texts are compared with all others at once."""


def scores(neighbors, labels):
    """Precision at 1 and MAP@R of each query.

    Args:
        neighbors: ``[N, K]``, the indices of the neighbors, nearest first.
        labels: ``[N]``.

    Returns:
        ``{name: [N]}``.
    """
    matches = labels[neighbors] == labels[:, None]
    relevant = np.bincount(labels)[labels] - 1
    return {
        "precision_at_1": evaluation.precision_at_1(matches),
        "mean_average_precision_at_r": evaluation.mean_average_precision_at_r(matches, relevant),
    }


def most(labels):
    """Returns the largest R: how many other samples the largest class has."""
    return int(np.bincount(labels).max()) - 1


def of_vectors(x, labels):
    """The scores of embeddings, by cosine."""
    x = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
    found = evaluation.knn(x, x, most(labels), self_index=jnp.arange(len(x)))
    return scores(np.asarray(found.indices), labels)


def of_texts(texts, labels):
    """The scores of the character n-grams of texts, weighted by tf-idf."""
    text = module("sklearn.feature_extraction.text", "scikit-learn")
    x = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    k, found = most(labels), []
    for start in range(0, len(texts), BLOCK):
        near = (x[start : start + BLOCK] @ x.T).toarray()
        rows = np.arange(len(near))
        near[rows, start + rows] = -1  # no text is its own neighbor
        found.append(np.argsort(-near, 1, kind="stable")[:, :k])
    return scores(np.concatenate(found), labels)
