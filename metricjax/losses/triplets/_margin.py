"""Margin loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_rows
from metricjax._core.declare import declare
from metricjax._core.refs import prepare
from metricjax._core.types import Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import TripletSlab, each_triplet, triplets_of
from metricjax.losses._terms import reduced_term, term


@declare()
def margin(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    beta: Scalar | Float[Array, " c"] = 1.2,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    margin: Scalar = 0.2,
    nu: Scalar = 0.0,
    distance: Distance = LpDistance(),
) -> LossDict:
    r"""Pulls positives inside a learnable boundary and pushes negatives outside, with a margin.

    .. math::
        \ell_{apn} = [d_{ap} - \beta + m]_+ + [\beta - d_{an} + m]_+

    A second term is :math:`\nu \beta`. With a similarity, the differences change sign. Because
    every triplet counts, a positive pair counts once for each negative of its anchor, and a
    negative pair once for each positive.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, parts = mj.reduce(mj.losses.margin(x, jnp.array([0, 0, 1]), 1.0, nu=0.1))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        0.9095 ['beta_reg_loss', 'margin_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given and `beta` is one number.
        beta: the boundary: one number, or ``[C]``, one for each class of anchors.
            `metricjax.nn.Margin` owns it. Anchors with a label outside ``[0, C)`` get weight 0.
        refs: references to compare with; the batch itself by default.
        mined: the triplets that count: those of a miner or of `tuples.random_triplets`, or `Pairs`.
            `Pairs` stand for all triplets of a positive and a negative pair with the same anchor.
            All triplets by default. A triplet counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        margin: how far beyond the boundary, on its correct side, a pair must be to cost nothing.
        nu: weight of `beta` itself in the loss, for a learned `beta`.
        distance: pairwise distance or similarity.

    Returns:
        ``{"margin_loss": ..., "beta_reg_loss": ...}``, streamed (``[N, positives, M]``; ``[T]`` for
        listed triplets), each divided by the number of hinges above 0. With one `beta`,
        "beta_reg_loss" is already reduced: :math:`\nu \beta`, or 0 without any triplet.

    Notes:
        - when: a learned boundary
        - miner: `distance_weighted`
        - cost: NM, time NM × P
        - setting: default, with the `distance_weighted` miner

    References:
        Wu et al., `Sampling Matters in Deep Embedding Learning <https://arxiv.org/abs/1706.07567>`_,
        2017.
    """
    batch = prepare(embeddings, labels, refs, where)
    beta = jnp.asarray(beta, batch.weights.dtype)
    by_class = beta.ndim > 0 and beta.size > 1
    if by_class:
        labels, n = batch.labels, batch.embeddings.shape[0]
        check_rows("losses.margin", "labels", labels, "embeddings", n, class_ids=True)
        known = (labels >= 0) & (labels < len(beta))
        batch = batch._replace(weights=jnp.where(known, batch.weights, 0))
        beta = beta[jnp.where(known, labels, 0)]
    mined = triplets_of("losses.margin", batch, mined, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def terms(slab: TripletSlab) -> LossDict:
        b = slab.of_anchor(beta) if by_class else beta.reshape(())
        weights, anchor = slab.weights, slab.anchor
        pos = jax.nn.relu(farther(distance, slab.ap, b) + margin)
        neg = jax.nn.relu(farther(distance, b, slab.an) + margin)
        hinges = (pos > 0).astype(mat.dtype) + (neg > 0).astype(mat.dtype)
        active = jnp.sum(weights * hinges)
        if by_class:
            price = term(jnp.broadcast_to(nu * b, weights.shape), weights, active, anchor=anchor)
        else:
            price = reduced_term(nu * b * jnp.sum(weights), jnp.sum(weights))
        return {
            "margin_loss": term(pos + neg, weights, active, anchor=anchor),
            "beta_reg_loss": price,
        }

    return each_triplet(mined, mat, terms)
