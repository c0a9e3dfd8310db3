"""Dynamic soft margin loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_at_least, check_euclidean
from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import prepare, take
from metricjax._core.types import AxisName, Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import LpDistance
from metricjax.losses._bins import soft_histogram
from metricjax.losses._pairs import TripletSlab, sum_over_triplets, triplets_of
from metricjax.losses._terms import reduced_term


@declare(within={"momentum": "[0, 1]"})
def dynamic_soft_margin(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    histogram: Float[Array, " b"] | None = None,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    min_val: Scalar = -2.0,
    num_bins: int = 10,
    momentum: Scalar = 0.01,
    distance: LpDistance = LpDistance(),
    axis_name: AxisName | None = None,
) -> Passes[LossDict | tuple[LossDict, Float[Array, " b"]]]:
    r"""Pulls positives closer than negatives, weighting triplets by how many were easier lately.

    .. math::
        L = \frac1T \sum_{apn} \mathrm{CDF}(u_{apn}) \, u_{apn} \qquad u_{apn} = d_{ap} - d_{an}

    The distribution of :math:`u` is a running histogram, through which no gradient flows. Without
    labels, reference i is the positive of anchor i. The negative is either the other reference
    nearest to the anchor or the other anchor nearest to the reference, whichever is nearer.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 0, 1])
        >>> terms, state = mj.losses.dynamic_soft_margin(x, y, histogram=jnp.zeros(10))
        >>> print(f"{mj.reduce(terms)[0]:.4f} {state.sum():.4f}")
        0.5178 1.0000

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` or `refs` is given.
        histogram: ``[num_bins]``, the state: zeros at the start, then the histogram that the
            previous call returned. `metricjax.nn.DynamicSoftMargin` owns it.
        refs: references to compare with; the batch itself by default.
        mined: the triplets that count: those of a miner or of `tuples.random_triplets`, or `Pairs`.
            `Pairs` stand for all triplets of a positive and a negative pair with the same anchor.
            All triplets by default. A triplet counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        min_val: lower end of the histogram of :math:`u`, < 0. The upper end is as far above 0.
            Values beyond the ends count in the bins at the ends.
        num_bins: number of bins of the histogram, at least 2; static.
        momentum: weight of a new batch in the histogram, 0 to 1.
        distance: the Euclidean `LpDistance` of normalized embeddings, to any `power`.
        axis_name: the `jax.shard_map` or `pmap` axis over which the anchors are spread, if any.
            Sums over all anchors then include all devices along it. Without `refs`, the batches of
            all these devices are the references.

    Returns:
        ``{"loss": []}``, already reduced: the sum over the triplets, divided by their number. With
        `histogram`, a tuple of this dict and the new histogram, which sums to 1. In a batch without
        triplets the histogram does not change.

    Notes:
        - when: local descriptors; no margin to choose
        - miner: not needed
        - cost: NM, time NM × P
        - setting: without labels

    References:
        Zhang and Rusinkiewicz, `Learning Local Descriptors With a CDF-Based Dynamic Soft Margin
        <https://openaccess.thecvf.com/content_ICCV_2019/papers/Zhang_Learning_Local_Descriptors_With_a_CDF-Based_Dynamic_Soft_Margin_ICCV_2019_paper.pdf>`_,
        2019.
    """
    name = "losses.dynamic_soft_margin"
    check_euclidean(name, distance, any_power=True)
    check_at_least(name, "num_bins", num_bins, 2)
    batch = prepare(embeddings, labels, refs, where)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    if labels is None and mined is None and refs is not None:
        over = _aligned(name, batch, mat)
    else:
        triplets = triplets_of(name, batch, mined, match)
        over = lambda fn: sum_over_triplets(triplets, mat, fn)

    state = jnp.zeros(num_bins, mat.dtype) if histogram is None else histogram
    if state.shape != (num_bins,):
        raise ValueError(f"{name}: `histogram` must have shape ({num_bins},), got {state.shape}.")
    low = jnp.asarray(min_val, mat.dtype)
    position = lambda u: (u - low) * num_bins / (2 * jnp.abs(low))

    def counts(slab: TripletSlab):
        u = jax.lax.stop_gradient(jnp.atleast_2d(slab.ap - slab.an))
        weights = jnp.atleast_2d(slab.weights)
        return jnp.sum(soft_histogram(position(u), weights, num_bins), 0)

    fresh = yield over(counts)
    state = jax.lax.stop_gradient(_updated(state.astype(mat.dtype), fresh, momentum))
    cdf = jnp.cumsum(state)

    def total(slab: TripletSlab):
        u = slab.ap - slab.an
        k = jnp.clip(jnp.floor(position(jax.lax.stop_gradient(u))), 0, num_bins - 2)
        values = jnp.where(slab.weights > 0, take(cdf, k.astype(jnp.int32)) * u, 0)
        return jnp.sum(slab.weights * values), jnp.sum(slab.weights)

    terms: LossDict = {"loss": reduced_term(*(yield over(total)))}
    return terms if histogram is None else (terms, state.astype(histogram.dtype))


def _updated(state, counts, momentum):
    """Returns the histogram after a batch, unchanged if the batch had no triplets."""
    fresh = jnp.where(jnp.sum(state) > 0, jnp.asarray(momentum, state.dtype), 1)
    mixed = (1 - fresh) * state + fresh * counts
    return jnp.where(jnp.sum(counts) > 0, safe_divide(mixed, jnp.sum(mixed)), state)


def _aligned(name, batch, mat):
    """Makes a triplet of each anchor i, reference i, and the nearest other row of either side."""
    n, m = mat.shape
    if n != m:
        raise ValueError(
            f"{name}: without labels there must be as many `refs`, and no chunks, got {n} and {m}."
        )
    own = jnp.eye(n, dtype=bool)
    exists = (batch.weights[:, None] > 0) & (batch.refs.where[None, :] > 0)
    far = jnp.where(~own & exists, mat, jnp.inf)
    nearest = jnp.minimum(jnp.min(far, 1, initial=jnp.inf), jnp.min(far, 0, initial=jnp.inf))
    some = nearest < jnp.inf
    weights = jnp.where(some, batch.weights * batch.refs.where, 0)
    index = jnp.arange(n)
    slab = TripletSlab(
        jnp.sum(jnp.where(own, mat, 0), 1), jnp.where(some, nearest, 0), weights, index, index, None
    )
    return lambda fn: fn(slab)
