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
    """Makes `Pairs` from index lists: positives ``(a1, p)``, negatives ``(a2, n)``; repeats add up.

    Args:
        a1, a2: indices of anchors.
        p, n: indices of references.
        shape: ``(N, M)``; pairs with an index outside of it, or a negative index, are left out.
        where_positive, where_negative: weights, 0 for padding; all 1 by default.
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
    """Makes `Triplets` from index lists: anchors `a`, references `p` and `n`.

    `where` holds weights, 0 for padding. A triplet is ignored if one of its indices is negative, or
    too large for the batch or the references that are passed to the loss.
    """
    function, count = "tuples.from_triplets", len(a)
    check_weights(function, "where", where, "a", count)
    weights = jnp.ones(count, jnp.float32) if where is None else jnp.asarray(where)
    sides = ("a", a), ("p", p), ("n", n)
    a, p, n = (as_indices(function, name, x, "a", count) for name, x in sides)
    return Triplets(a, p, n, weights.astype(jnp.float32))


def places(exists, positive, size: int | None, refs) -> Num[Array, "n s"]:
    """Says which of the places for each anchor's triplets are used.

    An anchor without triplets uses no place. Any other anchor uses all its `size` places. Without
    `size` it has M places, and uses as many as there are samples of its class among the
    references, itself included.
    """
    n, m = positive.shape
    used = jnp.broadcast_to(exists[:, None], (n, m if size is None else size))
    if size is not None:
        return used
    among_refs = refs is None or refs.self_index is not None
    members = jnp.sum(positive > 0, 1) + int(among_refs)
    return used & (jnp.arange(m)[None, :] < members[:, None])


def there(triplets: Triplets, n: int, m: int) -> Triplets:
    """Gives triplets weight 0 and row 0 if a row does not exist among N anchors and M references.

    A gather would take the last row for an index that is too large, and count a negative index from
    the end.
    """
    inside = lambda index, size: (index >= 0) & (index < size)
    anchor, positive, negative, _ = triplets
    real = inside(anchor, n) & inside(positive, m) & inside(negative, m)
    return Triplets(*(jnp.where(real, x, 0) for x in triplets))
