"""Triplet margin loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import softplus
from metricjax._core.refs import prepare, take
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import TripletSlab, each_triplet, triplets_of
from metricjax.losses._terms import active_term


@declare()
def triplet_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    margin: PerSample = 0.05,
    swap: bool = False,
    smooth_loss: bool = False,
    distance: Distance = LpDistance(),
) -> LossDict:
    r"""Pulls each anchor closer to its positives than to its negatives, by a margin.

    .. math::
        \ell_{apn} = [d_{ap} - d_{an} + m]_+

    With a similarity, the difference changes sign. A loop visits all triplets, one positive of
    every anchor at a time. Memory is therefore ``N * M``, and work is proportional to the number of
    triplets.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.triplet_margin(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.7571

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the triplets that count: those of a miner or of `tuples.random_triplets`, or `Pairs`.
            `Pairs` stand for all triplets of a positive and a negative pair with the same anchor.
            All triplets by default. A triplet counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        margin: how much closer the positive must be; or ``[N]``, one for each anchor.
        swap: push the negative away from the anchor or from the positive, whichever is closer to
            the negative. This takes one more matrix product for each step; static.
        smooth_loss: use softplus in place of the hinge; static.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": ...}``, streamed (``[N, positives, M]``; ``[T]`` for listed triplets), divided
        by the number of triplets with a value above 0.

    Notes:
        - when: only ranks matter, not distances
        - miner: `triplet_margin` (semihard), `batch_hard`
        - cost: NM, time NM × P
        - setting: `margin=0.2`, `LpDistance(power=2)`, semihard

    References:
        Schroff et al., `FaceNet: A Unified Embedding for Face Recognition and Clustering
        <https://arxiv.org/abs/1503.03832>`_, 2015; Balntas et al., `Learning local feature
        descriptors with triplets and shallow convolutional neural networks
        <http://www.bmva.org/bmvc/2016/papers/paper119/index.html>`_, 2016 (swap).
    """
    batch = prepare(embeddings, labels, refs, where)
    mined = triplets_of("losses.triplet_margin", batch, mined, match)
    others = batch.refs.embeddings
    mat = distance(batch.embeddings, batch.refs.embeddings)
    closer = jnp.maximum if distance.is_similarity else jnp.minimum
    hinge = softplus if smooth_loss else jax.nn.relu

    def from_positive(slab: TripletSlab):
        if slab.negative is None:
            return distance(take(others, slab.positive), others)
        one = jax.vmap(lambda x, y: distance(x[None], y[None])[0, 0])
        return one(others[slab.positive], others[slab.negative])

    def terms(slab: TripletSlab) -> LossDict:
        an = closer(slab.an, from_positive(slab)) if swap else slab.an
        values = hinge(farther(distance, slab.ap, an) + slab.option(margin))
        return {"loss": active_term(values, slab.weights, anchor=slab.anchor)}

    return each_triplet(mined, mat, terms)
