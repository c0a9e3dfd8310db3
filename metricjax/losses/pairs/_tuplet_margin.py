"""Tuplet margin loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import CosineSimilarity
from metricjax.losses._classes import turned
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import pair_term, term


@declare(ring=True)
def tuplet_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    margin: PerSample = 5.73,
    scale: PerSample = 64.0,
    distance: CosineSimilarity = CosineSimilarity(),
) -> Passes[LossDict]:
    r"""Picks each positive out among the negatives, with a slack of some degrees.

    .. math::
        \ell_{ap} = \log\Big(1 + \sum_n e^{s (\cos\theta_{an} - \cos(\theta_{ap} - \beta))}\Big)

    Usually joined by half of `intra_pair_variance`. A positive closer than the margin is pushed
    away; one whose anchor has no negative costs 0 and counts.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.tuplet_margin(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        28.8059

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: what to compare with; the batch itself by default.
        mined: the pairs that count; all of them by default. Repeats count repeatedly, negatives in
            the sum too.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        margin: beta, degrees; or ``[N]``, one for each anchor.
        scale: factor of the cosines; or ``[N]``, one for each anchor.
        distance: the cosine, at another matrix precision if need be.

    Returns:
        ``{"loss": [N, M]}``, divided by the number of positive pairs.

    Notes:
        - when: as `ntxent`, with a slack of some degrees
        - miner: not needed
        - cost: NM
        - setting: default, with half of the next

    References:
        Yu and Tao, Deep Metric Learning with Tuplet Margin Loss, 2019,
        https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html
    """
    check_distance("losses.tuplet_margin", distance, CosineSimilarity)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.tuplet_margin", batch, mined, match)
    cosine = distance(batch.embeddings, batch.refs.embeddings)
    beta = jnp.deg2rad(jnp.asarray(margin, cosine.dtype))
    slack = turned(cosine, -beta)
    negatives = yield OverRefs(LogSum(logsumexp(scale * cosine, pairs.negative)))
    values = softplus(negatives.log[:, None] - scale * slack)
    return {"loss": pair_term(term, batch, values, pairs.positive)}
