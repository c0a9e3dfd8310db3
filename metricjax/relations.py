"""Relations between labels, other than equality: functions for `match=`.

A relation maps the labels of N anchors and M references to a matrix ``[N, M]`` of how much they
match, from 0 to 1; what is missing to 1 makes a negative pair of it. Labels are then whatever the
relation takes, an array or a pytree of arrays with one row for each sample.

    >>> import jax.numpy as jnp, metricjax as mj
    >>> tags = jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    >>> terms = mj.losses.sup_con(jnp.eye(3), tags, match=mj.relations.overlap)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from metricjax._core.masked import safe_divide
from metricjax._core.types import Match


def intersects(labels: Num[Array, "n l"], others: Num[Array, "m l"]) -> Bool[Array, "n m"]:
    """Whether two samples share a label.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> tags = jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
        >>> print(mj.relations.intersects(tags, tags).astype(int))
        [[1 1 0]
         [1 1 0]
         [0 0 1]]

    Args:
        labels, others: ``[N, L]``, ``[M, L]``, not 0 where a sample has a label.
    """
    return _shared(labels, others) > 0


def overlap(labels: Num[Array, "n l"], others: Num[Array, "m l"]) -> Float[Array, "n m"]:
    r"""The share of labels that two samples have in common, of those that either has.

    .. math:: m_{ij} = \frac{|L_i \cap L_j|}{|L_i \cup L_j|}

    Two samples without labels do not match.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> tags = jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
        >>> print(mj.relations.overlap(tags, tags))
        [[1.  0.5 0. ]
         [0.5 1.  0. ]
         [0.  0.  1. ]]

    Args:
        labels, others: ``[N, L]``, ``[M, L]``, not 0 where a sample has a label.

    References:
        Jaccard, The Distribution of the Flora in the Alpine Zone, 1912,
        https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
    """
    shared = _shared(labels, others)
    own, theirs = (jnp.sum(x != 0, 1).astype(shared.dtype) for x in (labels, others))
    return safe_divide(shared, own[:, None] + theirs[None, :] - shared)


def hierarchical(level_weights: Float[Array, " l"] | tuple[float, ...]) -> Match:
    r"""Samples match as far as their classes agree, from the coarsest level down.

    .. math:: m_{ij} = \frac{\sum_{l \le \lambda} w_l}{\sum_l w_l}

    with :math:`\lambda` the finest level up to which all agree. Equal weights make siblings of two
    levels match by half.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> kinds = jnp.array([[0, 0], [0, 1], [1, 1]])  # genus, species
        >>> print(mj.relations.hierarchical((1.0, 1.0))(kinds, kinds))
        [[1.  0.5 0. ]
         [0.5 1.  0. ]
         [0.  0.  1. ]]

    Args:
        level_weights: ``[L]``, how much agreement at each level is worth; may be traced.

    Returns:
        A relation of labels ``[N, L]`` and ``[M, L]``, integers, coarsest level first.

    References:
        The idea of weighing by level: Zhang et al., `Use All The Labels: A Hierarchical Multi-Label
        Contrastive Learning Framework <https://arxiv.org/abs/2204.13207>`_, 2022.
    """
    weights = jnp.asarray(level_weights, jnp.float32)

    def match(labels: Int[Array, "n l"], others: Int[Array, "m l"]) -> Float[Array, "n m"]:
        levels = len(weights)
        if labels.shape[1:] != (levels,) or others.shape[1:] != (levels,):
            raise ValueError(
                f"relations.hierarchical: labels must have shape [N, {levels}] for {levels} "
                f"weights, got {labels.shape} and {others.shape}."
            )
        shared = shared_levels(labels, others)
        worth = (jnp.where(shared > level, weights[level], 0) for level in range(levels))
        return sum(worth, jnp.zeros(shared.shape, weights.dtype)) / jnp.sum(weights)

    return match


def shared_levels(labels: Int[Array, "n l"], others: Int[Array, "m l"]) -> Int[Array, "n m"]:
    """Counts the levels that two samples share, from the coarsest level down.

    This is a count and not a share: for `match=`, use `hierarchical`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> kinds = jnp.array([[0, 0], [0, 1], [1, 1]])  # genus, species
        >>> print(mj.relations.shared_levels(kinds, kinds))
        [[2 1 0]
         [1 2 0]
         [0 0 2]]

    Args:
        labels, others: ``[N, L]``, ``[M, L]`` integers, coarsest level first.
    """
    if jnp.ndim(labels) != 2 or jnp.ndim(others) != 2 or labels.shape[1] != others.shape[1]:
        raise ValueError(
            f"relations.shared_levels: `labels` and `others` must have shapes [N, L] and [M, L], "
            f"got {jnp.shape(labels)} and {jnp.shape(others)}."
        )
    agree = jnp.ones((labels.shape[0], others.shape[0]), bool)
    count = jnp.zeros(agree.shape, jnp.int32)
    for level in range(labels.shape[1]):
        agree &= labels[:, None, level] == others[None, :, level]
        count += agree.astype(count.dtype)
    return count


def _shared(labels, others):
    """How many labels two samples have in common."""
    has = lambda x: (x != 0).astype(jnp.float32)
    return jnp.matmul(has(labels), has(others).T)
