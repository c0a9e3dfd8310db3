"""Pairs and triplets from lists of indices."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from metricjax._core.check import as_indices, check_weights
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
        shape: ``(N, M)``; pairs with an index outside of it, or a negative one, are left out.
        where_positive, where_negative: weights, 0 for padding; 1 each by default.
    """
    positive = _count(shape, ("a1", a1), ("p", p), ("where_positive", where_positive))
    negative = _count(shape, ("a2", a2), ("n", n), ("where_negative", where_negative))
    return Pairs(positive, negative)


def _count(shape, anchors, others, where):
    function, of, count = "tuples.from_pairs", anchors[0], len(anchors[1])
    rows, columns = (as_indices(function, *x, of, count) for x in (anchors, others))
    check_weights(function, *where, of, count)
    weights = where[1]
    weights = jnp.float32(1) if weights is None else jnp.asarray(weights).astype(jnp.float32)
    rows, columns = (jnp.where(i < 0, n, i) for i, n in zip((rows, columns), shape, strict=True))
    return jnp.zeros(shape, jnp.float32).at[rows, columns].add(weights, mode="drop")


def from_triplets(
    a: Int[Array, " t"],
    p: Int[Array, " t"],
    n: Int[Array, " t"],
    where: Num[Array, " t"] | None = None,
) -> Triplets:
    """Triplets from index lists: anchors `a`, references `p` and `n`; `where` is 0 for padding.

    Where one of the three is negative, or no row of the batch or of the references that the loss
    meets, there is no triplet.
    """
    function, count = "tuples.from_triplets", len(a)
    check_weights(function, "where", where, "a", count)
    weights = jnp.ones(count, jnp.float32) if where is None else jnp.asarray(where)
    sides = ("a", a), ("p", p), ("n", n)
    a, p, n = (as_indices(function, name, x, "a", count) for name, x in sides)
    return Triplets(a, p, n, weights.astype(jnp.float32))


def places(exists, positive, size: int | None, refs) -> Num[Array, "n s"]:
    """Which of the places for each anchor's triplets are used: all `size`, if the anchor has any.

    Without a `size` there are M, and as many are used as there are samples of the anchor's class
    among the references, itself included.
    """
    n, m = positive.shape
    used = jnp.broadcast_to(exists[:, None], (n, m if size is None else size))
    if size is not None:
        return used
    among_refs = refs is None or refs.self_index is not None
    members = jnp.sum(positive > 0, 1) + int(among_refs)
    return used & (jnp.arange(m)[None, :] < members[:, None])


def there(triplets: Triplets, n: int, m: int) -> Triplets:
    """Triplets of N anchors and M references: weight 0, and row 0, where a sample is none of them.

    A gather would take the last row for an index that is too large, and count a negative one from
    the end.
    """
    inside = lambda index, size: (index >= 0) & (index < size)
    anchor, positive, negative, _ = triplets
    real = inside(anchor, n) & inside(positive, m) & inside(negative, m)
    return Triplets(*(jnp.where(real, x, 0) for x in triplets))
