"""FastAP loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_at_least, check_euclidean
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import prepare
from metricjax._core.sums import OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, Refs
from metricjax.distances import LpDistance
from metricjax.losses._bins import soft_histogram
from metricjax.losses._pairs import mined_weights, pairs_of
from metricjax.losses._terms import row_term


@declare(mined="samples", ring=True)
def fast_ap(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    num_bins: int = 10,
    distance: LpDistance = LpDistance(power=2),
) -> Passes[LossDict]:
    r"""Raises the average precision of each anchor's ranking, by a histogram of distances.

    .. math::
        \ell_a = 1 - \frac{1}{|P_a|} \sum_k \frac{h^+_k H^+_k}{H_k}

    where :math:`h^+_k` is the soft count of positives at the k-th of ``num_bins + 1`` equidistant
    distances. :math:`H^+_k` is the soft count of positives up to this distance, and :math:`H_k`
    that of all references up to it.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.fast_ap(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.5000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: what to compare with; the batch itself by default.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        num_bins: the number of equal intervals that the distances are divided into; static.
        distance: the Euclidean distance of normalized embeddings, to any power.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors with a positive.

    Notes:
        - when: average precision by a histogram; large batches
        - miner: weighs samples
        - cost: NM
        - setting: default, with `samplers.hierarchical`

    References:
        Cakir et al., Deep Metric Learning to Rank, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html
    """
    check_euclidean("losses.fast_ap", distance, any_power=True)
    check_at_least("losses.fast_ap", "num_bins", num_bins, 1)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.fast_ap", batch, None, match)
    weight = mined_weights("losses.fast_ap", mined, batch, self_refs=refs is None)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    position = mat * (num_bins / 2**distance.power)
    counts = lambda weights: soft_histogram(position, weights, num_bins + 1)
    pos, everything, positives = yield OverRefs(
        (
            counts(pairs.positive),
            counts(pairs.positive + pairs.negative),
            jnp.sum(pairs.positive, 1),
        )
    )
    all_up_to = jnp.cumsum(everything, 1)
    hits = pos * jnp.cumsum(pos, 1)
    precision = jnp.sum(jnp.where(hits == 0, 0, safe_divide(hits, all_up_to)), 1)
    values = weight * (1 - safe_divide(precision, positives))
    return {"loss": row_term(values, jnp.where(positives > 0, batch.weights, 0))}
