"""N-pairs loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_rows
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import admit, prepare, replicated
from metricjax._core.types import LossDict, Mined, Refs
from metricjax.distances import Distance, DotProductSimilarity
from metricjax.losses._classes import similarities
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term


@declare(rows="batch", why="each pair meets those of the other classes")
def n_pairs(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    distance: Distance = DotProductSimilarity(),
) -> LossDict:
    r"""Pulls the pair of each class together and pushes its anchor from other classes' positives.

    .. math:: \ell_c = -\log \frac{e^{s(a_c, p_c)}}{\sum_k e^{s(a_c, p_k)}}

    Only the first pair of each class, in row order, is used. A distance is used with its sign
    changed. The default distance normalizes the embeddings. The paper does not normalize, and adds
    `metricjax.regularizers.lp` of the embeddings. The loss needs the whole batch on every device.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.n_pairs(jnp.eye(4), jnp.array([0, 0, 1, 1])))
        >>> print(f"{loss:.4f}")
        0.6931

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references that contain the positives; the batch itself by default.
        mined: the positive pairs to choose from; all positive pairs by default.
        where: ``[N]`` sample weights; 0 is padding. Each value has the weight of its anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [P]}``, one value for each class in the order of the batch, divided by the number
        of classes with a pair. P is the largest possible number of such classes: N / 2, or N with
        `refs`.

    Notes:
        - when: two samples from each of many classes
        - miner: not needed
        - cost: NM
        - setting: `DotProductSimilarity(normalize_embeddings=False)`, `regularizers.lp`

    References:
        Sohn, `Improved Deep Metric Learning with Multi-class N-pair Loss Objective
        <https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective>`_,
        2016.
    """
    embeddings, labels, refs = admit("losses.n_pairs", embeddings, labels, refs, where)
    batch = prepare(embeddings, labels, refs, where)
    n = len(batch.embeddings)
    check_rows("losses.n_pairs", "labels", batch.labels, "embeddings", n, class_ids=True)
    positive = pairs_of("losses.n_pairs", batch, mined, None).positive
    x, y, r, weights, positive = replicated(
        (batch.embeddings, batch.labels, batch.refs.embeddings, batch.weights, positive)
    )
    anchor, partner, exists = _first_pairs(y, weights, positive, n if refs is not None else n // 2)
    logits = similarities(distance, x[anchor], r[partner])
    own = jnp.eye(len(anchor), dtype=bool)
    rivals = exists[None, :] & ~own
    values = softplus(logsumexp(logits, rivals) - jnp.sum(jnp.where(own, logits, 0), 1))
    weights = jnp.where(exists, weights[anchor], 0)
    return {"loss": row_term(values, weights)._replace(anchor=anchor)}


def _first_pairs(labels, weights, positive, most):
    """Returns each class's first pair: anchors, partners, and which of the `most` places exist."""
    n, m = positive.shape
    columns = jnp.arange(m, dtype=jnp.int32)[None, :]
    partner = jnp.min(jnp.where(positive > 0, columns, m), 1, initial=m)
    paired = (partner < m) & (weights > 0)
    same = (labels[:, None] == labels[None, :]) & paired[None, :]
    rows = jnp.arange(n, dtype=jnp.int32)
    first = paired & (jnp.min(jnp.where(same, rows[None, :], n), 1, initial=n) == rows)
    anchor = jnp.argsort(~first)[:most]
    return anchor, jnp.minimum(partner, m - 1)[anchor], first[anchor]
