"""SupAP loss of ROADMAP."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import Labels, LossDict, Match, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import pairs_of, with_itself
from metricjax.losses._terms import row_term
from metricjax.losses.rankings._steps import LateStep, exact_step


@declare(within={"temperature": "(0, inf)", "rho": "[0, inf)", "delta": "[0, inf)"})
def sup_ap(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    temperature: PerSample = 0.01,
    rho: Scalar = 100.0,
    delta: Scalar = 0.05,
    start: Scalar = 0.5,
    offset: Scalar | None = None,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Raises a lower bound of the average precision of each anchor's ranking.

    .. math::
        \ell_a = 1 - \frac{1}{|P_a|} \sum_{p \in P_a} \frac{r^+_p}
        {r^+_p + \sum_n H(s_{an} - s_{ap})} \qquad
        H(t) = \begin{cases} \sigma(t / \tau) & t \le 0 \\ c + \sigma(t / \tau) & 0 < t \le \delta
        \\ \rho (t - \delta) + b & t > \delta \end{cases}

    The rank among positives, :math:`r^+_p = |\{j \in P_a: s_{aj} \ge s_{ap}\}|`, is exact and has
    no gradient. By default, H is at least 1 where a negative is ahead, so the loss is never less
    than one minus the average precision. A negative far ahead keeps its gradient. An anchor that is
    among its references is one of its own positives. A loop takes one positive of every anchor at a
    time, in ``N * M`` memory. A reference of weight 2 counts as two copies.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.sup_ap(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.3783

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        temperature: tau, > 0: one number, or ``[N]``, one for each anchor.
        rho: slope of H for negatives far ahead.
        delta: how far ahead a negative is when the slope begins.
        start: c, what is added once a negative is ahead.
        offset: b; by default :math:`c + \sigma(\delta / \tau)`, which makes H continuous.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"ap_loss": [N]}``, divided by the number of anchors with a positive besides themselves.

    Notes:
        - when: average precision is the goal; better gradients than `smooth_ap`
        - miner: none taken
        - cost: NM, time NM × P
        - setting: plus `contrastive` of cosines, margins 0.9 and 0.6

    References:
        Ramzi et al., `Robust and Decomposable Average Precision for Image Retrieval
        <https://arxiv.org/abs/2110.01445>`_, 2021.
    """
    name = "losses.sup_ap"
    check_distance(name, distance, CosineSimilarity)
    late = LateStep(temperature, rho, delta, start, offset)
    batch = prepare(embeddings, labels, refs, where)
    positive, negative = pairs_of(name, batch, None, match)
    counted = jnp.where(exists(positive), batch.weights, 0)
    positive = with_itself(positive, batch.refs)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    columns = jnp.arange(mat.shape[1])[None, :]

    def precision_at(p, w):
        gap = mat - pick(mat, p)
        among_positives = jnp.sum(positive * exact_step(gap, columns == p[:, None]), 1)
        rank = among_positives + jnp.sum(negative * late(gap), 1)
        return w[:, 0] * safe_divide(among_positives, rank)

    precision = sum_over_positives(precision_at, positive)
    values = 1 - safe_divide(precision, jnp.sum(positive, 1))
    return {"ap_loss": row_term(values, counted)}
