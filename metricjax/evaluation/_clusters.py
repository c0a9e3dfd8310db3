"""Clusters of embeddings, and how well they agree with labels, by scikit-learn and SciPy."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from metricjax._core.check import check_at_least, check_embeddings, check_is_distance, check_rows
from metricjax._optional import needed
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._knn import Neighbors, in_space_of
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
    embeddings = embeddings if isinstance(embeddings, jax.Array) else np.asarray(embeddings)
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


def connected_components(
    neighbors: Neighbors,
    threshold: float,
    *,
    distance: Distance = LpDistance(),
) -> Int[np.ndarray, " n"]:
    r"""Clusters embeddings by linking neighbors within a threshold: the number is not given.

    Two embeddings are linked if one is among the nearest neighbors of the other and their distance
    is at most the threshold. A cluster is all that is linked, directly or through others:

    .. math:: i \sim j \iff (j \in N_k(i) \ \text{or}\ i \in N_k(j)) \ \text{and}\ d(x_i, x_j) \le t

    If no embedding has more than k others within the threshold, these are the clusters of all
    pairs: single linkage, cut at the threshold. Otherwise some links are left out. One wrong link
    joins two clusters, so the best threshold is usually stricter than that of verification. Choose
    it on other classes: all thresholds that you try need only one search.

    Memory is that of the neighbors, ``[N, K]``; nothing is ``[N, N]``. It runs on the host.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import connected_components, knn
        >>> x = jnp.array([[0.0], [1.0], [2.0], [7.0], [8.0], [20.0]])
        >>> euclidean = LpDistance(normalize_embeddings=False)
        >>> neighbors = knn(x, x, 2, distance=euclidean, self_index=jnp.arange(6))
        >>> print(connected_components(neighbors, 1.5, distance=euclidean))
        [0 0 0 1 1 2]

    Args:
        neighbors: ``distances [N, K]`` and ``indices [N, K]`` of each embedding among all N, as
            `knn` returns them. An index of -1 is no neighbor.
        threshold: the largest distance, or smallest similarity, of a link.
        distance: the distance that the neighbors were found with. It determines whether smaller or
            larger values are closer.

    Returns:
        ``[N]`` integers from 0 on, the cluster of each embedding. An embedding without links is a
        cluster of its own, and so is one that is not finite.

    Raises:
        ValueError: for mismatched shapes, for indices that are not from -1 to N - 1, or for a
            threshold that is not one number.
    """
    name = "evaluation.connected_components"
    check_is_distance(name, distance)
    distances, indices = _checked_neighbors(name, neighbors)
    threshold = _checked_threshold(name, threshold, distances.dtype)
    near = distances >= threshold if distance.is_similarity else distances <= threshold
    rows, columns = np.nonzero(near & (indices >= 0))
    # here, because importing scipy.sparse takes a while; SciPy is a dependency of JAX itself
    from scipy.sparse import coo_array, csgraph

    n, links = len(indices), (rows, indices[rows, columns])
    graph = coo_array((np.ones(len(rows), bool), links), shape=(n, n))
    return csgraph.connected_components(graph, directed=False)[1]


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
    name = "adjusted_mutual_info_score"
    return float(_score("ami", name, embeddings, labels, clusters, distance))


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
    name = "normalized_mutual_info_score"
    return float(_score("nmi", name, embeddings, labels, clusters, distance))


def ari(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    clusters: Int[Array, " n"] | None = None,
    distance: Distance = LpDistance(),
) -> float:
    r"""Computes the adjusted Rand index of labels and clusters.

    .. math:: \frac{A - E[A]}{\frac{1}{2} (P_l + P_c) - E[A]}, \qquad
              E[A] = \frac{P_l P_c}{N (N - 1) / 2}

    Of all pairs of embeddings, :math:`P_l` have equal labels, :math:`P_c` are in one cluster, and A
    are both. Chance gives 0, and perfect agreement 1. Large classes have most of the pairs, so they
    count more than in `ami`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import ari
        >>> x = jnp.zeros((6, 1))
        >>> labels, clusters = jnp.array([0, 0, 0, 1, 1, 1]), jnp.array([0, 0, 1, 1, 2, 2])
        >>> print(round(ari(x, labels, clusters=clusters), 4))
        0.2424

    Args, returns and raises: as in `ami`.

    References:
        Hubert and Arabie, `Comparing Partitions <https://doi.org/10.1007/BF01908075>`_, 1985.
    """
    return float(_score("ari", "adjusted_rand_score", embeddings, labels, clusters, distance))


class VMeasure(NamedTuple):
    """How pure and how whole clusters are; the result of `v_measure`.

    Attributes:
        homogeneity: 1 if every cluster has one label only.
        completeness: 1 if every label is in one cluster only.
        v_measure: the harmonic mean of both.
    """

    homogeneity: float
    completeness: float
    v_measure: float


def v_measure(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    clusters: Int[Array, " n"] | None = None,
    distance: Distance = LpDistance(),
) -> VMeasure:
    r"""Computes the homogeneity and the completeness of clusters, and their harmonic mean.

    .. math:: h = \frac{I(U; V)}{H(U)}, \qquad c = \frac{I(U; V)}{H(V)}, \qquad
              v = \frac{2 h c}{h + c}

    Here U are the labels and V the clusters. Too few clusters lower h, and too many lower c. v is
    equal to `nmi`, and like `nmi` it is not adjusted for chance.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import v_measure
        >>> x = jnp.zeros((4, 1))
        >>> scores = v_measure(x, jnp.array([0, 0, 1, 1]), clusters=jnp.array([0, 0, 1, 2]))
        >>> print(f"{scores.homogeneity:.4f} {scores.completeness:.4f} {scores.v_measure:.4f}")
        1.0000 0.6667 0.8000

    Args, raises: as in `ami`.

    Returns:
        `VMeasure`, three floats. All are NaN where `ami` is.

    References:
        Rosenberg and Hirschberg, `V-Measure: A Conditional Entropy-Based External Cluster
        Evaluation Measure <https://aclanthology.org/D07-1043>`_, 2007.
    """
    name = "homogeneity_completeness_v_measure"
    scores = _score("v_measure", name, embeddings, labels, clusters, distance)
    return VMeasure(*np.broadcast_to(scores, 3).tolist())


def _checked_neighbors(function, neighbors):
    """Returns the distances and indices as NumPy arrays ``[N, K]``."""
    distances, indices = map(np.asarray, neighbors)
    if indices.ndim != 2 or distances.shape != indices.shape:
        raise ValueError(
            f"{function}: `neighbors` must be distances and indices [N, K], as `knn` returns them, "
            f"got {distances.shape} and {indices.shape}."
        )
    n, (low, high) = len(indices), (indices.min(initial=0), indices.max(initial=0))
    if indices.dtype.kind not in "iu" or low < -1 or high >= n > 0:
        raise ValueError(
            f"{function}: `neighbors` must have indices of the {n} embeddings themselves, or -1 "
            f"for none, got {indices.dtype} from {low} to {high}. Search the embeddings among "
            f"themselves."
        )
    return distances, indices


def _checked_threshold(function, threshold, dtype):
    """Returns the threshold in the dtype of the distances: a float is then equal to its float32."""
    number = np.asarray(threshold)
    if number.ndim or number.dtype.kind not in "iuf" or np.isnan(number):
        raise ValueError(
            f"{function}: `threshold` must be one number, got {str(threshold)[:80]}. "
            f"`inference.threshold` finds one from labeled pairs."
        )
    return number.astype(dtype) if dtype.kind == "f" else number


def _score(function, name, embeddings, labels, clusters, distance):
    caller, n = f"evaluation.{function}", len(embeddings)
    embeddings = embeddings if isinstance(embeddings, jax.Array) else np.asarray(embeddings)
    clusters = None if clusters is None else np.asarray(clusters)
    check_embeddings(caller, "embeddings", embeddings)
    labels = host_labels(caller, "labels", labels, "embeddings", n)
    check_rows(caller, "clusters", clusters, "embeddings", n)
    metric = getattr(_scikit_learn(function, "metrics"), name)
    if clusters is None:
        if not len(labels) or not np.isfinite(np.asarray(embeddings, np.float32)).all():
            return float("nan")
        clusters = k_means(embeddings, len(np.unique(labels)), distance=distance)
    return metric(labels, clusters)


def _scikit_learn(function, module):
    advice = "`pip install 'metricjax[eval]'`. `AccuracyCalculator` can exclude AMI and NMI."
    return needed(f"sklearn.{module}", f"evaluation.{function}: needs scikit-learn. {advice}")


CLUSTERING = {"AMI": ami, "NMI": nmi}
