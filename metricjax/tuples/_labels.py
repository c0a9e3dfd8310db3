"""All pairs, from labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from metricjax._core.check import check_rows
from metricjax._core.refs import self_refs
from metricjax._core.types import Labels, Match, Pairs, Refs


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
        for name, y in ("labels", labels), ("refs.labels", refs.labels):
            check_rows(function, name, y, name, len(y), class_ids=True)
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
