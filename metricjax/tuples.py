"""Which pairs and triplets count: from labels, from lists of indices, and from each other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from metricjax._check import check_labels, check_rows
from metricjax._refs import replicated, self_refs
from metricjax._stream import sum_over
from metricjax._triplets import triplets_at, walk_positives
from metricjax._types import Labels, Match, Mined, Pairs, Refs, TripletRule, Triplets


def all_pairs(
    labels: Labels,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
) -> Pairs:
    """Every positive and every negative pair; an anchor is never paired with itself.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import tuples
        >>> print(tuples.all_pairs(jnp.array([0, 0, 1])).positive)
        [[0. 1. 0.]
         [1. 0. 0.]
         [0. 0. 0.]]

    Args:
        labels: ``[N]`` integers, or any pytree of arrays with leading axis N that `match` takes.
        refs: what the anchors are compared with; the batch itself by default. Its embeddings are
            not looked at.
        where: ``[N]`` weights of the anchors, and of the references where these are the batch.
            A loss multiplies by its own `where`: give fractions here or there, not to both.
        match: ``match(labels, refs.labels) -> [N, M]``, boolean or soft (0 to 1); equal integers
            match by default.

    Returns:
        Float `Pairs` ``[N, M]``: the products of match (or its complement) and weights.
    """
    name = "tuples.all_pairs"
    if labels is None:
        raise ValueError(f"{name}: `labels` are needed.")
    one = jax.tree.leaves(labels)[0]
    check_rows(name, "where", where, "labels", len(one))
    if refs is None:
        refs = self_refs(one, labels, where)
    pairs = label_pairs(name, labels, refs, match, jnp.float32)
    if where is None:
        return pairs
    return Pairs(*(x * where.astype(x.dtype)[:, None] for x in pairs))


def label_pairs(function, labels, refs: Refs, match: Match | None, dtype) -> Pairs:
    """All pairs of the public `function`'s labels, times the references' weights."""
    if labels is None or refs.labels is None:
        raise ValueError(f"{function}: labels are needed on both sides when `mined` is not given.")
    if match is None:
        check_labels(function, "labels", labels, "embeddings", len(labels))
        check_labels(function, "refs.labels", refs.labels, "refs.embeddings", len(refs.labels))
        same = labels[:, None] == refs.labels[None, :]
    else:
        same = match(labels, refs.labels)
        shape = tuple(len(jax.tree.leaves(x)[0]) for x in (labels, refs.labels))
        if same.shape != shape:
            raise ValueError(f"{function}: `match` must give shape {shape}, got {same.shape}.")
    check_rows(function, "refs.self_index", refs.self_index, "labels", same.shape[0])
    check_rows(function, "refs.where", refs.where, "refs.labels", same.shape[1])
    exists = jnp.ones(same.shape[1:], dtype) if refs.where is None else refs.where.astype(dtype)
    exists = jnp.broadcast_to(exists[None, :], same.shape)
    if refs.self_index is not None:
        other = refs.self_index[:, None] != jnp.arange(same.shape[1])[None, :]
        exists = jnp.where(other, exists, 0)
    same = same.astype(dtype)
    return Pairs(same * exists, (1 - same) * exists)


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
    for name, x, of, like in (
        ("p", p, "a1", a1), ("where_positive", where_positive, "a1", a1),
        ("n", n, "a2", a2), ("where_negative", where_negative, "a2", a2),
    ):  # fmt: skip
        check_rows("tuples.from_pairs", name, x, of, len(like))
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


def random_triplets(
    key: PRNGKeyArray,
    labels: Labels,
    per_anchor: int,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
) -> Triplets:
    """`per_anchor` random triplets of each anchor, drawn uniformly and with replacement.

    The positive and the negative of a triplet are drawn independently, each with a probability
    proportional to its pair's weight.

    Args:
        key: a `jax.random.key`.
        labels, refs, where, match: as in `all_pairs`.
        per_anchor: how many; static.

    Returns:
        ``N * per_anchor`` `Triplets`, an anchor's next to each other; weight 0 for anchors that
        lack a positive or a negative.
    """
    pairs = replicated(all_pairs(labels, refs, where, match))
    n = len(pairs.positive)

    def draw(key, weights):
        if not weights.size:
            return jnp.zeros(n * per_anchor, jnp.int32)
        one_each = lambda key: jax.random.categorical(key, jnp.log(weights))
        return jax.lax.map(one_each, jax.random.split(key, per_anchor)).T.ravel()

    exists = jnp.any(pairs.positive > 0, 1) & jnp.any(pairs.negative > 0, 1)
    return Triplets(
        anchor=jnp.repeat(jnp.arange(n), per_anchor),
        positive=draw(jax.random.fold_in(key, 0), pairs.positive),
        negative=draw(jax.random.fold_in(key, 1), pairs.negative),
        weights=jnp.repeat(exists, per_anchor).astype(jnp.float32),
    )


def as_pairs(mined: Mined, shape: tuple[int, int] | None = None) -> Pairs:
    """The pairs in `mined`, each with the number of triplets that contain it as its weight.

    Args:
        mined: what a miner returned. `Pairs` come back as they are.
        shape: ``(N, M)``; needed for a list of `Triplets`, which does not know it.
    """
    if isinstance(mined, Pairs):
        return mined
    if isinstance(mined, Triplets):
        if shape is None:
            raise ValueError("tuples.as_pairs: `shape` (N, M) is needed for a list of triplets.")
        anchor, positive, negative, weights = mined
        return from_pairs(
            anchor, positive, anchor, negative,
            shape=shape, where_positive=weights, where_negative=weights,
        )  # fmt: skip
    walk, columns = walk_positives(mined.positive), jnp.arange(mined.positive.shape[1])

    def slab(k):
        j, kept = triplets_at(mined, walk, k)
        here = j[:, None] == columns[None, :]
        return Pairs(jnp.where(here, jnp.sum(kept, 1, keepdims=True), 0), kept)

    return sum_over(slab, walk.steps)


def sample_weights(
    mined: Mined, n: int, *, self_refs: bool = True, dtype=jnp.float32
) -> Float[Array, " n"]:
    """How often each sample occurs in `mined`, relative to the one that occurs most.

    All 1 when nothing was mined. So a miner weighs the samples of a loss that has no pairs.

    Args:
        mined: what a miner returned.
        n: how many samples there are.
        self_refs: the references are the batch itself, so occurrences as a reference count too.
        dtype: of the result.
    """
    if isinstance(mined, Triplets):
        count = lambda index: jnp.zeros(n, dtype).at[index].add(mined.weights.astype(dtype))
        as_anchor = count(mined.anchor)
        as_reference = count(mined.positive) + count(mined.negative)
    else:
        triplets = isinstance(mined, TripletRule)  # an anchor is in each once, not in two pairs
        positive, negative = (x.astype(dtype) for x in as_pairs(mined))
        as_anchor = jnp.sum(positive, 1) + (0 if triplets else jnp.sum(negative, 1))
        as_reference = jnp.sum(positive, 0) + jnp.sum(negative, 0)
    counts = as_anchor + as_reference if self_refs else as_anchor
    most = jnp.max(counts, initial=0)
    return jnp.where(most > 0, counts / jnp.where(most > 0, most, 1), 1)


def check_mined(function, mined):
    if not isinstance(mined, Pairs | Triplets | TripletRule):
        raise TypeError(
            f"{function}: `mined` must be what a miner or `metricjax.tuples` returns, "
            f"got {type(mined).__name__}."
        )
