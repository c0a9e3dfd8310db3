"""Intra-pair variance loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import prepare
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import pair_term, term


@declare(ring=True)
def intra_pair_variance(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    pos_eps: Scalar = 0.01,
    neg_eps: Scalar = 0.01,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Pulls positive pairs toward their mean similarity, and negative pairs toward theirs.

    .. math::
        \ell_{ap} = [(1 - \epsilon_+) \mu_+ - s_{ap}]_+^2 \qquad
        \ell_{an} = [s_{an} - (1 + \epsilon_-) \mu_-]_+^2

    It is meant to be added to `tuplet_margin`. With a distance, the values are
    :math:`[d_{ap} - (1 + \epsilon_+) \mu_+]_+^2` and :math:`[(1 - \epsilon_-) \mu_- - d_{an}]_+^2`.
    Gradients flow through the means.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, parts = mj.reduce(mj.losses.intra_pair_variance(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        0.1225 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        pos_eps: how far positives may be from their mean at no cost, as a fraction of the mean.
        neg_eps: the same for negatives.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis over which the anchors are spread, if any.
            Sums over all anchors then include all devices along it. Without `refs`, the batches of
            all these devices are the references.

    Returns:
        ``{"pos_loss": [N, M], "neg_loss": [N, M]}``, each divided by its number of pairs.

    Notes:
        - when: added to `tuplet_margin`; keeps pairs near their mean
        - miner: not needed
        - cost: NM
        - setting: default, with weight 0.5

    References:
        Yu and Tao, Deep Metric Learning with Tuplet Margin Loss, 2019,
        https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.intra_pair_variance", batch, mined, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    mat = mat if distance.is_similarity else -mat

    def sums(weights):
        weights = weights * batch.weights[:, None]
        return jnp.sum(weights * mat), jnp.sum(weights)

    of_positive, of_negative = yield sums(pairs.positive), sums(pairs.negative)
    pos, neg = safe_divide(*of_positive), safe_divide(*of_negative)
    sign = 1 if distance.is_similarity else -1
    short = jax.nn.relu((1 - sign * pos_eps) * pos - mat) ** 2
    over = jax.nn.relu(mat - (1 + sign * neg_eps) * neg) ** 2
    return {
        "pos_loss": pair_term(term, batch, short, pairs.positive),
        "neg_loss": pair_term(term, batch, over, pairs.negative),
    }
