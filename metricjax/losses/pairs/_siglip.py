"""Pairwise sigmoid loss, the loss of SigLIP."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import softplus
from metricjax._core.refs import prepare
from metricjax._core.sums import OfAnchors
from metricjax._core.types import Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import CosineSimilarity, Distance, farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import pair_term, term


@declare(ring=True)
def siglip(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    scale: Scalar = 10.0,
    bias: Scalar = -10.0,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    distance: Distance = CosineSimilarity(),
) -> Passes[LossDict]:
    r"""Pulls positives and pushes negatives, each pair on its own, by logistic regression.

    .. math::
        \ell_{ap} = \log\big(1 + e^{-(t s_{ap} + b)}\big) \qquad
        \ell_{an} = \log\big(1 + e^{t s_{an} + b}\big)

    For two towers, pass the texts as `refs`, with the labels of their images: for example
    ``jnp.arange(N)`` for both. A distance is used with its sign changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(3), jnp.arange(3)
        >>> loss, parts = mj.reduce(mj.losses.siglip(x, y, refs=mj.Refs(x, y)))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        0.6932 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        scale: t; learnable. The paper learns its logarithm, which `metricjax.nn.SigLIP` owns.
        bias: b; learnable.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        distance: pairwise distance or similarity.

    Returns:
        ``{"pos_loss": [N, M], "neg_loss": [N, M]}``, each divided by the number of anchors, as in
        the paper.

    Notes:
        - when: images and texts in large batches; every pair counts on its own
        - miner: not needed
        - cost: NM
        - setting: default, with scale and bias learned by `nn.SigLIP`

    References:
        Zhai et al., `Sigmoid Loss for Language Image Pre-Training
        <https://arxiv.org/abs/2303.15343>`_, 2023.
    """
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.siglip", batch, mined, match)
    logits = scale * farther(distance, 0, distance(batch.embeddings, batch.refs.embeddings)) + bias
    anchors = yield OfAnchors(jnp.sum(batch.weights))
    by_anchor = lambda values, weights, **rows: term(values, weights, anchors, **rows)
    return {
        "pos_loss": pair_term(by_anchor, batch, softplus(-logits), pairs.positive),
        "neg_loss": pair_term(by_anchor, batch, softplus(logits), pairs.negative),
    }
