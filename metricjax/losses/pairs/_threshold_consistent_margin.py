"""Threshold-consistent margin loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import prepare
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import reduced_term


@declare(ring=True)
def threshold_consistent_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    lambda_plus: Scalar = 1.0,
    lambda_minus: Scalar = 1.0,
    margin_plus: Scalar = 0.9,
    margin_minus: Scalar = 0.5,
    distance: CosineSimilarity = CosineSimilarity(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Pulls hard positives and pushes hard negatives to thresholds that all classes share.

    .. math::
        L = \lambda_+ \operatorname*{mean}_{ap: s_{ap} \le m_+} (m_+ - s_{ap})
          + \lambda_- \operatorname*{mean}_{an: s_{an} \ge m_-} (s_{an} - m_-)

    It is meant to be added to another loss.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> terms = mj.losses.threshold_consistent_margin(x, jnp.array([0, 0, 1]))
        >>> print(f"{mj.reduce(terms)[0]:.4f}")
        1.4000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        lambda_plus: factor of the positive part.
        lambda_minus: factor of the negative part.
        margin_plus: positives at most this similar are hard.
        margin_minus: negatives at least this similar are hard.
        distance: `CosineSimilarity`, possibly with another `precision`.
        axis_name: the `jax.shard_map` or `pmap` axis over which the anchors are spread, if any.
            Sums over all anchors then include all devices along it. Without `refs`, the batches of
            all these devices are the references.

    Returns:
        ``{"loss": []}``, already reduced. A mean over no pairs is 0.

    Notes:
        - when: added to another loss; one threshold for all classes
        - miner: not needed
        - cost: NM
        - setting: default

    References:
        Zhang et al., `Threshold-Consistent Margin Loss for Open-World Deep Metric Learning
        <https://arxiv.org/abs/2307.04047>`_, 2023.
    """
    name = "losses.threshold_consistent_margin"
    check_distance(name, distance, CosineSimilarity)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of(name, batch, mined, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def sums(excess, weights):
        weights = jnp.where(excess < 0, 0, weights) * batch.weights[:, None]
        return jnp.sum(weights * jnp.where(weights > 0, excess, 0)), jnp.sum(weights)

    pos, neg = yield (
        sums(margin_plus - mat, pairs.positive),
        sums(mat - margin_minus, pairs.negative),
    )
    return {
        "loss": reduced_term(lambda_plus * safe_divide(*pos) + lambda_minus * safe_divide(*neg))
    }
