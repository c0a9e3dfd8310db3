"""Miners that draw at random."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from metricjax._core.check import check_at_least, check_euclidean
from metricjax._core.refs import replicated, spread_as
from metricjax._core.types import Labels, Match, Pairs, Refs, Scalar, Triplets
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates


def distance_weighted(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    key: PRNGKeyArray,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    cutoff: Scalar = 0.5,
    nonzero_loss_cutoff: Scalar = 1.4,
    triplets_per_anchor: int | None = None,
    distance: LpDistance = LpDistance(),
) -> Triplets:
    r"""Draws triplets whose negatives are near and far alike, not all at the usual distance.

    .. math::
        P(n \mid a) \propto \frac{[\delta_{an} < d_{max}]}{q(\delta_{an})} \qquad
        q(\delta) = \delta^{D-2} \big(1 - \tfrac14 \delta^2\big)^{(D-3)/2} \qquad
        \delta_{an} = \max(d_{an}, d_{min})

    where q is the density of distances on the unit sphere. Positives are drawn uniformly; both are
    drawn independently and with replacement. Anchors that lack a positive, or a negative nearer
    than :math:`d_{max}`, have no triplets. The weights of each anchor are scaled by their own
    maximum, so that none vanishes because of a near pair of another anchor.

    By default an anchor has as many triplets as there are samples of its class among the
    references, itself included. How many that makes is unknown when the list is laid out, so it
    holds M places for each anchor, and the unused ones have weight 0. With `triplets_per_anchor`
    the list is that much shorter, and all classes have the same say.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), jnp.array([0, 0, 1])
        >>> mined = mj.miners.distance_weighted(x, y, key=jax.random.key(0))
        >>> print(mined.weights.reshape(3, 3))
        [[1. 1. 0.]
         [1. 1. 0.]
         [0. 0. 0.]]

    Args:
        embeddings: ``[N, D]``; only their directions matter.
        labels: ``[N]`` integers.
        key: a `jax.random.key`.
        refs: what to compare with; the batch itself by default.
        where: ``[N]``; samples of weight 0 are not there.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`. Positives
            and negatives are drawn in proportion to their weights.
        cutoff: :math:`d_{min}`; nearer negatives are drawn as if they were that far.
        nonzero_loss_cutoff: :math:`d_{max}`; negatives from that far on are not drawn.
        triplets_per_anchor: how many; static. By default as many as its class has members.
        distance: the Euclidean distance, at another matrix precision if need be.

    Returns:
        ``N * M`` `Triplets`, or ``N * triplets_per_anchor``; an anchor's next to each other.

    References:
        Wu et al., `Sampling Matters in Deep Embedding Learning
        <https://arxiv.org/abs/1706.07567>`_, 2017.
    """
    name = "miners.distance_weighted"
    check_euclidean(name, distance)
    if triplets_per_anchor is not None:
        check_at_least(name, "triplets_per_anchor", triplets_per_anchor, 1)
    pairs, mat = replicated(candidates(name, embeddings, labels, refs, where, match, distance))
    features, (n, m) = jnp.shape(embeddings)[1], mat.shape
    mat = jnp.maximum(mat, jax.lax.stop_gradient(cutoff))
    log_w = (2 - features) * jnp.log(mat) - (features - 3) / 2 * jnp.log(1 - mat**2 / 4)
    drawn = pairs.negative > 0
    drawn &= ~((mat >= nonzero_loss_cutoff) | (mat >= 2) | jnp.isinf(log_w))
    log_w = jnp.where(jnp.isnan(log_w), jnp.finfo(mat.dtype).max, log_w)  # drawn for certain
    top = jnp.max(log_w, 1, where=drawn, initial=-jnp.inf, keepdims=True)
    chances = pairs.positive, jnp.where(drawn, pairs.negative * jnp.exp(log_w - top), 0)
    size = m if triplets_per_anchor is None else triplets_per_anchor
    exists = jnp.any(pairs.positive > 0, 1) & jnp.any(drawn, 1)
    places = jnp.broadcast_to(exists[:, None], (n, size))
    if triplets_per_anchor is None:
        among_refs = refs is None or refs.self_index is not None
        members = jnp.sum(pairs.positive > 0, 1) + int(among_refs)
        places &= jnp.arange(m)[None, :] < members[:, None]
    columns = (_draw_columns(jax.random.fold_in(key, i), x, size) for i, x in enumerate(chances))
    anchor, weights = jnp.repeat(jnp.arange(n), size), places.astype(mat.dtype)
    return Triplets(anchor, *(x.ravel() for x in (*columns, weights)))


def _draw_columns(key, weights, size):
    """`size` columns of each row, in proportion to its weights and with replacement."""
    n, m = weights.shape
    if not weights.size:
        return jnp.zeros((n, size), int)
    total = jnp.where(weights > 0, jnp.cumsum(weights, 1), 0)
    total = jax.lax.cummax(total, 1)  # constant where the weight is 0, whatever was rounded
    at = jax.random.uniform(key, (n, size), weights.dtype) * total[:, -1:]
    column = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(total, at)
    return jnp.minimum(column, m - 1).astype(int)


def uniform_histogram(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    key: PRNGKeyArray,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    num_bins: int = 100,
    pos_per_bin: int = 10,
    neg_per_bin: int = 10,
    distance: Distance = LpDistance(),
) -> Pairs:
    r"""Draws as many pairs of every distance, from a histogram of the batch's distances.

    The range of distances is cut into bins of equal width, for positives and for negatives; from
    each bin that is not empty the same number of pairs is drawn, uniformly and with replacement. A
    bin holds :math:`e_i \le d < e_{i+1}`, the last one also its upper edge, and all pairs if they
    are equally far.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([0, 0, 0, 0])
        >>> line = mj.distances.LpDistance(normalize_embeddings=False)
        >>> key = jax.random.key(0)
        >>> mined = mj.miners.uniform_histogram(x, y, key=key, num_bins=2, distance=line)
        >>> near = line(x) < 4
        >>> print(mined.positive[near].sum(), mined.positive[~near].sum(), mined.negative.sum())
        10.0 10.0 0.0

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        key: a `jax.random.key`.
        refs: what to compare with; the batch itself by default.
        where: ``[N]``; samples of weight 0 are not there.
        match: a relation of labels other than equality; see `metricjax.tuples.all_pairs`.
        num_bins: how many bins; static.
        pos_per_bin: how many positives to draw from each; static.
        neg_per_bin: how many negatives to draw from each; static.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``: how often each was drawn, times its weight.
    """
    name = "miners.uniform_histogram"
    for option, value in (("pos_per_bin", pos_per_bin), ("neg_per_bin", neg_per_bin)):
        check_at_least(name, option, value, 0)
    check_at_least(name, "num_bins", num_bins, 1)
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    mat = replicated(-cost if distance.is_similarity else cost)

    def draw(i, weights, per_bin):
        key_of_kind = jax.random.fold_in(key, i)
        times = _draw_of_bins(key_of_kind, mat, replicated(weights), num_bins, per_bin)
        return weights * spread_as(times, weights)

    return Pairs(draw(0, pairs.positive, pos_per_bin), draw(1, pairs.negative, neg_per_bin))


def _draw_of_bins(key, values, weights, num_bins, per_bin):
    """How often each value is drawn; a NaN always is, so that the loss shows it."""
    n, m = values.shape
    if not values.size:
        return weights
    nan = jnp.isnan(values)
    bins = _bins(values, (weights > 0) & ~nan, num_bins)
    of_row = (num_bins + 1) * jnp.arange(n, dtype=bins.dtype)[:, None]
    rows = jnp.zeros(n * (num_bins + 1), bins.dtype).at[bins + of_row].add(1)
    rows = rows.reshape(n, num_bins + 1)[:, :num_bins]
    ends = jnp.cumsum(rows, 0, bins.dtype)  # how many a bin has in the rows so far
    counts = ends[-1]

    def one_of_each_bin(at):
        row = jnp.minimum(jnp.sum(ends <= at[None, :], 0, bins.dtype), n - 1)
        b = jnp.arange(num_bins, dtype=bins.dtype)
        rank = at - (ends - rows)[row, b]
        so_far = jnp.cumsum(bins[row] == b[:, None], 1, bins.dtype)
        return row, jnp.argmax(so_far > rank[:, None], 1)

    end = jnp.maximum(counts, 1)[None, :]
    at = jax.random.randint(key, (per_bin, num_bins), 0, end, bins.dtype)
    drawn = jax.lax.map(one_of_each_bin, at)
    times = jnp.zeros_like(weights).at[drawn].add((counts > 0).astype(weights.dtype)[None, :])
    return jnp.where(nan, 1, times)


def _bins(values, exists, num_bins):
    """The bin of each value; `num_bins` for those that do not exist."""
    low = jnp.min(values, where=exists, initial=jnp.inf)
    high = jnp.max(values, where=exists, initial=-jnp.inf)
    edges = jnp.linspace(low, high, num_bins + 1)
    bins = jnp.searchsorted(edges, values, side="right", method="scan_unrolled") - 1
    return jnp.where(exists, jnp.clip(bins, 0, num_bins - 1), num_bins)
