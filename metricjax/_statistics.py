"""Numbers for a progress bar or a logger."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import as_labels, check_weights
from metricjax._core.linear import sum_along, vary_along
from metricjax._core.masked import safe_divide, upcast
from metricjax._core.refs import spread_as
from metricjax._core.stream import fold
from metricjax._core.types import AxisName, LossDict, LossTerm, Mined, Pairs, Triplets
from metricjax.tuples import as_pairs, check_mined


def statistics(
    terms: LossDict,
    mined: Mined | None = None,
    distances: Float[Array, "n m"] | None = None,
    *,
    embeddings: Float[Array, "n d"] | None = None,
    labels: Int[Array, " n"] | None = None,
    num_classes: int | None = None,
    where: Num[Array, " n"] | None = None,
    axis_name: AxisName | None = None,
) -> dict[str, Float[Array, ""]]:
    """Reports what a loss and a miner did with a batch: a flat dict of scalars without gradient.

    Every count is a sum of weights: a pair that was mined twice counts twice. The smallest value,
    the largest value and the mean of nothing are 0.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), jnp.array([0, 0, 1])
        >>> distance = mj.distances.LpDistance()
        >>> terms = mj.losses.contrastive(x, y, distance=distance)
        >>> for name, value in mj.statistics(terms, mj.tuples.all_pairs(y), distance(x)).items():
        ...     print(f"{name} {value:.2f}")
        pos_loss_count 2.00
        pos_loss_non_zero 1.00
        neg_loss_count 4.00
        neg_loss_non_zero 0.50
        positive_pairs 2.00
        negative_pairs 4.00
        positive_distance_min 0.63
        positive_distance_mean 0.63
        positive_distance_max 0.63
        negative_distance_min 0.89
        negative_distance_mean 1.15
        negative_distance_max 1.41

    Args:
        terms: what a loss returned. Streamed terms take one more forward pass over their parts.
        mined: what a miner returned, or `tuples.all_pairs`.
        distances: ``[N, M]``, any distance or similarity of anchors and references; needs `mined`.
        embeddings: ``[N, D]``, embeddings whose Euclidean norms are reported.
        labels: ``[N]`` integers; the labels that belong to no class are counted. Needs
            `num_classes`.
        num_classes: the number of classes that a loss has weights for.
        where: ``[N]`` weights of the samples in `embeddings` and `labels`.
        axis_name: the `jax.shard_map` or `pmap` axis over which counts are summed and extremes are
            taken.

    Returns:
        For each term, ``_count``: how many elements it has, and ``_non_zero``: the share of the
        elements that are not 0. Terms that are already one number have neither. For `mined`,
        ``positive_pairs`` and ``negative_pairs``, or ``triplets``: how many were mined. For
        `distances`, ``positive_`` and ``negative_distance_min, _mean, _max`` over the mined pairs,
        or over both pairs of each triplet. For `embeddings`, ``norm_min, _mean, _max``. For
        `labels`, ``num_unknown``: how many samples have a label outside of ``[0, num_classes)``,
        and so do not count in a loss with class weights.
    """
    add = top = lambda x: x
    if axis_name is not None:
        add = lambda x: sum_along(x, axis_name)
        top = lambda x: jax.lax.pmax(vary_along(x, axis_name), axis_name)
    out: dict[str, Array] = {}
    for name, ratio in fold(terms, dict.fromkeys(terms, _count)).items():
        if isinstance(ratio, _Counted):
            non_zero, count = add(ratio)
            out |= {f"{name}_count": count, f"{name}_non_zero": safe_divide(non_zero, count)}
    pairs = _pairs_of(mined, distances)
    if isinstance(mined, Pairs):
        out |= {f"{kind}_pairs": add(_total(x)) for kind, x in mined._asdict().items()}
    elif mined is not None:  # each triplet of a rule is in one pair of each kind
        weights = mined.weights if isinstance(mined, Triplets) else pairs.positive
        out["triplets"] = add(_total(weights))
    if distances is not None:
        mat = jax.lax.stop_gradient(upcast(distances))
        for kind, weights in pairs._asdict().items():
            out |= _spread_of(f"{kind}_distance", mat, spread_as(weights, mat), add, top)
    rows = labels if embeddings is None else embeddings
    if rows is not None:
        check_weights("statistics", "where", where, "embeddings", len(rows))
    if embeddings is not None:
        norms = jnp.linalg.norm(upcast(embeddings), axis=1)
        weights = jnp.ones_like(norms) if where is None else where
        out |= _spread_of("norm", norms, spread_as(weights, norms), add, top)
    if (labels is None) != (num_classes is None):
        raise ValueError("statistics: `labels` and `num_classes` go together, got one of them.")
    if labels is not None and num_classes is not None:
        labels = as_labels("statistics", "labels", labels, "labels", None, class_ids=True)
        unknown = (labels < 0) | (labels >= num_classes)
        out["num_unknown"] = add(_total(unknown if where is None else jnp.where(unknown, where, 0)))
    return {name: jax.lax.stop_gradient(x) for name, x in out.items()}


class _Counted(NamedTuple):
    """The result of `_count`, which terms that are already one number do not go through."""

    non_zero: Array
    every: Array


def _spread_of(what, x, weights, add, top):
    """Returns the smallest, the mean and the largest of the values with a weight above 0."""
    weights = weights.astype(x.dtype)
    count, exists = add(_total(weights)), weights > 0
    low, high = top([jnp.max(x, where=exists, initial=-jnp.inf) for x in (-x, x)])
    low, high = (jnp.where(count > 0, x, 0) for x in (-low, high))
    mean = safe_divide(add(_total(jnp.where(exists, x * weights, 0))), count)
    return {f"{what}_min": low, f"{what}_mean": mean, f"{what}_max": high}


def _count(term: LossTerm) -> _Counted:
    return _Counted(_total(jnp.where(term.values == 0, 0, term.weights)), _total(term.weights))


def _pairs_of(mined, distances):
    """Returns the pairs in `mined`, or `None` if they are not needed."""
    if mined is None:
        if distances is not None:
            raise ValueError("statistics: `distances` need `mined`, the pairs to look at.")
        return None
    check_mined("statistics", mined)
    if distances is None:
        return None if isinstance(mined, Triplets) else as_pairs(mined)
    pairs = as_pairs(mined, distances.shape)
    if pairs.positive.shape != distances.shape:
        raise ValueError(
            f"statistics: `distances` must have shape {pairs.positive.shape} to match `mined`, "
            f"got {distances.shape}."
        )
    return pairs


def _total(x):
    return jnp.sum(x, dtype=jnp.float32)
