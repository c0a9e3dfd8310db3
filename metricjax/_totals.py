"""Totals and counts of micro-batches, which add up to the loss of the whole batch.

A loss is a total divided by a count. Both are sums over anchors, so they can be added up over parts
of the batch, but only before the division. This does not hold for a loss that first sums over all
anchors, and then computes something else from the sum: parts would give a wrong value without any
sign of it. The records of the losses say which losses these are. `totals` raises for them.
"""

import functools

import jax.numpy as jnp

from metricjax._compose import chosen_reducers
from metricjax._core.record import record_of
from metricjax._core.stream import fold
from metricjax._core.types import LossDict, LossTerm, Reducer


def totals(loss, reducer: Reducer | dict[str, Reducer] | None = None):
    """Returns a loss whose terms add up over micro-batches and are then divided by `reduce`.

    .. math:: L = \\frac{\\sum_k \\text{total}_k}{\\sum_k \\text{count}_k}

    This is the loss of the whole batch. The mean of the losses of the micro-batches is not, because
    their counts differ.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> x, weights = jnp.eye(4, 3), jnp.eye(2, 3)
        >>> y, where = jnp.array([0, 1, 1, 0]), jnp.array([1, 1, 1, 0])  # the last is padding
        >>> loss = mj.totals(mj.losses.normalized_softmax)
        >>> micro = lambda rows: loss(x[rows], y[rows], weights, where=where[rows])
        >>> parts = micro(slice(0, 2)), micro(slice(2, 4))
        >>> print(f"{mj.reduce(jax.tree.map(jnp.add, *parts))[0]:.4f}")
        0.2310
        >>> print(f"{mj.reduce(mj.losses.normalized_softmax(x, y, weights, where=where))[0]:.4f}")
        0.2310

    Args:
        loss: any loss of `metricjax.losses` that is a sum over anchors, or a function with the same
            arguments and result.
        reducer: see `reduce`. Call `reduce` without a reducer afterwards.

    Returns:
        A function with the arguments of `loss`. Each of its terms is one number: add the terms up
        with ``jax.tree.map(jnp.add, ...)``. A loss that compares with references needs ``refs``:
        the references that every anchor of the whole batch meets.

    Raises:
        ValueError: the parts would not add up, because the loss first sums over all anchors, a term
            is one number without a divisor, or ``refs`` are missing. `embed_in_chunks` takes any
            loss.
    """
    record = record_of(loss)
    instead = "Use `embed_in_chunks`, which takes any loss."
    if record.needs_whole_batch() or record.sums_over_anchors:
        why = record.why or "it sums over the whole batch before it goes on"
        raise ValueError(
            f"totals: `loss` must be a sum over anchors, got losses.{record.name}: {why}. {instead}"
        )

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **data) -> LossDict:
        if record.has("refs") and data.get("refs") is None:
            raise ValueError(
                f"totals: `refs` of losses.{record.name} must be what every anchor of the whole "
                f"batch meets, got None: a micro-batch alone has only its own pairs. {instead}"
            )
        terms = loss(embeddings, labels, *params, **data)
        if not isinstance(terms, dict):
            raise TypeError(
                f"totals: `loss` must return its terms, got {type(terms).__name__}. Give the loss "
                f"itself, without `objective` or `reduce`."
            )
        for name, term in terms.items():
            if isinstance(term, LossTerm) and term.values.ndim == 0 and term.divisor is None:
                raise ValueError(
                    f"totals: terms must have values or a divisor, got {name!r}, which is one "
                    f"number already, and does not say of how many. {instead}"
                )
        ratios = fold(terms, chosen_reducers("totals", terms, reducer))
        return {name: LossTerm(x, jnp.ones_like(x), count) for name, (x, count) in ratios.items()}

    return fn
