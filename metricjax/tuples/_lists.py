"""Pairs and triplets from lists of indices."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from metricjax._core.check import check_rows
from metricjax._core.types import Pairs, Triplets


def from_pairs(
    a1: Int[Array, " t"],
    p: Int[Array, " t"],
    a2: Int[Array, " u"],
    n: Int[Array, " u"],
    *,
    shape: tuple[int, int],
    where_positive: Num[Array, " t"] | None = None,
    where_negative: Num[Array, " u"] | None = None,
) -> Pairs:
    """Pairs from index lists: positives ``(a1, p)``, negatives ``(a2, n)``; repeats add up.

    Args:
        a1, a2: indices of anchors.
        p, n: indices of references.
        shape: ``(N, M)``; pairs with an index outside of it are left out.
        where_positive, where_negative: weights, 0 for padding; 1 each by default.
    """
    check_rows("tuples.from_pairs", "p", p, "a1", len(a1))
    check_rows("tuples.from_pairs", "where_positive", where_positive, "a1", len(a1))
    check_rows("tuples.from_pairs", "n", n, "a2", len(a2))
    check_rows("tuples.from_pairs", "where_negative", where_negative, "a2", len(a2))
    return Pairs(_count(shape, a1, p, where_positive), _count(shape, a2, n, where_negative))


def _count(shape, rows, columns, weights):
    weights = jnp.float32(1) if weights is None else jnp.asarray(weights).astype(jnp.float32)
    rows, columns = (jnp.where(i < 0, n, i) for i, n in zip((rows, columns), shape, strict=True))
    return jnp.zeros(shape, jnp.float32).at[rows, columns].add(weights, mode="drop")


def from_triplets(
    a: Int[Array, " t"],
    p: Int[Array, " t"],
    n: Int[Array, " t"],
    where: Num[Array, " t"] | None = None,
) -> Triplets:
    """Triplets from index lists: anchors `a`, references `p` and `n`; `where` is 0 for padding."""
    weights = jnp.ones(jnp.shape(a), jnp.float32) if where is None else jnp.asarray(where)
    for name, x in (("p", p), ("n", n), ("where", weights)):
        check_rows("tuples.from_triplets", name, x, "a", len(a))
    return Triplets(jnp.asarray(a), jnp.asarray(p), jnp.asarray(n), weights.astype(jnp.float32))
