"""From terms to one number, and whole recipes in one function."""

import functools
import inspect

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax import reducers as _reducers
from metricjax._chunks import needs_whole_batch, pure, takes
from metricjax._masked import safe_divide
from metricjax._refs import gather_refs
from metricjax._stream import fold
from metricjax._types import LossDict, Reducer


def reduce(
    terms: LossDict,
    reducer: Reducer | dict[str, Reducer] | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Reduces each term to a scalar and adds them up: what ``has_aux=True`` expects.

    .. math:: L = \\sum_t \\frac{\\text{total}_t}{\\text{count}_t}

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> terms = mj.losses.contrastive(jnp.eye(2), jnp.array([0, 0]))
        >>> print(mj.reduce(terms))
        (Array(1.4142135, dtype=float32), {'pos_loss': ..., 'neg_loss': ...})

    Args:
        terms: what a loss returned, possibly merged with others and with regularizers.
        reducer: one of `metricjax.reducers` for all terms, or a dict by term name; by default, and
            for names that the dict lacks, what the loss itself divides by.
        axis_name: totals and counts are summed over this `jax.shard_map` or `pmap` axis before
            they are divided, so that the result is that of one device.

    Returns:
        ``(loss, {name: scalar})``. A term without elements is 0, with gradient 0.
    """
    if not terms:
        raise ValueError("reduce: there are no terms.")
    if isinstance(reducer, dict):
        if unknown := reducer.keys() - terms.keys():
            raise ValueError(
                f"reduce: reducers for {sorted(unknown)}, but the terms are {sorted(terms)}."
            )
        chosen = {name: reducer.get(name, _reducers.divisor) for name in terms}
    else:
        chosen = dict.fromkeys(terms, reducer or _reducers.divisor)
    ratios = fold(terms, chosen)
    if axis_name is not None:
        ratios = jax.lax.psum(ratios, axis_name)
    parts = {
        name: total if count is None else safe_divide(total, count)
        for name, (total, count) in ratios.items()
    }
    return functools.reduce(jnp.add, parts.values()), parts


def merge(*terms: LossDict) -> LossDict:
    """Joins loss dicts as `|` does, but refuses to overwrite a name.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(2), jnp.array([0, 0])
        >>> print(sorted(mj.merge(mj.losses.contrastive(x, y), mj.regularizers.lp(x))))
        ['lp_reg', 'neg_loss', 'pos_loss']
    """
    out: LossDict = {}
    for some in terms:
        if clash := out.keys() & some.keys():
            raise ValueError(f"merge: terms {sorted(clash)} appear twice; rename one.")
        out |= some
    return out


def objective(
    loss,
    *,
    miner=None,
    reducer: Reducer | dict[str, Reducer] | None = None,
    embedding_regularizer=None,
    weight_regularizer=None,
    axis_name: str | None = None,
    **options,
):
    """Binds a whole recipe into one ``(embeddings, labels, *params, **data) -> (loss, parts)``.

    It is short for mining, the loss, ``|`` of the regularizers and `reduce`, in this order.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss_fn = mj.objective(
        ...     mj.losses.triplet_margin,
        ...     distance=mj.distances.CosineSimilarity(),
        ...     reducer=mj.reducers.threshold(high=0.3),
        ...     embedding_regularizer=mj.regularizers.lp,
        ... )
        >>> loss, parts = loss_fn(jnp.eye(4), jnp.array([0, 0, 1, 1]))
        >>> print(sorted(parts))
        ['embedding_reg_loss', 'loss']

    Args:
        loss: one of `metricjax.losses`, a `metricjax.nn` module, or any function of that shape.
        miner: ``(embeddings, labels, refs=, where=, ...) -> mined``, for instance from
            `metricjax.miners`; give its options with `functools.partial`.
        reducer: see `reduce`.
        embedding_regularizer: ``(embeddings, where=) -> LossDict``, as the term
            ``embedding_reg_loss``.
        weight_regularizer: applied to the first of `params`, as the term ``weight_reg_loss``.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over. References are
            gathered (for losses that need it, the whole batch is) and totals summed over it.
        **options: of the loss; their names are checked here, and `data` may override them.

    Returns:
        The bound function. Its `data` are keyword arguments of the loss (``refs``, ``where``,
        ``match``, ``mined``, options) and ``key`` for random miners.
    """
    _check_options(loss, options)

    def fn(embeddings, labels=None, *params, **data):
        key = data.pop("key", None)
        data = options | data
        _check_options(loss, data)
        if axis_name is not None and data.get("refs") is None:
            everything = gather_refs(embeddings, labels, axis_name, where=data.get("where"))
            if needs_whole_batch(loss):
                embeddings, labels = everything.embeddings, everything.labels
                data["where"] = everything.where
            elif takes(loss, "refs"):
                data["refs"] = everything
        if miner is not None:
            if data.get("mined") is not None:
                raise ValueError("objective: give either `miner` or `mined`.")
            shared = {n: data[n] for n in ("refs", "where", "match") if n in data}
            if key is not None:
                shared["key"] = key
            data["mined"] = miner(embeddings, labels, **shared)
        terms = loss(embeddings, labels, *params, **data)
        if embedding_regularizer is not None:
            rows = data.get("where")
            padding = {} if rows is None else {"where": rows}
            extra = embedding_regularizer(embeddings, **padding)
            terms = merge(terms, _named(extra, "embedding_reg_loss"))
        if weight_regularizer is not None:
            if not params:
                raise ValueError("objective: `weight_regularizer` needs class weights to act on.")
            terms = merge(terms, _named(weight_regularizer(params[0]), "weight_reg_loss"))
        return reduce(terms, reducer, axis_name=axis_name)

    return fn


def _check_options(loss, options):
    unknown = [option for option in options if not takes(loss, option)]
    if unknown:
        parameters = inspect.signature(pure(loss)).parameters.values()
        known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
        raise TypeError(
            f"objective: {pure(loss).__name__} has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known)}."
        )


def _named(terms, name):
    """A regularizer's term under the name it has in a recipe."""
    if len(terms) != 1:
        raise ValueError(f"objective: a regularizer must give one term, got {sorted(terms)}.")
    (term,) = terms.values()
    return {name: term}
