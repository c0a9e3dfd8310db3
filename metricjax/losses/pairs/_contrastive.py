"""Contrastive loss."""

import jax
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.refs import Batch, prepare
from metricjax._core.types import Labels, LossDict, Match, Mined, Pairs, PerSample, Refs
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import active_term, pair_term


@declare(ring=True)
def contrastive(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    pos_margin: PerSample = 0.0,
    neg_margin: PerSample = 1.0,
    distance: Distance = LpDistance(),
) -> LossDict:
    r"""Pulls positive pairs together and pushes negative pairs past a margin.

    .. math::
        \ell_{ap} = [d_{ap} - m_+]_+ \qquad \ell_{an} = [m_- - d_{an}]_+

    With a similarity, both differences change sign. Then use, for example,
    ``pos_margin=1, neg_margin=0``.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, parts = mj.reduce(mj.losses.contrastive(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        2.4142 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        pos_margin: positives closer than this cost nothing; or ``[N]``, one for each anchor.
        neg_margin: negatives farther than this cost nothing; or ``[N]``, one for each anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"pos_loss": [N, M], "neg_loss": [N, M]}``, each divided by the number of its pairs
        with a value above 0.

    Notes:
        - when: a plain baseline with two margins that are easy to interpret
        - miner: `multi_similarity`, `pair_margin`, `hdc`
        - cost: NM
        - setting: the hinges are linear here and squared in the paper

    References:
        Hadsell et al., `Dimensionality Reduction by Learning an Invariant Mapping
        <http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf>`_, 2006.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.contrastive", batch, mined, match)
    return contrast(batch, pairs, distance, pos_margin, neg_margin)


def contrast(batch: Batch, pairs: Pairs, distance, pos_margin, neg_margin) -> LossDict:
    """Returns the hinge terms of all positive and of all negative pairs."""
    mat = distance(batch.embeddings, batch.refs.embeddings)
    pos = jax.nn.relu(farther(distance, mat, pos_margin))
    neg = jax.nn.relu(farther(distance, neg_margin, mat))
    return {
        "pos_loss": pair_term(active_term, batch, pos, pairs.positive),
        "neg_loss": pair_term(active_term, batch, neg, pairs.negative),
    }
