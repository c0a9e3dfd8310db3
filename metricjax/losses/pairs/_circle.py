"""Circle loss."""

import jax
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import active_term


@declare(ring=True)
def circle(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    m: PerSample = 0.4,
    gamma: PerSample = 80.0,
    distance: CosineSimilarity = CosineSimilarity(),
) -> Passes[LossDict]:
    r"""Pulls positives and pushes negatives, weighted by how far each pair is from its optimum.

    .. math::
        \ell_a = \log\Big(1 + \sum_p e^{-\gamma \alpha_p (s_{ap} - 1 + m)}
                 \sum_n e^{\gamma \alpha_n (s_{an} - m)}\Big) \qquad
        \alpha_p = [1 + m - s_{ap}]_+, \; \alpha_n = [s_{an} + m]_+

    No gradient flows through the weights :math:`\alpha`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.circle(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        94.4000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair that was mined twice counts once.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        m: relaxation; the paper uses 0.25 for faces and 0.4 for retrieval; or ``[N]``, one for each
            anchor.
        gamma: scale; the paper uses 256 for faces and 80 for retrieval; or ``[N]``, one for each
            anchor.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors with a value above 0. The value is 0 for
        anchors that lack positives or negatives.

    Notes:
        - when: retrieval and faces; pairs far from their optimum weigh more
        - miner: not needed
        - cost: NM
        - setting: default; for faces `m=0.25, gamma=256.0`

    References:
        Sun et al., `Circle Loss: A Unified Perspective of Pair Similarity Optimization
        <https://arxiv.org/abs/2002.10857>`_, 2020.
    """
    check_distance("losses.circle", distance, CosineSimilarity)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.circle", batch, mined, match, repeats=False)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    now = jax.lax.stop_gradient(mat)
    pos = LogSum(logsumexp(-gamma * jax.nn.relu(1 + m - now) * (mat - (1 - m)), pairs.positive))
    neg = LogSum(logsumexp(gamma * jax.nn.relu(now + m) * (mat - m), pairs.negative))
    pos, neg = yield OverRefs((pos, neg))
    values = softplus(pos.log + neg.log)
    return {"loss": active_term(values, batch.weights, anchor_weights=batch.weights)}
