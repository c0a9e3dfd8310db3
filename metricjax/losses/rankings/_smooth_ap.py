"""Smooth-AP loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import mined_weights, pairs_of, with_itself
from metricjax.losses._terms import row_term


@declare(mined="samples", within={"temperature": "(0, inf)"})
def smooth_ap(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    temperature: PerSample = 0.01,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Raises the average precision of each anchor's ranking, computed with soft ranks.

    .. math::
        \ell_a = 1 - \frac{1}{|P_a|} \sum_{p \in P_a} \frac{R^+_{ap}}{R_{ap}} \qquad
        R_{ap} = 1 + \sum_{j \neq p} \sigma\Big(\frac{s_{aj} - s_{ap}}{\tau}\Big)

    where :math:`R^+` is the same sum over :math:`P_a` alone. An anchor that is among its references
    is one of its own positives. Classes may have any size and order. A loop takes one positive of
    every anchor at a time, in ``N * M`` memory.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.smooth_ap(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.2167

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: what to compare with; the batch itself by default.
        mined: weighs each sample by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        temperature: tau, the softness of the ranks, > 0: one number, or ``[N]``, one for each
            anchor.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"ap_loss": [N]}``, divided by the number of anchors with a positive besides themselves.

    Notes:
        - when: average precision is the goal; large classes
        - miner: weighs samples
        - cost: NM, time NM × P
        - setting: default

    References:
        Brown et al., `Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval
        <https://arxiv.org/abs/2007.12163>`_, 2020.
    """
    check_distance("losses.smooth_ap", distance, CosineSimilarity)
    batch = prepare(embeddings, labels, refs, where)
    positive, negative = pairs_of("losses.smooth_ap", batch, None, match)
    weight = mined_weights("losses.smooth_ap", mined, batch, self_refs=refs is None)
    counted = jnp.where(exists(positive), batch.weights, 0)
    positive = with_itself(positive, batch.refs)
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def precision_at(p, w):
        ahead = jax.nn.sigmoid((mat - pick(mat, p)) / temperature)  # 1/2 for p itself
        among_positives = 0.5 + jnp.sum(positive * ahead, 1)
        rank = among_positives + jnp.sum(negative * ahead, 1)
        return w[:, 0] * among_positives / rank

    precision = sum_over_positives(precision_at, positive)
    values = weight * (1 - safe_divide(precision, jnp.sum(positive, 1)))
    return {"ap_loss": row_term(values, counted)}
