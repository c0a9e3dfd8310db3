"""Multi-similarity loss."""

from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term


@declare(ring=True, within={"alpha": "(0, inf)", "beta": "(0, inf)"})
def multi_similarity(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    base: PerSample = 0.5,
    distance: Distance = CosineSimilarity(),
) -> Passes[LossDict]:
    r"""Pulls positives and pushes negatives, each weighted against the other pairs of its anchor.

    .. math::
        \ell_a = \tfrac1\alpha \log\Big(1 + \sum_p e^{-\alpha (s_{ap} - \lambda)}\Big)
               + \tfrac1\beta \log\Big(1 + \sum_n e^{\beta (s_{an} - \lambda)}\Big)

    With a distance, both differences change sign.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.multi_similarity(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.7711

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair that was mined twice counts once.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        alpha: sharpness for positives, > 0.
        beta: sharpness for negatives, > 0.
        base: the similarity (lambda) at which a pair starts to matter; or ``[N]``, one for each
            anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of all anchors, including those without pairs.

    Notes:
        - when: retrieval; a good first choice
        - miner: `multi_similarity`
        - cost: NM
        - setting: `base=1.0`, with the `multi_similarity` miner

    References:
        Wang et al., `Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning
        <https://arxiv.org/abs/1904.06627>`_, 2019.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.multi_similarity", batch, mined, match, repeats=False)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    pos = LogSum(logsumexp(alpha * farther(distance, mat, base), pairs.positive))
    neg = LogSum(logsumexp(beta * farther(distance, base, mat), pairs.negative))
    pos, neg = yield OverRefs((pos, neg))
    return {"loss": row_term(softplus(pos.log) / alpha + softplus(neg.log) / beta, batch.weights)}
