"""Histogram loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._check import check_similarity
from metricjax._chunks import whole_batch
from metricjax._masked import exists, safe_divide
from metricjax._refs import compare, prepare, replicated
from metricjax._types import Labels, LossDict, Match, Mined, Refs
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._bins import soft_histogram
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import reduced_term


@whole_batch("its histograms are of all pairs")
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
) -> LossDict:
    r"""How probably a negative pair is more similar than a positive one, by two histograms.

    .. math:: L = \sum_r h^-_r \sum_{q \le r} h^+_q

    with the soft histograms of the similarities of positive and negative pairs, each of sum 1. Each
    unordered pair counts once, if an end of it has both a positive and a negative. It needs the
    whole batch on every device.

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
        mined: the pairs that count; all of them by default. Repeats count once.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        n_bins: how finely similarities from -1 to 1 are told apart; 100 by default; static.
        delta: the width ``2 / n_bins`` of a bin, as another way to say it; static.
        distance: a similarity between -1 and 1.

    Returns:
        ``{"loss": []}``, already reduced; 0 without positives or negatives.

    References:
        Ustinova and Lempitsky, `Learning Deep Embeddings with Histogram Loss
        <https://arxiv.org/abs/1611.00822>`_, 2016.
    """
    check_similarity("losses.histogram", distance)
    bins = _number_of_bins(n_bins, delta)
    batch = prepare("losses.histogram", embeddings, labels, refs, where)
    pairs = pairs_of("losses.histogram", batch, mined, match, repeats=False)
    both = exists(pairs.positive) & exists(pairs.negative)
    symmetric = refs is None and mined is None and match is None
    counted = both[:, None] | replicated(both)[None, :] if symmetric else both[:, None]
    position = (compare(distance, batch) + 1) * (bins / 2)

    def density(weights):
        weights = replicated(jnp.where(counted, weights * batch.weights[:, None], 0))
        if refs is None and not symmetric:  # mined one way, perhaps, and counted once
            weights = jnp.maximum(weights, weights.T)
        return safe_divide(
            jnp.sum(soft_histogram(position, weights, bins + 1), 0), jnp.sum(weights)
        )

    positive, negative = density(pairs.positive), density(pairs.negative)
    return {"loss": reduced_term(jnp.sum(negative * jnp.cumsum(positive)))}


def _number_of_bins(n_bins, delta):
    bins = n_bins or (100 if delta is None else round(2 / delta))
    if bins < 1 or (delta is not None and abs(bins * delta - 2) > 1e-6 * delta):
        raise ValueError(
            f"losses.histogram: `delta` must be 2 / `n_bins` for a whole number of bins, got "
            f"n_bins={n_bins}, delta={delta}."
        )
    return bins
