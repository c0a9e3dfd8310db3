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
    r"""Judges each pair on its own, by logistic regression on its similarity.

    .. math::
        \ell_{ap} = \log\big(1 + e^{-(t s_{ap} + b)}\big) \qquad
        \ell_{an} = \log\big(1 + e^{t s_{an} + b}\big)

    Between two towers give the texts as references, labelled as their images are, say both by
    ``jnp.arange(N)``. A distance is used with its sign changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(3), jnp.arange(3)
        >>> loss, parts = mj.reduce(mj.losses.siglip(x, y, refs=mj.Refs(x, y)))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        0.6932 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        scale: t, learnable; the paper learns its logarithm. `metricjax.nn.SigLIP` owns it.
        bias: b, learnable.
        refs: what to compare with; the batch itself by default.
        mined: the pairs that count; all of them by default. Repeats count repeatedly.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        distance: pairwise distance or similarity.

    Returns:
        ``{"pos_loss": [N, M], "neg_loss": [N, M]}``, each divided by the number of anchors, as in
        the paper.

    Notes:
        - when: image and text in large batches; every pair on its own
        - miner: not needed
        - cost: NM
        - setting: default, learned by `nn.SigLIP`

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
