"""Union and intersection of the results of several miners."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metricjax._core.triplets import pick
from metricjax._core.types import Mined, Pairs, TripletRule, Triplets
from metricjax.tuples._convert import as_pairs, check_mined


def union(*mined: Mined, shape: tuple[int, int] | None = None) -> Pairs | TripletRule:
    """Joins what any of several miners picks, with the largest of the weights.

    Rules of the same batch are joined into a rule for the triplets that any of them picks.
    Anything else is joined as pairs; see `as_pairs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import Pairs, tuples
        >>> one = Pairs(jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 1.0]]))
        >>> two = Pairs(jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[0.0, 0.0, 0.0]]))
        >>> print(*tuples.union(one, two))
        [[2. 1. 0.]] [[0. 0. 1.]]

    Args:
        *mined: what the miners returned for the same anchors and references.
        shape: ``(N, M)``; needed if all are lists of `Triplets`, which do not contain it.
    """
    return _join("tuples.union", mined, shape, jnp.maximum, _any_keeps)


def intersection(*mined: Mined, shape: tuple[int, int] | None = None) -> Pairs | TripletRule:
    """Joins what all of several miners pick, with the smallest of the weights.

    Rules of the same batch are joined into a rule for the triplets that all of them pick.
    Anything else is joined as pairs; see `as_pairs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import Pairs, tuples
        >>> one = Pairs(jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 1.0]]))
        >>> two = Pairs(jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[0.0, 0.0, 0.0]]))
        >>> print(*tuples.intersection(one, two))
        [[1. 0. 0.]] [[0. 0. 0.]]

    Args:
        *mined: what the miners returned for the same anchors and references.
        shape: ``(N, M)``; needed if all are lists of `Triplets`, which do not contain it.
    """
    return _join("tuples.intersection", mined, shape, jnp.minimum, _all_keep)


def _join(function, mined, shape, pick_weight, keep):
    if not mined:
        raise ValueError(f"{function}: there is nothing to join.")
    for one in mined:
        check_mined(function, one)
    shapes = {x.shape for one in mined if not isinstance(one, Triplets) for x in one[:2]}
    if shape is not None:
        shapes.add(tuple(shape))
    if len(shapes) > 1:
        raise ValueError(
            f"{function}: all must be of the same anchors and references, "
            f"got shapes {', '.join(map(str, sorted(shapes)))}."
        )
    weights = lambda *x: functools.reduce(pick_weight, (y.astype(jnp.float32) for y in x))
    if all(isinstance(one, TripletRule) for one in mined):
        keeps = tuple(one.keep for one in mined)
        parts = tuple((one.positive, one.negative, one.rows) for one in mined)
        pairs = (Pairs(one.positive, one.negative) for one in mined)
        keep = jax.tree_util.Partial(keep, keeps)
        return TripletRule(*jax.tree.map(weights, *pairs), parts, keep)
    return jax.tree.map(weights, *(as_pairs(one, next(iter(shapes), None)) for one in mined))


def _any_keeps(keeps, parts, j) -> Array:
    return functools.reduce(jnp.logical_or, map(_kept, keeps, parts, [j] * len(keeps)))


def _all_keep(keeps, parts, j) -> Array:
    return functools.reduce(jnp.logical_and, map(_kept, keeps, parts, [j] * len(keeps)))


def _kept(keep, part, j):
    positive, negative, rows = part
    return (pick(positive, j) > 0) & (negative > 0) & keep(rows, j)
