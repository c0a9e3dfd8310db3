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
    r"""Pulls each positive closer than the negatives of its anchor, with a slack in degrees.

    .. math::
        \ell_{ap} = \log\Big(1 + \sum_n e^{s (\cos\theta_{an} - \cos(\theta_{ap} - \beta))}\Big)

    It is usually combined with half of `intra_pair_variance`. A positive closer than the margin is
    pushed away. A positive whose anchor has no negative has the value 0 and still counts in the
    divisor.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.tuplet_margin(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        28.8059

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined,
            also as a negative in the sum.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        margin: beta, in degrees; or ``[N]``, one for each anchor.
        scale: factor of the cosines; or ``[N]``, one for each anchor.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": [N, M]}``, divided by the number of positive pairs.

    Notes:
        - when: like `ntxent`, with a slack of some degrees
        - miner: not needed
        - cost: NM
        - setting: default, with half of `intra_pair_variance`

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
