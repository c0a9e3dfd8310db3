"""Histogram loss."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_similarity
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare, replicated
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, Pairs, Refs
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._bins import soft_histogram
from metricjax.losses._pairs import at_refs, pairs_of
from metricjax.losses._terms import reduced_term
from metricjax.tuples import as_pairs, check_mined


def _both_ways(mined, n, where) -> Pairs:
    """Pairs mined within a batch, in both orders.

    Pairs of an anchor are left out unless it has both positive and negative pairs.
    """
    name = "losses.histogram"
    check_mined(name, mined)
    pairs = replicated(as_pairs(mined, (n, n)))
    if any(x.shape != (n, n) for x in pairs):
        return pairs  # the loss raises the error
    there = (
        jnp.ones(n, bool)
        if where is None
        else replicated(jnp.asarray(where).astype(jnp.float32)) > 0
    )
    both = functools.reduce(jnp.logical_and, (exists(jnp.where(there, x, 0)) for x in pairs))
    once = (jnp.where(both[:, None], jnp.minimum(x, 1), 0) for x in pairs)
    return Pairs(*(jnp.maximum(x, x.T) for x in once))


@declare(own_mined=_both_ways)
def histogram(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    n_bins: int | None = None,
    delta: float | None = None,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Lowers the probability that a negative pair is more similar than a positive pair.

    .. math:: L = \sum_r h^-_r \sum_{q \le r} h^+_q

    The sums run over the bins of two soft histograms, each with sum 1: :math:`h^+` of the
    similarities of positive pairs, and :math:`h^-` of those of negative pairs. Each unordered pair
    counts once, if one of its two samples has both a positive and a negative.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.histogram(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        1.0000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: what to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. Repeats count once. Without `refs`, mined
            pairs become ``[N, N]`` masks, also if the loss is computed in blocks.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        n_bins: the number of equal intervals from similarity -1 to 1; 100 by default; static.
        delta: the width of a bin, ``2 / n_bins``, as an alternative to `n_bins`; static.
        distance: a similarity between -1 and 1.
        axis_name: the `jax.shard_map` or `pmap` axis that the anchors are spread over, if any. Sums
            over anchors then include the anchors of all devices, and without `refs`, the batches of
            all devices are the references.

    Returns:
        ``{"loss": []}``, already reduced; 0 if there are no positives or no negatives.

    Notes:
        - when: no margin to choose: the overlap of two histograms
        - miner: not needed
        - cost: NM
        - setting: default

    References:
        Ustinova and Lempitsky, `Learning Deep Embeddings with Histogram Loss
        <https://arxiv.org/abs/1611.00822>`_, 2016.
    """
    check_similarity("losses.histogram", distance)
    bins = _number_of_bins(n_bins, delta)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of("losses.histogram", batch, mined, match, repeats=False)
    both = exists(pairs.positive) & exists(pairs.negative)
    counted = both[:, None] | ((yield at_refs(batch, both)) > 0)[None, :]
    position = (distance(batch.embeddings, batch.refs.embeddings) + 1) * (bins / 2)

    def counts(weights):
        weights = jnp.where(counted, weights * batch.weights[:, None], 0)
        return jnp.sum(soft_histogram(position, weights, bins + 1), 0), jnp.sum(weights)

    of_positive, of_negative = yield counts(pairs.positive), counts(pairs.negative)
    positive, negative = safe_divide(*of_positive), safe_divide(*of_negative)
    return {"loss": reduced_term(jnp.sum(negative * jnp.cumsum(positive)))}


def _number_of_bins(n_bins, delta):
    bins = n_bins or (100 if delta is None else round(2 / delta))
    if bins < 1 or (delta is not None and abs(bins * delta - 2) > 1e-6 * delta):
        raise ValueError(
            f"losses.histogram: `delta` must be 2 / `n_bins` for a whole number of bins, got "
            f"n_bins={n_bins}, delta={delta}."
        )
    return bins
