"""Agreement between clusters of the embeddings and the labels, computed with scikit-learn."""

import warnings

import numpy as np
from jaxtyping import Array, Float, Int

from metricjax._core.check import check_at_least, check_embeddings, check_is_distance, check_rows
from metricjax._optional import needed
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._knn import in_space_of
from metricjax.evaluation._labels import host_labels


def k_means(
    embeddings: Float[Array, "n d"],
    num_clusters: int,
    *,
    distance: Distance = LpDistance(),
    seed: int = 0,
) -> np.ndarray:
    """Clusters embeddings with scikit-learn's `KMeans`.

    The embeddings are clustered in the space of `distance`: they are normalized if `distance`
    normalizes. In that space k-means uses the Euclidean distance, whichever `distance` is given.

    k-means starts once, from random embeddings, and runs at most 20 iterations, as in PyTorch
    Metric Learning. k-means++, a more careful start, took five times as long and scored no better
    (20,000 x 512, 200 classes).

    Args:
        embeddings: ``[N, D]``, finite.
        num_clusters: how many clusters to make, at most N.
        distance: the distance by which the embeddings are compared.
        seed: the seed of the first centers.

    Returns:
        ``[N]`` integers, the cluster of each embedding.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    check_embeddings("evaluation.k_means", "embeddings", embeddings)
    check_is_distance("evaluation.k_means", distance)
    check_at_least("evaluation.k_means", "num_clusters", num_clusters, 1)
    if num_clusters > len(embeddings):
        raise ValueError(
            f"evaluation.k_means: `num_clusters` must be at most {len(embeddings)}, the number of "
            f"embeddings, got {num_clusters}."
        )
    options = {"init": "random", "n_init": 1, "max_iter": 20, "random_state": seed}
    model = _scikit_learn("k_means", "cluster").KMeans(num_clusters, **options)
    with warnings.catch_warnings():  # fewer distinct embeddings than clusters: a low score
        warnings.simplefilter("ignore")
        return model.fit_predict(np.asarray(in_space_of(distance, embeddings), np.float32))


def ami(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    clusters: Int[Array, " n"] | None = None,
    distance: Distance = LpDistance(),
) -> float:
    r"""Computes the adjusted mutual information of labels and clusters.

    By default there are as many clusters as classes.

    .. math:: \frac{I(U; V) - E[I]}{(H(U) + H(V)) / 2 - E[I]}

    E is the expectation over permutations of the labels. Chance gives 0, and perfect agreement 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import ami
        >>> x = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> print(round(ami(x, jnp.array([0, 0, 1, 1])), 4))
        1.0

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers or strings.
        clusters: ``[N]`` integers, by default `k_means` of the embeddings.
        distance: the distance in whose space k-means clusters; see `k_means`.

    Returns:
        A float. If `clusters` is not given, it is NaN if there are no embeddings, or if one of
        them is not finite.

    Raises:
        ImportError: if scikit-learn is not installed.

    References:
        Vinh et al., `Information Theoretic Measures for Clusterings Comparison
        <https://jmlr.org/papers/v11/vinh10a.html>`_, 2010.
    """
    return _score("ami", "adjusted_mutual_info_score", embeddings, labels, clusters, distance)


def nmi(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    clusters: Int[Array, " n"] | None = None,
    distance: Distance = LpDistance(),
) -> float:
    r"""Computes the normalized mutual information of labels and clusters.

    By default there are as many clusters as classes.

    .. math:: \frac{I(U; V)}{(H(U) + H(V)) / 2}

    With many small classes it is large by chance alone. `ami` is adjusted for chance.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import nmi
        >>> x = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> print(round(nmi(x, jnp.array([0, 0, 1, 1])), 4))
        1.0

    Args, returns and raises: as in `ami`.
    """
    return _score("nmi", "normalized_mutual_info_score", embeddings, labels, clusters, distance)


def _score(function, name, embeddings, labels, clusters, distance):
    caller, n = f"evaluation.{function}", len(embeddings)
    check_embeddings(caller, "embeddings", embeddings)
    labels = host_labels(caller, "labels", labels, "embeddings", n)
    check_rows(caller, "clusters", clusters, "embeddings", n)
    metric = getattr(_scikit_learn(function, "metrics"), name)
    if clusters is None:
        if not len(labels) or not np.isfinite(np.asarray(embeddings, np.float32)).all():
            return float("nan")
        clusters = k_means(embeddings, len(np.unique(labels)), distance=distance)
    return float(metric(labels, np.asarray(clusters)))


def _scikit_learn(function, module):
    advice = "`pip install 'metricjax[eval]'`, or leave out AMI and NMI."
    return needed(f"sklearn.{module}", f"evaluation.{function}: needs scikit-learn. {advice}")


CLUSTERING = {"AMI": ami, "NMI": nmi}
