"""PNP loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice, check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import Labels, LossDict, Match, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import pairs_of, with_itself
from metricjax.losses._terms import reduced_term


@declare(within={"b": "(0, inf)", "anneal": "(0, inf)"})
def pnp(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    b: Scalar = 2.0,
    alpha: Scalar = 1.0,
    anneal: PerSample = 0.01,
    variant: str = "O",
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Penalizes the negatives that are ranked before a positive.

    .. math::
        \ell_a = \frac{1}{|P_a|} \sum_p f(R_{ap}) \qquad
        R_{ap} = \sum_n \sigma\Big(\frac{s_{an} - s_{ap}}{\tau}\Big)

    An anchor that is among its references is one of its own positives. A loop takes one positive of
    every anchor at a time, in ``N * M`` memory.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.pnp(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        0.5000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: what to compare with; the batch itself by default.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        b: of variant ``"Ib"``, > 0.
        alpha: of variant ``"Dq"``; the paper uses 8.
        anneal: tau, the softness of the ranks, > 0: one number, or ``[N]``, one for each anchor.
        variant: :math:`f(R)`, static. ``"O"``: :math:`R`; ``"Ds"``: :math:`\log(1 + R)`; ``"Dq"``:
            :math:`1 - (1 + R)^{-\alpha}`; ``"Iu"``: :math:`(1 + R) \log(1 + R)`; ``"Ib"``:
            :math:`(b R - \log(1 + b R)) / b^2`.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": []}``, already reduced: the sum over the anchors that have a positive besides
        themselves, divided by the number of these anchors.

    Notes:
        - when: only negatives ranked before a positive matter
        - miner: none taken
        - cost: NM, time NM × P
        - setting: `variant="Dq", alpha=8.0`

    References:
        Li et al., `Rethinking the Optimization of Average Precision: Only Penalizing Negative
        Instances before Positive Ones is Enough <https://arxiv.org/abs/2102.04640>`_, 2021.
    """
    check_distance("losses.pnp", distance, CosineSimilarity)
    check_choice("losses.pnp", "variant", variant, ("Ds", "Dq", "Iu", "Ib", "O"))
    batch = prepare(embeddings, labels, refs, where)
    positive, negative = pairs_of("losses.pnp", batch, None, match)
    counted = jnp.where(exists(positive), batch.weights, 0)
    positive = with_itself(positive, batch.refs)
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def penalty(before):
        if variant == "O":
            return before
        if variant == "Ds":
            return jnp.log1p(before)
        if variant == "Dq":
            return 1 - (1 + before) ** -alpha
        if variant == "Iu":
            return (1 + before) * jnp.log1p(before)
        return (b * before - jnp.log1p(b * before)) / b**2

    def at_positive(p, w):
        before = jnp.sum(negative * jax.nn.sigmoid((mat - pick(mat, p)) / anneal), 1)
        return w[:, 0] * penalty(before)

    values = safe_divide(sum_over_positives(at_positive, positive), jnp.sum(positive, 1))
    values = jnp.where(counted > 0, values, 0)
    return {"loss": reduced_term(jnp.sum(counted * values), jnp.sum(counted))}
