"""From terms to one number, and whole recipes in one function."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax import reducers as _reducers
from metricjax._core.linear import sum_along
from metricjax._core.masked import safe_divide
from metricjax._core.record import bound, record_of
from metricjax._core.refs import axis_names, gather_refs, gather_same, numbered
from metricjax._core.stream import fold
from metricjax._core.types import AxisName, LossDict, Reducer, Refs, Scalar


def reduce(
    terms: LossDict,
    reducer: Reducer | dict[str, Reducer] | None = None,
    *,
    weights: dict[str, Scalar] | None = None,
    axis_name: AxisName | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Reduces each term to a scalar and adds them up: what ``has_aux=True`` expects.

    .. math:: L = \\sum_t w_t \\frac{\\text{total}_t}{\\text{count}_t}

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> terms = mj.losses.contrastive(jnp.eye(2), jnp.array([0, 0]))
        >>> print(mj.reduce(terms))
        (Array(1.4142135, dtype=float32), {'pos_loss': ..., 'neg_loss': ...})

    Args:
        terms: what a loss returned, possibly merged with others and with regularizers.
        reducer: one of `metricjax.reducers` for all terms, or a dict by term name; by default, and
            for names that the dict lacks, what the loss itself divides by.
        weights: factors by term name, 1 for names that it lacks; may be traced.
        axis_name: totals and counts are summed over this `jax.shard_map` or `pmap` axis before
            they are divided, so that the result is that of one device.

    Returns:
        ``(loss, {name: scalar})``, the scalars before `weights`. A term without elements is 0,
        with gradient 0.
    """
    if not isinstance(terms, dict):
        state = ": a loss that is given a state returns (terms, state)"
        raise TypeError(
            f"reduce: `terms` must be the dict that a loss returns, got {type(terms).__name__}"
            f"{state if isinstance(terms, tuple) else ''}."
        )
    if not terms:
        raise ValueError("reduce: there are no terms.")
    if weights is not None:
        _check_names("reduce", "weights", weights, terms)
    chosen: dict[str, Reducer] = dict.fromkeys(terms, _reducers.divisor)
    if reducer is not None:
        _check_functions("reduce", "metricjax.reducers.avg_non_zero", reducer=reducer)
        chosen = chosen_reducers("reduce", terms, reducer)
    ratios = fold(terms, chosen)
    if axis_name is not None:
        ratios = sum_along(ratios, axis_name)
    parts = {
        name: total if count is None else safe_divide(total, count)
        for name, (total, count) in ratios.items()
    }
    weighted = (parts[name] * (weights or {}).get(name, 1) for name in parts)
    return functools.reduce(jnp.add, weighted), parts


def chosen_reducers(function, terms, reducer) -> dict[str, Reducer]:
    """The reducer of each term."""
    _check_names(function, "reducers", reducer, terms)
    if isinstance(reducer, dict):
        return {name: reducer.get(name, _reducers.divisor) for name in terms}
    return dict.fromkeys(terms, reducer or _reducers.divisor)


def _check_names(function, what, by_name, terms):
    if isinstance(by_name, dict) and (unknown := by_name.keys() - terms.keys()):
        raise ValueError(
            f"{function}: {what} for {sorted(unknown)}, but the terms are {sorted(terms)}."
        )


