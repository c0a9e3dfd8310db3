"""Alpha query expansion and database augmentation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._core.check import check_at_least, check_embeddings
from metricjax.distances import CosineSimilarity, DotProductSimilarity, normalize
from metricjax.evaluation._knn import found, in_space_of, search
from metricjax.evaluation.rerank._arguments import both_sides, check_number


def expand_queries(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    *,
    n: int = 10,
    alpha: float = 3.0,
) -> Float[Array, "q d"]:
    r"""Adds to every query its `n` nearest gallery rows: alpha query expansion.

    A query and its neighbors together describe what is searched for better than the query alone.
    Search with the result instead of `query`.

    .. math::
        q' = \frac{u}{\lVert u \rVert}, \qquad
        u = \hat q + \sum_{j \in \text{top } n} \max(\hat q \cdot \hat g_j, 0)^\alpha\, \hat g_j

    Rows with :math:`\hat q \cdot \hat g_j \le 0` add nothing, even if `alpha` is 0. Then all other
    neighbors have weight 1. The search holds only a block of similarities at a time.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> query, gallery = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0], [0.0, 1.0]])
        >>> print(rerank.expand_queries(query, gallery, n=1).round(4))
        [[0.9806 0.1961]]

    Args:
        query: ``[Q, D]``.
        gallery: ``[G, D]``, the rows to search.
        n: how many gallery rows to add to each query, at most G; static.
        alpha: the power of the similarities, at least 0. Larger values give nearer neighbors more
            weight. The paper uses 3, with 50 neighbors.

    Returns:
        ``[Q, D]``, rows of length 1, in at least float32.

    Raises:
        ValueError: for mismatched shapes, for an `n` that is not from 1 to G, or for a negative or
            infinite `alpha`.
        TypeError: if embeddings are not floating.

    References:
        Radenović et al., `Fine-tuning CNN Image Retrieval with No Human Annotation
        <https://arxiv.org/abs/1711.02512>`_, 2018.
    """
    name = "evaluation.rerank.expand_queries"
    query, gallery = both_sides(name, query, gallery)
    _check_expansion(name, n, alpha, len(gallery), "the number of rows of `gallery`")
    cosine = CosineSimilarity()
    return _expanded(in_space_of(cosine, query), in_space_of(cosine, gallery), None, n, alpha)


def augment(gallery: Float[Array, "g d"], *, n: int = 10, alpha: float = 3.0) -> Array:
    r"""Adds to every gallery row its `n` nearest other rows: database augmentation.

    This is `metricjax.evaluation.rerank.expand_queries` of the gallery by itself. A row is not
    among its own n neighbors:

    .. math::
        g_i' = \frac{u_i}{\lVert u_i \rVert}, \qquad
        u_i = \hat g_i + \sum_{j \in \text{top } n,\ j \ne i}
        \max(\hat g_i \cdot \hat g_j, 0)^\alpha\, \hat g_j

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import rerank
        >>> gallery = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> print(rerank.augment(gallery, n=1)[0].round(4))
        [0.9806 0.1961]

    Args:
        gallery: ``[G, D]``.
        n: how many other rows to add to each row, at most G - 1; static.
        alpha: the power of the similarities, at least 0.

    Returns:
        ``[G, D]``, rows of length 1, in at least float32.

    Raises:
        ValueError: for a wrong shape, for an `n` that is not from 1 to G - 1, or for a negative or
            infinite `alpha`.
        TypeError: if `gallery` is not floating.

    References:
        Radenović et al., `Fine-tuning CNN Image Retrieval with No Human Annotation
        <https://arxiv.org/abs/1711.02512>`_, 2018.
    """
    name = "evaluation.rerank.augment"
    gallery = jnp.asarray(gallery)
    check_embeddings(name, "gallery", gallery)
    _check_expansion(name, n, alpha, len(gallery) - 1, "the number of other rows of `gallery`")
    rows = in_space_of(CosineSimilarity(), gallery)
    return _expanded(rows, rows, jnp.arange(len(rows)), n, alpha)


def _expanded(query, gallery, own, n, alpha):
    """The expansion of normalized rows. The sum is taken right after the search of each block."""
    similarity = DotProductSimilarity(normalize_embeddings=False)
    shared = gallery, jnp.asarray(alpha, gallery.dtype)
    options = {"own": own, "k": n, "distance": similarity, "then": _with_neighbors}
    return search(query, gallery, query, shared, **options)


def _with_neighbors(neighbors, rows, shared):
    gallery, alpha = shared
    scores = jnp.where(found(neighbors), neighbors.distances, 0)
    positive = scores > 0  # so that 0 to the power 0 is 0
    weights = jnp.where(positive, jnp.where(positive, scores, 1) ** alpha, 0)
    # a neighbor that does not count must not turn the sum into NaN
    added = jnp.where(positive[:, :, None], weights[:, :, None] * gallery[neighbors.indices], 0)
    return normalize(rows + jnp.sum(added, 1))


def _check_expansion(function, n, alpha, most, what):
    check_at_least(function, "n", n, 1)
    if n > most:
        raise ValueError(f"{function}: `n` must be at most {most}, {what}, got {n}.")
    check_number(function, "alpha", alpha)
