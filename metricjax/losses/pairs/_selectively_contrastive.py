"""Selectively contrastive triplet loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_similarity
from metricjax._core.declare import declare
from metricjax._core.masked import exists, softplus
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick
from metricjax._core.types import (
    Labels,
    LossDict,
    Match,
    Mined,
    PerSample,
    Refs,
    Scalar,
    TripletRule,
    Triplets,
)
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._pairs import TripletSlab, each_triplet, pairs_of, triplets_of
from metricjax.losses._terms import row_term, term

SAME = 0.9999
"""A positive above this similarity is a copy of the anchor: there is nothing to learn from it."""
TOO_CLOSE = 0.8
"""A negative above this similarity is hard, even if the positive is closer."""


@declare(within={"temperature": "(0, inf)"})
def selectively_contrastive(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    temperature: PerSample = 0.1,
    lam: Scalar = 1.0,
    distance: Distance = CosineSimilarity(),
) -> LossDict:
    r"""Pulls the easiest positive and pushes the hardest negative, or only pushes a hard negative.

    .. math::
        \ell_a = \begin{cases} \lambda s_{an} & s_{an} > s_{ap} \text{ or } s_{an} > 0.8 \\
        \log\big(1 + e^{(s_{an} - s_{ap}) / \tau}\big) & \text{else} \end{cases}

    p is the most similar positive with :math:`s_{ap} \le 0.9999`; above that, a positive is a copy
    of the anchor. n is the most similar negative. Triplet losses with hard negatives also pull the
    positive toward the negative, and all embeddings to one point. This loss does not. No gradient
    flows through the choice of p and n, or of the case. Among equally similar references, the first
    is chosen.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> loss, _ = mj.reduce(mj.losses.selectively_contrastive(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.0636

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs to choose from; all pairs by default. If they are triplets, listed or given
            by a rule, every triplet counts and nothing is chosen.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        temperature: divides the similarities, > 0; or ``[N]``, one for each anchor.
        lam: factor of the similarity to a hard negative.
        distance: pairwise similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors that have a positive and a negative.
        With mined triplets there is one value for each triplet, divided by the number of triplets.

    Notes:
        - when: hard negatives from the start, large batches
        - miner: not needed
        - cost: NM
        - setting: default

    References:
        Xuan et al., `Hard Negative Examples are Hard, but Useful
        <https://arxiv.org/abs/2007.12749>`_, 2020.
    """
    name = "losses.selectively_contrastive"
    check_similarity(name, distance)
    batch = prepare(embeddings, labels, refs, where)
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def compare(ap, an, temperature):
        hard = jax.lax.stop_gradient((an > ap) | (an > TOO_CLOSE))
        return jnp.where(hard, lam * an, softplus((an - ap) / temperature))

    def of_triplets(slab: TripletSlab) -> LossDict:
        values = compare(slab.ap, slab.an, slab.option(temperature))
        return {"loss": term(values, slab.weights, anchor=slab.anchor)}

    if isinstance(mined, Triplets | TripletRule):
        return each_triplet(triplets_of(name, batch, mined, match), mat, of_triplets)

    positive, negative = pairs_of(name, batch, mined, match)
    seen = jax.lax.stop_gradient(mat)
    positive = jnp.where(seen <= SAME, positive, 0)
    if not mat.shape[1]:
        return {"loss": row_term(batch.weights, jnp.zeros_like(batch.weights))}

    def nearest(pairs):
        column = jnp.argmax(jnp.where(pairs > 0, seen, -jnp.inf), 1)
        return pick(mat, column)

    values = compare(nearest(positive), nearest(negative), temperature)
    both = exists(positive) & exists(negative)
    return {"loss": row_term(values[:, 0], jnp.where(both, batch.weights, 0))}
