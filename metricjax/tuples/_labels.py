"""All pairs and random triplets, from labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num, PRNGKeyArray

from metricjax._core.check import as_labels, check_at_least, check_rows, check_weights
from metricjax._core.refs import replicated, self_refs
from metricjax._core.types import Labels, Match, Pairs, Refs, Triplets
from metricjax.tuples._lists import places


def all_pairs(
    labels: Labels,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
) -> Pairs:
    """Returns all positive and all negative pairs; an anchor is never paired with itself.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import tuples
        >>> print(tuples.all_pairs(jnp.array([0, 0, 1])).positive)
        [[0. 1. 0.]
         [1. 0. 0.]
         [0. 0. 0.]]

    Args:
        labels: ``[N]`` integers, or any pytree of arrays with leading axis N that `match` takes.
        refs: what the anchors are compared with; the batch itself by default. The embeddings are
            not used.
        where: ``[N]`` weights of the anchors, and of the references if they are the batch itself.
            A loss multiplies by its own `where`, so pass fractions here or there, not to both.
        match: ``match(labels, refs.labels) -> [N, M]``, boolean or soft (0 to 1); equal integers
            match by default.

    Returns:
        Float `Pairs` ``[N, M]``: the products of the match (or its complement) and the weights.
    """
    return _all_pairs("tuples.all_pairs", labels, refs, where, match)


def _all_pairs(name, labels, refs, where, match):
    """Computes all pairs; error messages name the public function `name`."""
    if labels is None:
        raise ValueError(f"{name}: `labels` are needed.")
    labels = as_labels(name, "labels", labels, "labels", None)
    one = jax.tree.leaves(labels)[0]
    check_weights(name, "where", where, "labels", len(one))
    if refs is None:
        refs = self_refs(one, labels, where)
    elif refs.labels is not None:
        theirs = as_labels(name, "refs.labels", refs.labels, "refs.labels", None)
        check_weights(
            name, "refs.where", refs.where, "refs.labels", len(jax.tree.leaves(theirs)[0])
        )
        refs = refs._replace(labels=theirs)
    pairs = label_pairs(name, labels, refs, match, jnp.float32)
    if where is None:
        return pairs
    return Pairs(*(x * jnp.asarray(where).astype(x.dtype)[:, None] for x in pairs))


def random_triplets(
    key: PRNGKeyArray,
    labels: Labels,
    per_anchor: int | None = None,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    negative_weights: Num[Array, "n m"] | None = None,
) -> Triplets:
    """Draws `per_anchor` random triplets of each anchor, uniformly and with replacement.

    The positive and the negative of a triplet are drawn independently, each with a probability
    proportional to the weight of its pair.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax import tuples
        >>> labels = jnp.array([0, 0, 1])
        >>> triplets = tuples.random_triplets(jax.random.key(0), labels, per_anchor=2)
        >>> print(triplets.positive, triplets.weights)
        [1 1 0 0 0 0] [1. 1. 1. 1. 0. 0.]

    Args:
        key: a `jax.random.key`.
        labels, refs, where, match: as in `all_pairs`.
        per_anchor: how many triplets to draw for each anchor; static. By default as many as there
            are samples of its class among the references, itself included. Then the list has M
            places for each anchor, and unused places have weight 0.
        negative_weights: ``[N, M]``, at least 0: factors of the negatives' probabilities, such as a
            function of the distance. Uniform by default.

    Returns:
        ``N * per_anchor`` `Triplets` (or ``N * M``). Those of an anchor are adjacent. Anchors that
        lack a positive or a negative have weight 0.
    """
    if per_anchor is not None:
        check_at_least("tuples.random_triplets", "per_anchor", per_anchor, 0)
    pairs = replicated(_all_pairs("tuples.random_triplets", labels, refs, where, match))
    if negative_weights is not None:
        weights = replicated(negative_weights)
        if weights.shape != pairs.negative.shape:
            raise ValueError(
                f"tuples.random_triplets: `negative_weights` must have shape "
                f"{pairs.negative.shape}, got {weights.shape}."
            )
        negative = jnp.where(pairs.negative > 0, pairs.negative * weights.astype(jnp.float32), 0)
        pairs = pairs._replace(negative=negative)
    n, m = pairs.positive.shape
    size = m if per_anchor is None else per_anchor

    def draw(key, weights):
        if not weights.size:
            return jnp.zeros(n * size, jnp.int32)
        one_each = lambda key: jax.random.categorical(key, jnp.log(weights))
        return jax.lax.map(one_each, jax.random.split(key, size)).T.ravel()

    exists = jnp.any(pairs.positive > 0, 1) & jnp.any(pairs.negative > 0, 1)
    used = places(exists, pairs.positive, per_anchor, refs)
    positive, negative = (draw(jax.random.fold_in(key, i), x) for i, x in enumerate(pairs))
    anchor = jnp.repeat(jnp.arange(n), size)
    return Triplets(anchor, positive, negative, used.ravel().astype(jnp.float32))


def label_pairs(function, labels, refs: Refs, match: Match | None, dtype) -> Pairs:
    """Returns all pairs from labels, times the references' weights, for a public `function`."""
    if labels is None or refs.labels is None:
        raise ValueError(f"{function}: labels are needed on both sides when `mined` is not given.")
    others = refs.labels
    if match is None:
        for name, y in ("labels", labels), ("refs.labels", others):
            check_rows(function, name, y, name, y.shape[0], class_ids=True)
        same = labels[:, None] == others[None, :]
    else:
        same = match(labels, others)
        shape = tuple(jax.tree.leaves(x)[0].shape[0] for x in (labels, others))
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
