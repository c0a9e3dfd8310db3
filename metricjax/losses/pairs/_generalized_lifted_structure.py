"""Generalized lifted structure loss."""

import jax
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term


@declare(ring=True)
def generalized_lifted_structure(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    neg_margin: PerSample = 1.0,
    pos_margin: PerSample = 0.0,
    distance: Distance = LpDistance(),
) -> Passes[LossDict]:
    r"""Pulls an anchor's farthest positives closer and pushes its nearest negatives away.

    .. math::
        \ell_a = \Big[ \log \sum_p e^{d_{ap} - m_+} + \log \sum_n e^{m_- - d_{an}} \Big]_+

    It compares a soft maximum over the positives with a soft minimum over the negatives. The
    logarithm of an empty sum counts as 0, so anchors without positives are still pushed away from
    their negatives. With a similarity, both differences change sign.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> terms = mj.losses.generalized_lifted_structure(x, jnp.array([0, 0, 1]))
        >>> print(f"{mj.reduce(terms)[0]:.4f}")
        1.5439

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair that was mined twice counts once.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        neg_margin: in the unit of `distance`; the paper uses 0.1 to 1; or ``[N]``, one for each
            anchor.
        pos_margin: in the unit of `distance`; or ``[N]``, one for each anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of all anchors, including those without pairs.

    Notes:
        - when: soft farthest positive, soft nearest negative
        - miner: not needed
        - cost: NM
        - setting: `neg_margin` 0.1 to 1

    References:
        Hermans et al., `In Defense of the Triplet Loss for Person Re-Identification
        <https://arxiv.org/abs/1703.07737>`_, 2017.
    """
    name = "losses.generalized_lifted_structure"
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of(name, batch, mined, match, repeats=False)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    pos = LogSum(logsumexp(farther(distance, mat, pos_margin), pairs.positive))
    neg = LogSum(logsumexp(farther(distance, neg_margin, mat), pairs.negative))
    pos, neg = yield OverRefs((pos, neg))
    return {"loss": row_term(jax.nn.relu(pos.value + neg.value), batch.weights)}