def merge(*terms: LossDict, **named: LossDict) -> LossDict:
    """Joins loss dicts as `|` does, but refuses to overwrite a name.

    Loss dicts given by keyword get it as a prefix, so that several losses fit together; `reduce`
    weighs them:

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(2), jnp.array([0, 0])
        >>> print(sorted(mj.merge(mj.losses.contrastive(x, y), mj.regularizers.lp(x))))
        ['lp_reg', 'neg_loss', 'pos_loss']
        >>> both = mj.merge(near=mj.losses.contrastive(x, y), rank=mj.losses.fast_ap(x, y))
        >>> loss, parts = mj.reduce(both, weights={"rank_loss": 0.5})
        >>> print(sorted(parts))
        ['near_neg_loss', 'near_pos_loss', 'rank_loss']
    """
    prefixed = [{f"{by}_{name}": some[name] for name in some} for by, some in named.items()]
    out: LossDict = {}
    for some in (*terms, *prefixed):
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
    axis_name: AxisName | None = None,
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
            ``embedding_reg_loss``. If it returns several terms, ``embedding_reg_loss_`` is put
            before their names. One that takes `axis_name` or `key` gets them.
        weight_regularizer: applied to the first of `params`, or to a module's weights, as the term
            ``weight_reg_loss``.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over. References are
            gathered and totals summed over it. For losses that need the whole batch, and for class
            weights spread over the same axis by `class_axis`, the batch is gathered. A loss with an
            argument `axis_name`, as `metricjax.nn.CrossBatchMemory`, gathers by itself.
        **options: of the loss; their names are checked here, and `data` may override them.

    Returns:
        The bound function. Its `data` are keyword arguments of the loss (``refs``, ``where``,
        ``match``, ``mined``, options) and ``key`` for random miners, or for a loss without one.
    """
    _check_functions("objective", "metricjax.losses.ntxent", loss=loss)
    _check_functions("objective", "metricjax.miners.multi_similarity", miner=miner)
    _check_functions("objective", "metricjax.reducers.avg_non_zero", reducer=reducer)
    record = record_of(loss)
    _check_options(record, options)
    if axis_name is not None and record.has("proxy_ids"):
        raise ValueError(
            f"objective: losses.{record.name} has no labels, and `axis_name` cannot "
            f"gather its batch; gather it yourself and call the loss on every device."
        )

    def fn(embeddings, labels=None, *params, **data):
        key, n = data.pop("key", None), max(1, len(embeddings))
        data = options | data
        _check_options(record, data)
        if miner is None and key is not None and record.has("key"):
            data["key"] = key
        if axis_name is not None:
            mined = miner is not None or data.get("mined") is not None
            embeddings, labels, data = _spread(loss, embeddings, labels, data, axis_name, mined)
        if miner is not None:
            if data.get("mined") is not None:
                raise ValueError("objective: give either `miner` or `mined`.")
            shared = {n: data[n] for n in ("refs", "where", "match") if n in data}
            if key is not None and record_of(miner).accepts("key"):
                shared["key"] = key
            data["mined"] = miner(embeddings, labels, **shared)
        alone = labels is None and record.takes_one  # such as `losses.swav`
        terms = loss(embeddings, *(() if alone else (labels,)), *params, **data)
        if embedding_regularizer is not None:
            rows = data.get("where")
            padding = {} if rows is None else {"where": rows}
            regularizer = record_of(embedding_regularizer)
            if regularizer.has("axis_name"):
                padding["axis_name"] = _not_gathered(loss, axis_name, data, len(embeddings) / n)
            if key is not None and regularizer.has("key"):
                padding["key"] = jax.random.fold_in(key, 1)  # unlike that of the loss
            extra = embedding_regularizer(embeddings, **padding)
            terms = merge(terms, _named(extra, "embedding_reg_loss"))
        if weight_regularizer is not None:
            weights = params[0] if params else getattr(loss, "weights", None)
            if weights is None:
                raise ValueError("objective: `weight_regularizer` needs class weights to act on.")
            terms = merge(terms, _named(weight_regularizer(weights[...]), "weight_reg_loss"))
        return reduce(terms, reducer, axis_name=axis_name)

    return fn


def self_supervised(loss, *, symmetric: bool = True, axis_name: AxisName | None = None):
    """Turns a loss of labelled samples into one of views: row i of every view is the same sample.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss = mj.self_supervised(mj.losses.ntxent)
        >>> print(f"{mj.reduce(loss(jnp.eye(3), jnp.eye(3), temperature=0.5))[0]:.4f}")
        0.4327

    Args:
        loss: any loss that takes `refs`; of `metricjax.losses`, or of that shape.
        symmetric: all views together are the batch. Otherwise the first has the anchors, and only
            the other views are references.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over; the views of
            all devices are gathered. Then `reduce` with the same.

    Returns:
        ``(embeddings, *views, where=None, **options) -> LossDict``: two or more views ``[N, D]``,
        and sample weights ``[N]``.
    """
    record = record_of(loss)
    if not record.accepts("refs"):
        raise TypeError(f"self_supervised: {record.name} does not compare with references.")

    def fn(embeddings, *views, where=None, **options):
        if not views or any(jnp.shape(x) != jnp.shape(embeddings) for x in views):
            shapes = ", ".join(str(jnp.shape(x)) for x in (embeddings, *views))
            raise ValueError(
                f"self_supervised: there must be two or more views of the same shape, got {shapes}."
            )
        n = len(embeddings)
        ids = jnp.arange(n) if axis_name is None else numbered(n, axis_name)
        times = len(views) + symmetric
        tiled = jnp.concatenate([ids] * times)
        weights = None if where is None else jnp.concatenate([where] * times)
        if symmetric:
            x, data = jnp.concatenate([embeddings, *views]), options | {"where": weights}
            if axis_name is not None:
                x, tiled, data = _spread(loss, x, tiled, data, axis_name)
            return loss(x, tiled, **data)
        refs = Refs(jnp.concatenate(views), tiled, where=weights)
        if axis_name is not None:
            refs = gather_refs(*refs[:2], axis_name, where=weights)._replace(self_index=None)
            if record.needs_whole_batch():
                embeddings, ids, where = gather_same((embeddings, ids, where), axis_name)
            elif record.has("axis_name"):
                options |= {"axis_name": axis_name}
        return loss(embeddings, ids, refs=refs, where=where, **options)

    return fn


def _spread(loss, embeddings, labels, data, axis_name, mined=False):
    """Anchors, labels and data of a loss over a batch of which each device has a part."""
    record = record_of(loss)
    class_axis = data.get("class_axis") or bound(loss, "class_axis")
    shared = tuple(name for name in axis_names(axis_name) if name in axis_names(class_axis))
    by_itself = record.has("axis_name")
    if by_itself:
        left = tuple(name for name in axis_names(axis_name) if name not in shared)
        data = data | {"axis_name": left or None}
    if mined and record.sums_over_anchors:  # a miner needs the references before the loss does
        by_itself = False
    if data.get("refs") is not None or (by_itself and not shared):
        return embeddings, labels, data
    whole = record.needs_whole_batch(mined=mined) and not by_itself
    if whole or shared:  # devices that share out the classes must see the same samples
        batch = embeddings, labels, data.get("where")
        embeddings, labels, where = gather_same(batch, axis_name if whole else shared)
        if whole:
            data = {n: x for n, x in data.items() if n != "axis_name"}
        return embeddings, labels, data | {"where": where}
    if not record.accepts("refs"):
        return embeddings, labels, data
    refs = gather_refs(embeddings, labels, axis_name, where=data.get("where"))
    return embeddings, labels, data | {"refs": refs}


def _not_gathered(loss, axis_name, data, times):
    """The axes that the batch is still spread over, if it has grown so many times for the loss."""
    if axis_name is None or times == 1:
        return axis_name
    shared = axis_names(data.get("class_axis") or bound(loss, "class_axis"))
    left = tuple(name for name in axis_names(axis_name) if name not in shared)
    return None if times == jax.lax.axis_size(axis_name) else left


def _check_functions(caller, example, **functions):
    """What is to be called must be a function, or a dict of some, and no name or class of one."""
    for name, value in functions.items():
        for one in value.values() if isinstance(value, dict) else (value,):
            if one is not None and (isinstance(one, type) or not callable(one)):
                raise TypeError(
                    f"{caller}: `{name}` must be a function such as {example}, got {one!r}."
                )


def _check_options(record, options):
    unknown = [option for option in options if not record.accepts(option)]
    if unknown:
        parameters = record.signature.parameters.values()
        known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
        raise TypeError(
            f"objective: {record.name} has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known)}."
        )


def _named(terms, name):
    """A regularizer's term under the name it has in a recipe; several have it as a prefix."""
    if not isinstance(terms, dict):
        raise TypeError(
            f"objective: a regularizer must return its terms, got {type(terms).__name__}. One that "
            f"is given a state returns (terms, state): call it yourself."
        )
    if len(terms) == 1:
        (term,) = terms.values()
        return {name: term}
    return {f"{name}_{inner}": term for inner, term in terms.items()}
