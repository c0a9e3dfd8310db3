"""Supervised contrastive loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import logsumexp, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.sums import LogSum, OverRefs
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import active_term


@declare(ring=True, within={"temperature": "(0, inf)"})
def sup_con(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    temperature: PerSample = 0.1,
    threshold: Scalar | None = None,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Pulls each anchor toward all its positives and pushes it away from its negatives.

    .. math::
        \ell_a = -\frac{1}{|P_a|} \sum_p \log \frac{e^{s_{ap} / \tau}}
        {\sum_{j \in P_a \cup N_a} e^{s_{aj} / \tau}}

    The denominator contains all references, positives included. A distance is used with its sign
    changed. With a soft `match` (`metricjax.relations`), each positive is weighted by how much it
    matches, and the sum is divided by the sum of these weights. With a `threshold`, only references
    that match at least that much are positives, and the sum is divided by their number: this is
    MultiSupCon.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.sup_con(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        5.3466

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair that was mined twice counts once.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        temperature: divides the similarities, > 0; or ``[N]``, one for each anchor.
        threshold: the smallest soft `match` of a positive, at least 0. With 0, all references are
            positives.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis over which the anchors are spread, if any.
            Sums over all anchors then include all devices along it. Without `refs`, the batches of
            all these devices are the references.

    Returns:
        ``{"loss": [N]}``, divided by the number of anchors with a value above 0. All values are 0
        in a batch without any negative pair.

    Notes:
        - when: labels with several positives for each anchor
        - miner: not needed
        - cost: NM
        - setting: default

    References:
        Khosla et al., `Supervised Contrastive Learning <https://arxiv.org/abs/2004.11362>`_, 2020;
        Zhang and Wu, `Multi-Label Supervised Contrastive Learning
        <https://arxiv.org/abs/2402.01613>`_, 2024.
    """
    batch = prepare(embeddings, labels, refs, where)
    positive, negative = pairs_of("losses.sup_con", batch, mined, match, repeats=False)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    logits = farther(distance, 0, mat) / temperature
    everything = LogSum(logsumexp(logits, positive + negative))
    count = positive
    if threshold is not None:
        counts = positive + negative  # the weights of the references, without the anchor itself
        count = jnp.where(positive >= threshold * counts, counts, 0)
        positive = jnp.where(count > 0, positive, 0)
    sums = everything, jnp.sum(positive * logits, 1), jnp.sum(positive, 1), jnp.sum(count, 1)
    everything, total, matches, count = yield OverRefs(sums)
    negatives = yield jnp.sum(negative * batch.weights[:, None])
    some = (count > 0) & (negatives > 0)
    values = jnp.where(some, safe_divide(matches * everything.value - total, count), 0)
    return {"loss": active_term(values, batch.weights, anchor_weights=batch.weights)}
