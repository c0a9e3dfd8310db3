"""Ranked list loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import prepare
from metricjax._core.sums import OverRefs
from metricjax._core.types import Labels, LossDict, Match, Refs, Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term


@declare(ring=True, within={"imbalance": "[0, 1]"})
def ranked_list(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    margin: Scalar = 0.4,
    Tn: Scalar = 10.0,
    imbalance: Scalar = 0.5,
    alpha: Scalar | None = None,
    Tp: Scalar = 0.0,
    distance: Distance = LpDistance(),
) -> Passes[LossDict]:
    r"""Pushes negatives out of a sphere around the anchor, and pulls positives into a smaller one.

    .. math::
        \ell_a = (1 - \lambda) \frac{\sum_p e^{T_p (d_{ap} - \alpha + m)} (d_{ap} - \alpha + m)}
        {\epsilon M + \sum_p e^{T_p (d_{ap} - \alpha + m)}}
        + \lambda \frac{\sum_n e^{T_n (\alpha - d_{an})} (\alpha - d_{an})}
        {\epsilon M + \sum_n e^{T_n (\alpha - d_{an})}}

    The sums run over the positives with :math:`d_{ap} > \alpha - m` and the negatives with
    :math:`d_{an} < \alpha`, and :math:`\epsilon = 10^{-5}`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.ranked_list(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.6047

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: what to compare with; the batch itself by default.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        margin: m, the gap between the two spheres. The defaults of `margin` and `Tn` are the
            paper's.
        Tn: how much more near negatives weigh; with 0 all weigh the same.
        imbalance: lambda, the share of the negatives in the loss, 0 to 1.
        alpha: the radius of the larger sphere, ``1 + margin / 2`` by default.
        Tp: how much more far positives weigh; with 0 all weigh the same.
        distance: pairwise distance, not a similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors, including those without pairs.

    Notes:
        - when: spheres around anchors keep some variety within a class
        - miner: none taken
        - cost: NM
        - setting: default

    References:
        Wang et al., `Ranked List Loss for Deep Metric Learning <https://arxiv.org/abs/1903.03238>`_,
        2019.
    """
    if distance.is_similarity:
        raise TypeError("losses.ranked_list: `distance` must be a distance, not a similarity.")
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.ranked_list", batch, None, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    outer = 1 + margin / 2 if alpha is None else alpha

    def sums(excess, weights, temperature):
        out = (excess <= 0) | (weights == 0)
        excess = jnp.where(out, 0, excess)
        weights = jnp.where(out, 0, weights * jnp.exp(temperature * excess))
        return jnp.sum(weights * excess, 1), jnp.sum(weights, 1)

    pos, neg, refs_met = yield OverRefs(
        (
            sums(mat - (outer - margin), pairs.positive, Tp),
            sums(outer - mat, pairs.negative, Tn),
            jnp.sum(batch.ref_weights),
        )
    )
    mean = lambda total, weight: safe_divide(total, weight + 1e-5 * refs_met)
    return {"loss": row_term((1 - imbalance) * mean(*pos) + imbalance * mean(*neg), batch.weights)}
