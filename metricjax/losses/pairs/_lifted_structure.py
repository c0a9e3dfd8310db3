"""Lifted structure loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import exists, logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import at_refs, pairs_of
from metricjax.losses._terms import pair_term, term


@declare(refs_first=True)
def lifted_structure(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    neg_margin: Scalar = 1.0,
    pos_margin: Scalar = 0.0,
    distance: Distance = LpDistance(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Pulls each positive pair together and pushes the negatives of both its samples away.

    .. math::
        \ell_{ap} = \tfrac12 [J_{ap}]_+^2 \qquad J_{ap} = d_{ap} - m_+ + \log\Big(
        \sum_{n \in N_a} e^{m_- - d_{an}} + \sum_{n \in N_p} e^{m_- - d_{pn}}\Big)

    If both sums are empty, the logarithm counts as 0. With a similarity, the differences change
    sign.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.lifted_structure(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        3.4633

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default. With `refs`, the negatives of
            a reference are the references of other labels. With `refs` and `mined`, they are those
            mined for the anchor that `self_index` places at this reference, if any.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined,
            also in the sums. The negatives of a sample are those mined for it as an anchor.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        neg_margin: in the unit of `distance`.
        pos_margin: in the unit of `distance`.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis over which the anchors are spread, if any.
            Sums over all anchors then include all devices along it. Without `refs`, the batches of
            all these devices are the references.

    Returns:
        ``{"loss": [N, M]}``, divided by the number of positive pairs. All values are 0 in a batch
        without any negative pair.

    Notes:
        - when: compares each positive pair with the negatives of both its samples
        - miner: not needed
        - cost: NM
        - setting: default

    References:
        Song et al., `Deep Metric Learning via Lifted Structured Feature Embedding
        <https://arxiv.org/abs/1511.06452>`_, 2015.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.lifted_structure", batch, mined, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    closeness = farther(distance, neg_margin, mat)
    of_anchor, any_a = logsumexp(closeness, pairs.negative, empty=0.0), exists(pairs.negative)
    of_positive, any_p = yield at_refs(batch, of_anchor), at_refs(batch, any_a)
    negatives = yield jnp.sum(jnp.where(any_a, batch.weights, 0))

    a, p = of_anchor[:, None], jnp.where(any_p > 0, of_positive, 0)[None, :]
    twice = any_a[:, None] & (any_p > 0)[None, :]
    if batch.refs.self_index is not None:  # a pair (i, i) counts its negatives once
        own = batch.refs.self_index[:, None] == jnp.arange(mat.shape[1])[None, :]
        twice &= ~own
        p = jnp.where(own, 0, p)
    # where one of the two sums is empty, it is 0 here, and `a + p` is the other
    push = jnp.where(twice, a + softplus(p - a), a + p)
    values = jax.nn.relu(push + farther(distance, mat, pos_margin)) ** 2 / 2
    values = jnp.where(negatives > 0, values, 0)
    return {"loss": pair_term(term, batch, values, pairs.positive)}
