"""Neighborhood components analysis loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import Distance, LpDistance, farther
from metricjax.losses._pairs import mined_weights, pairs_of
from metricjax.losses._terms import row_term


@declare(mined="samples", ring=True)
def nca(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    softmax_scale: PerSample = 1.0,
    distance: Distance = LpDistance(power=2),
) -> Passes[LossDict]:
    r"""Pulls each anchor toward near samples of its class and pushes it away from other classes.

    .. math::
        \ell_a = -\log \frac{\sum_p e^{-\sigma d_{ap}}}{\sum_p e^{-\sigma d_{ap}}
        + \sum_n e^{-\sigma d_{an}}}

    The value is the negative log-probability that an anchor picks a neighbor of its own class, when
    nearer neighbors are more likely. A similarity is used with its sign changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.nca(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        1.4100

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        mined: each anchor is weighted by how often it was mined; see `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        softmax_scale: sigma, the factor of the distances; or ``[N]``, one for each anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors with a positive.

    Notes:
        - when: soft nearest neighbors
        - miner: weighs samples
        - cost: NM
        - setting: the paper's logarithmic form

    References:
        Goldberger et al., `Neighbourhood Components Analysis
        <https://www.cs.toronto.edu/~hinton/absps/nca.pdf>`_, 2004.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.nca", batch, None, match)
    weight = mined_weights("losses.nca", mined, batch, self_refs=refs is None)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    closeness = softmax_scale * farther(distance, 0, mat)
    own, others = yield OverRefs(tuple(LogSum(logsumexp(closeness, w)) for w in pairs))
    values = softplus(others.log - own.value)
    return {"loss": row_term(weight * values, jnp.where(own.exists, batch.weights, 0))}
