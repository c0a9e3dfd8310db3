"""Manifold loss."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from metricjax._core.check import as_labels, check_embeddings, check_range, check_similarity
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, safe_divide, safe_sqrt
from metricjax._core.refs import admit, prepare, replicated
from metricjax._core.triplets import pick
from metricjax._core.types import LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._terms import reduced_term


@declare(
    rows="batch",
    why="its random walk goes over all samples",
    within={"lambdaC": "[0, inf]", "alpha": "(0, 1)"},
)
def manifold(
    embeddings: Float[Array, "n d"],
    proxies: Float[Array, "k d"],
    *,
    proxy_ids: Int[Array, " n"] | None = None,
    key: PRNGKeyArray | None = None,
    where: Num[Array, " n"] | None = None,
    lambdaC: Scalar = 1.0,
    alpha: Scalar = 0.8,
    margin: Scalar = 5e-4,
    distance: Distance = CosineSimilarity(),
) -> LossDict:
    r"""Pulls each sample toward a random proxy, with closeness measured by a random walk.

    .. math::
        F = (1 - \alpha)(I - \alpha \bar S)^{-1} \qquad
        \bar S = D^{-1/2} S D^{-1/2} \qquad S_{ij} = e^{2 [s_{ij}]_+} \; (i \neq j) \qquad
        \ell(A) = \operatorname*{mean}_i \log\Big(1 + \sum_{j: A_{ij} + m \ge A_{i c_i}}
        e^{A_{ij} - A_{i c_i} + m}\Big)

    The walk goes over samples and proxies together. The loss is
    :math:`L = \ell(F) + \lambda_C \ell(G)`. In it, :math:`F` goes from samples to proxies, and
    :math:`G` holds the cosines between the rows of :math:`F` of samples and those of proxies. The
    loss builds ``[N + K, N + K]`` and needs the whole batch on every device.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, ids = jnp.eye(3), jnp.array([0, 1, 1])
        >>> loss, _ = mj.reduce(mj.losses.manifold(x, x[:2] + 1, proxy_ids=ids))
        >>> print(f"{loss:.4f}")
        0.4623

    Args:
        embeddings: ``[N, D]``. The loss takes no labels.
        proxies: ``[K, D]``; `metricjax.nn.Manifold` owns them.
        proxy_ids: ``[N]`` integers :math:`c` in ``[0, K)``, the proxy of each sample.
        key: a `jax.random.key`, to draw `proxy_ids` if they are not given. Each proxy is drawn
            once, or at most once if there are more proxies than samples. The remaining samples get
            uniformly drawn proxies. Either `proxy_ids` or `key` is required.
        where: ``[N]`` sample weights; 0 is padding.
        lambdaC: factor of the second part. ``inf`` means the second part alone, with factor 1.
        alpha: how far the walk goes: above 0 and below 1.
        margin: m.
        distance: a similarity.

    Returns:
        ``{"loss": []}``, already reduced.

    Notes:
        - when: few labels; neighbors are found along the data manifold
        - miner: none taken
        - cost: (N + K)², time (N + K)³
        - setting: one member of the paper's ensemble

    References:
        Aziere and Todorovic, Ensemble Deep Manifold Similarity Learning using Hard Proxies, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Aziere_Ensemble_Deep_Manifold_Similarity_Learning_Using_Hard_Proxies_CVPR_2019_paper.html
    """
    name = "losses.manifold"
    check_similarity(name, distance)
    embeddings, _, _ = admit(name, embeddings, None, None, where)
    batch = prepare(embeddings, None, None, where)
    check_embeddings(name, "proxies", proxies)
    proxies = jnp.asarray(proxies)
    x, weights = replicated((batch.embeddings, batch.weights))
    n, k = len(x), len(proxies)
    if proxies.shape[1] != x.shape[1]:
        raise ValueError(f"{name}: `proxies` must have {x.shape[1]} features, got {proxies.shape}.")
    if proxy_ids is None:
        if key is None:
            raise ValueError(f"{name}: give `proxy_ids` or `key`.")
        proxy_ids = _draw(key, n, k)
    ids = as_labels(name, "proxy_ids", proxy_ids, "embeddings", n, class_ids=True)
    check_range(name, "proxy_ids", proxy_ids, where, k, "proxies")
    known = (ids >= 0) & (ids < k)
    ids, weights = (replicated(jnp.where(known, x, 0)) for x in (ids, weights))
    ids = ids.astype(jnp.int32)

    everything = jnp.concatenate([x, proxies.astype(x.dtype)])
    exists = jnp.concatenate([weights > 0, jnp.ones(k, bool)])
    near = distance(everything, everything)
    edges = exists[:, None] & exists[None, :] & ~jnp.eye(n + k, dtype=bool)
    graph = jnp.where(edges, jnp.exp(2 * jax.nn.relu(near)), 0)
    degree = jnp.where(exists, jnp.sum(graph, 1), 1)
    scale = jax.lax.rsqrt(jnp.where(degree > 0, degree, 1))
    walk = alpha * scale[:, None] * graph * scale[None, :]
    reach = (1 - alpha) * _inverse(jnp.eye(n + k, dtype=near.dtype) - walk)

    products = jnp.matmul(reach[:n], reach[n:].T, precision=jax.lax.Precision.HIGHEST)
    lengths = safe_sqrt(jnp.sum(reach**2, 1))
    contexts = safe_divide(products, lengths[:n, None] * lengths[None, n:])

    def hinge(scores):
        excess = scores - pick(scores, ids) + margin
        rivals = (jnp.arange(k, dtype=jnp.int32)[None, :] != ids[:, None]) & ~(excess < 0)
        values = logsumexp(excess, rivals, plus_one=True)
        return safe_divide(jnp.sum(weights * values), jnp.sum(weights))

    only_context = jnp.isinf(jnp.asarray(lambdaC, near.dtype))
    direct = jnp.where(only_context, 0, hinge(reach[:n, n:]))
    context = jnp.where(only_context, 1, lambdaC) * hinge(contexts)
    return {"loss": reduced_term(direct + context)}


def _draw(key, n, k):
    """A proxy for each of n samples: every proxy once, then uniform draws, in random order."""
    first, rest, order = jax.random.split(key, 3)
    once = jax.random.permutation(first, k)[:n]
    more = jax.random.randint(rest, (max(0, n - k),), 0, k)
    return jax.random.permutation(order, jnp.concatenate([once, more]))


@jax.custom_jvp
def _inverse(mat):
    """Inverse of a symmetric positive definite matrix; its gradient is two matrix products."""
    factor = jax.scipy.linalg.cho_factor(mat)
    return jax.scipy.linalg.cho_solve(factor, jnp.eye(len(mat), dtype=mat.dtype))


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    inverse = _inverse(*primals)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return inverse, -product(product(inverse, tangents[0]), inverse)
