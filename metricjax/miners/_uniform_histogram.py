"""Uniform histogram miner."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from metricjax._core.check import check_at_least
from metricjax._core.refs import replicated, spread_as
from metricjax._core.types import Labels, Match, Pairs, Refs
from metricjax.distances import Distance, LpDistance
from metricjax.miners._all import candidates, miner


@miner()
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
    r"""Draws the same number of pairs from each bin of a histogram of the batch's distances.

    The range of distances is divided into bins of equal width, separately for positives and for
    negatives. From each bin that is not empty the same number of pairs is drawn, uniformly and with
    replacement. Bin i holds :math:`e_i \le d < e_{i+1}`. The last bin also holds its upper edge.
    If all distances are equal, the last bin holds all pairs.

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
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; samples of weight 0 are ignored.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        num_bins: how many bins; static.
        pos_per_bin: how many positives to draw from each bin; static.
        neg_per_bin: how many negatives to draw from each bin; static.
        distance: pairwise distance or similarity.

    Returns:
        `Pairs` ``[N, M]``: how often each pair was drawn, times its weight.
    """
    name = "miners.uniform_histogram"
    for option, value in (("pos_per_bin", pos_per_bin), ("neg_per_bin", neg_per_bin)):
        check_at_least(name, option, value, 0)
    check_at_least(name, "num_bins", num_bins, 1)
    pairs, cost = candidates(name, embeddings, labels, refs, where, match, distance)
    mat = replicated(-cost if distance.is_similarity else cost)

    def draw(i, weights, per_bin):
        key_of_kind = jax.random.fold_in(key, i)
        times = _draw(key_of_kind, mat, replicated(weights), num_bins, per_bin)
        return weights * spread_as(times, weights)

    return Pairs(draw(0, pairs.positive, pos_per_bin), draw(1, pairs.negative, neg_per_bin))


def _draw(key, values, weights, num_bins, per_bin):
    """Returns how often each value is drawn; a NaN always is, so that the loss shows it."""
    n, m = values.shape
    if not values.size:
        return weights
    nan = jnp.isnan(values)
    bins = _bins(values, (weights > 0) & ~nan, num_bins)
    of_row = (num_bins + 1) * jnp.arange(n, dtype=bins.dtype)[:, None]
    rows = jnp.zeros(n * (num_bins + 1), bins.dtype).at[bins + of_row].add(1)
    rows = rows.reshape(n, num_bins + 1)[:, :num_bins]
    ends = jnp.cumsum(rows, 0, bins.dtype)  # how many values each bin has in the rows so far
    counts = ends[-1]

    def one_of_each_bin(at):
        row = jnp.minimum(jnp.sum(ends <= at[None, :], 0, bins.dtype), n - 1)
        b = jnp.arange(num_bins, dtype=bins.dtype)
        rank = at - (ends - rows)[row, b]
        so_far = jnp.cumsum(bins[row] == b[:, None], 1, bins.dtype)
        return row, jnp.argmax(so_far > rank[:, None], 1)

    at = jax.random.randint(
        key, (per_bin, num_bins), 0, jnp.maximum(counts, 1)[None, :], bins.dtype
    )
    drawn = jax.lax.map(one_of_each_bin, at)
    times = jnp.zeros_like(weights).at[drawn].add((counts > 0).astype(weights.dtype)[None, :])
    return jnp.where(nan, 1, times)


def _bins(values, exists, num_bins):
    """Returns the bin of each value, or `num_bins` if the value does not exist."""
    low = jnp.min(values, where=exists, initial=jnp.inf)
    high = jnp.max(values, where=exists, initial=-jnp.inf)
    edges = jnp.linspace(low, high, num_bins + 1)
    bins = jnp.clip(
        jnp.searchsorted(edges, values, side="right", method="scan_unrolled") - 1, 0, num_bins - 1
    )
    return jnp.where(exists, bins, num_bins)
