"""NT-Xent (InfoNCE) loss."""

from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import CosineSimilarity, Distance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import pair_term, term


@declare(ring=True, within={"temperature": "(0, inf)"})
def ntxent(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    temperature: PerSample = 0.07,
    distance: Distance = CosineSimilarity(),
) -> Passes[LossDict]:
    r"""Pulls each positive closer than the negatives of its anchor: the loss of SimCLR and MoCo.

    .. math::
        \ell_{ap} = -\log \frac{e^{s_{ap}/\tau}}{e^{s_{ap}/\tau} + \sum_n e^{s_{an}/\tau}}

    The anchor's other positives are not in the denominator. A distance is used with its sign
    changed. A positive whose anchor has no negative has the value 0 and still counts in the
    divisor.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.ntxent(x, jnp.array([0, 0, 1]), temperature=0.5))
        >>> print(f"{loss:.4f}")
        1.4100

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined,
            also as a negative in the denominator.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        temperature: divides the similarities, > 0; or ``[N]``, one for each anchor.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [N, M]}``, divided by the number of positive pairs.

    Notes:
        - when: one positive, many negatives; self-supervision
        - miner: not needed
        - cost: NM
        - setting: `temperature=0.5`; the default is MoCo's

    References:
        van den Oord et al., `Representation Learning with Contrastive Predictive Coding
        <https://arxiv.org/abs/1807.03748>`_, 2018; Chen et al., `A Simple Framework for
        Contrastive Learning of Visual Representations <https://arxiv.org/abs/2002.05709>`_, 2020.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.ntxent", batch, mined, match)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    logits = farther(distance, 0, mat) / temperature
    negatives = yield OverRefs(LogSum(logsumexp(logits, pairs.negative)))
    values = softplus(negatives.log[:, None] - logits)
    return {"loss": pair_term(term, batch, values, pairs.positive)}
