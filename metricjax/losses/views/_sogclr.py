"""Global contrastive losses, whose negatives are those of the whole data set."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import as_indices, check_distance, check_range
from metricjax._core.declare import declare
from metricjax._core.masked import exists, logsumexp, safe_divide
from metricjax._core.refs import gather_same, replicated, spread_as
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._row_blocks import by_rows, of_each_row
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, rivals_of

WHY = "each row meets all rows of both views"
FLOOR = 1e-8
"""The smallest moving average that divides, as in the authors' code."""
COOLEST, HOTTEST = 0.05, 0.7
"""Between these, `isogclr` learns the temperatures, as in the authors' code."""


class ISogCLRState(NamedTuple):
    """What `isogclr` keeps for each of the S samples of a data set.

    Attributes:
        log_u: ``[S]``, the logarithm of the moving average; -inf for a sample not seen yet.
        temperature: ``[S]``.
        v: ``[S]``, the moving average of the temperature's gradient.
    """

    log_u: Float[Array, " s"]
    temperature: Float[Array, " s"]
    v: Float[Array, " s"]

    @classmethod
    def create(cls, num_samples: int, temperature: float = 0.1):
        """Creates the state before the first step."""
        every = jnp.zeros(num_samples)
        return cls(every - jnp.inf, every + temperature, every)


@declare(rows="batch", why=WHY, within={"temperature": "(0, inf)", "gamma": "(0, 1]"})
def sogclr(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    index: Int[Array, " n"],
    *,
    state: Float[Array, " s"] | None = None,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    gamma: Scalar = 0.9,
    distance: CosineSimilarity = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict | tuple[LossDict, Float[Array, " s"]]:
    r"""A contrastive loss of two views that is right in small batches: it remembers each sample.

    .. math::
        \ell_i = \sum_{(u, v)} \Big(\mathrm{mean}_j \, p_j s_j - s^+\Big) \qquad
        p_j = \frac{e^{s_j / \tau}}{u_i} \qquad
        u_i \leftarrow (1 - \gamma)\, u_i + \gamma\, \mathrm{mean}_j \, e^{s_j / \tau}

    :math:`s^+` is the cosine of the two views of a sample. :math:`s_j` are the cosines of one of
    its views with the 2N - 2 views of other samples. :math:`u_i` is a moving average for each
    sample of the data set, so that the denominator of the softmax does not depend on the batch
    alone. The weights p are constant for the gradient. The value is therefore no measure of
    progress, but the gradient is that of the contrastive loss over the data set.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> state = jnp.full(100, -jnp.inf)  # of a data set of 100 samples
        >>> x, r, index = jnp.eye(3), jnp.eye(3)[::-1], jnp.array([7, 50, 3])
        >>> terms, state = mj.losses.sogclr(x, r, index, state=state)
        >>> print(f"{mj.reduce(terms)[0]:.4f} {jnp.sum(jnp.isfinite(state))}")
        0.6665 3

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        index: ``[N]`` integers: which sample of the data set each row is, all different. A number
            outside ``[0, S)`` raises if its value is known. Otherwise, as under `jit`, the sample
            counts as new, and is not remembered.
        state: ``[S]``, the logarithm of u for each sample of the data set, as the previous call
            returned it; -inf for samples not seen yet. If ``None``, all samples are new, and no
            state is returned.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the cosines, > 0.
        gamma: weight of this batch in u, above 0 to 1. New samples take their first value.
        distance: `CosineSimilarity`, possibly with another `precision`.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            Negatives are those of all devices, and every device gets the same new state.
        chunk_size: at most this many rows at a time; static. By default all rows of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. With `state`, a pair of this dict and
        the new state. The value of a single sample is 0, and its state is kept.

    Notes:
        - when: self-supervision, small batches
        - miner: none taken
        - cost: N², state S
        - setting: default

    References:
        Yuan et al., `Provable Stochastic Optimization for Global Contrastive Learning: Small Batch
        Does Not Harm Performance <https://arxiv.org/abs/2202.12387>`_, 2022.
    """
    name = "losses.sogclr"
    rows = _prepare(name, embeddings, ref_embeddings, index, where, distance)
    old = jnp.full(0, -jnp.inf) if state is None else _checked(name, "state", state)
    _check_index(name, index, where, old, state is None)
    rows["log_u"] = _at(old, rows, -jnp.inf)
    rows["temperature"] = jnp.full_like(rows["weights"], 1) * temperature
    how: Any = {"pairs": 4, "chunk_size": chunk_size, "axis_name": axis_name}
    rows["log_u"], alone = of_each_row(_averages(distance, gamma), rows, function=name, **how)
    terms = by_rows(name, _values(distance), rows, **how)
    if state is None:
        return terms
    return terms, _put(old, rows, alone, _mean(rows["log_u"]), axis_name)


@declare(
    rows="batch",
    why=WHY,
    within={
        "gamma": "(0, 1]",
        "beta": "[0, 1]",
        "temperature": "(0, inf)",
        "rho": "[0, inf)",
        "eta": "[0, inf)",
    },
)
def isogclr(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    index: Int[Array, " n"],
    *,
    state: ISogCLRState | None = None,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    gamma: Scalar = 0.9,
    rho: Scalar = 0.3,
    eta: Scalar = 0.01,
    beta: Scalar = 0.9,
    distance: CosineSimilarity = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict | tuple[LossDict, ISogCLRState]:
    r"""`sogclr` with a temperature for each sample of the data set, which is learned as well.

    .. math::
        \ell_i = \sum_{(u, v)} \Big(\mathrm{mean}_j \, p_j s_j - s^+\Big) \qquad
        v_i \leftarrow (1 - \beta)\, v_i + \beta \, g_i \qquad
        \tau_i \leftarrow \mathrm{clip}(\tau_i - \eta v_i, 0.05, 0.7)

    :math:`g_i` is the gradient of the temperature,
    :math:`\log u_i + \rho - \mathrm{mean}_j \, p_j s_j / \tau_i`, mean over both views. Samples
    with many similar samples get a high temperature, rare samples a low one. The loss is computed
    with the temperature before the update. All else is as in `sogclr`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> state = mj.losses.ISogCLRState.create(100)  # of a data set of 100 samples
        >>> x, r, index = jnp.eye(3), jnp.eye(3)[::-1], jnp.array([7, 50, 3])
        >>> terms, state = mj.losses.isogclr(x, r, index, state=state)
        >>> print(f"{mj.reduce(terms)[0]:.4f} {state.temperature[7]:.4f}")
        0.6665 0.1098

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        index: ``[N]`` integers: which sample of the data set each row is, all different. A number
            outside ``[0, S)`` raises if its value is known. Otherwise, as under `jit`, the sample
            counts as new, and is not remembered.
        state: `ISogCLRState`, as the previous call returned it, or ``ISogCLRState.create(S)`` at
            the start. If ``None``, all samples are new, and no state is returned.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: of samples without a state, > 0.
        gamma: weight of this batch in u, above 0 to 1. New samples take their first value.
        rho: the larger, the lower the temperatures, >= 0.
        eta: learning rate of the temperatures, >= 0.
        beta: weight of this batch in v, 0 to 1.
        distance: `CosineSimilarity`, possibly with another `precision`.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            Negatives are those of all devices, and every device gets the same new state.
        chunk_size: at most this many rows at a time; static. By default all rows of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. With `state`, a pair of this dict and
        the new state. The value of a single sample is 0, and its state is kept.

    Notes:
        - when: as `sogclr`, for data with rare and frequent kinds
        - miner: none taken
        - cost: N², state 3S
        - setting: default

    References:
        Qiu et al., `Not All Semantics are Created Equal: Contrastive Self-supervised Learning with
        Automatic Temperature Individualization <https://arxiv.org/abs/2305.11965>`_, 2023.
    """
    name = "losses.isogclr"
    rows = _prepare(name, embeddings, ref_embeddings, index, where, distance)
    old = ISogCLRState.create(0)
    if state is not None:
        if not isinstance(state, ISogCLRState):
            raise TypeError(
                f"{name}: `state` must be an ISogCLRState, got {type(state).__name__}. Start with "
                f"`ISogCLRState.create(num_samples)`."
            )
        named = zip(ISogCLRState._fields, state, strict=True)
        old = ISogCLRState(*(_checked(name, f"state.{field}", x) for field, x in named))
    _check_index(name, index, where, old.log_u, state is None)
    rows["log_u"] = _at(old.log_u, rows, -jnp.inf)
    rows["temperature"] = _at(old.temperature, rows, temperature)
    how: Any = {"pairs": 4, "chunk_size": chunk_size, "axis_name": axis_name}
    rows["log_u"], alone = of_each_row(_averages(distance, gamma), rows, function=name, **how)
    values = _values(distance)
    terms = by_rows(name, values, rows, **how)
    if state is None:
        return terms
    repelled = of_each_row(
        lambda *args: jax.lax.stop_gradient(_repelled(distance, *args)),
        rows, function=name, **how,
    )  # fmt: skip
    slope = jnp.mean(rows["log_u"] + rho - repelled / rows["temperature"][:, None], 1)
    v = (1 - beta) * _at(old.v, rows, 0.0) + beta * slope
    new = ISogCLRState(
        _mean(rows["log_u"]),
        jnp.clip(rows["temperature"] - eta * v, COOLEST, HOTTEST),
        v,
    )
    return terms, jax.tree.map(lambda a, b: _put(a, rows, alone, b, axis_name), old, new)


def _prepare(function, embeddings, ref_embeddings, index, where, distance):
    """What each row brings along: both views, its weight, and its number in the data set."""
    check_distance(function, distance, CosineSimilarity)
    x, r, weights = prepare_views(function, embeddings, ref_embeddings, where)
    index = as_indices(function, "index", index, "embeddings", len(x))
    return {"views": (x, r), "weights": weights, "index": replicated(index)}


def _checked(function, name, state):
    """A state ``[S]`` as an array that is constant for the gradient."""
    if jnp.ndim(state) != 1 or not jnp.issubdtype(jnp.asarray(state).dtype, jnp.floating):
        raise ValueError(
            f"{function}: `{name}` must be numbers of shape [S], one for each sample of the data "
            f"set, got shape {jnp.shape(state)}."
        )
    return jax.lax.stop_gradient(jnp.asarray(state))


def _check_index(function, index, where, state, new):
    if not new:
        check_range(function, "index", index, where, len(state), "state")


def _at(state, rows, default):
    """The entries of a state, constant for the gradient; `default` for a sample without any."""
    index, dtype = rows["index"], rows["weights"].dtype
    known, default = (index >= 0) & (index < len(state)), jnp.asarray(default, dtype)
    state = replicated(state).astype(dtype)
    some = state[jnp.where(known, index, 0)] if len(state) else jnp.zeros(len(index), dtype)
    return jnp.where(known, some, default)


def _put(state, rows, alone, values, axis_name):
    """The state with the new values of the samples of all devices, unless they are padding."""
    size = len(state)
    keep = (rows["weights"] > 0) & ~alone & (rows["index"] >= 0)
    index, values = jnp.where(keep, rows["index"], size), jax.lax.stop_gradient(values)
    if axis_name is not None:
        index, values = gather_same((index, values), axis_name)
    new = replicated(state).at[index].set(values.astype(state.dtype), mode="drop")
    return spread_as(new, state)


def _mean(log_u):
    """The logarithm of the mean of both views."""
    return jnp.logaddexp(log_u[:, 0], log_u[:, 1]) - float(np.log(2))


def _rivals(distance, some, numbers, everything):
    """Similarities of some rows, and the logarithm of the weight of all their rivals."""
    three = lambda rows: (*rows["views"], rows["weights"])
    own, sides, weights = rivals_of(distance, three(some), numbers, three(everything))
    return own, sides, weights, logsumexp(jnp.zeros_like(weights), weights, empty=0.0)


def _logits(side, some):
    """The similarities by the temperature of each row, which is 0 of a block's padding."""
    temperature = jnp.where(some["weights"] > 0, some["temperature"], 1)
    return side / temperature[:, None]


def _averages(distance, gamma):
    """The logarithms of the new moving averages of both views ``[n, 2]``; and who is alone."""

    def block(some, numbers, everything):
        _, sides, weights, log_count = _rivals(distance, some, numbers, everything)
        log_gamma = jnp.log(jnp.asarray(gamma, weights.dtype))
        log_rest = jnp.log1p(-jnp.asarray(gamma, weights.dtype))

        def one(side):
            mean = logsumexp(_logits(side, some), weights, empty=0.0) - log_count
            seen = jnp.where(some["log_u"] == -jnp.inf, 0, some["log_u"])
            mixed = jnp.logaddexp(log_gamma + mean, log_rest + seen)
            return jnp.where(some["log_u"] == -jnp.inf, mean, mixed)

        out = jnp.stack([one(side) for side in sides], 1), ~exists(weights)
        return jax.lax.stop_gradient(out)

    return block


def _repelled(distance, some, numbers, everything):
    """``mean_j p_j s_j`` of both views ``[n, 2]``; no gradient flows through p."""
    _, sides, weights, log_count = _rivals(distance, some, numbers, everything)

    def one(side, log_u):
        p = jnp.exp(
            jax.lax.stop_gradient(_logits(side, some)) - jnp.maximum(log_u, jnp.log(FLOOR))[:, None]
        )
        p = jnp.where(weights > 0, weights * p, 0)
        return safe_divide(jnp.sum(p * side, 1), jnp.exp(log_count))

    return jnp.stack([one(side, some["log_u"][:, i]) for i, side in enumerate(sides)], 1)


def _values(distance):
    def block(some, numbers, everything) -> LossDict:
        own, _, weights, _ = _rivals(distance, some, numbers, everything)
        values = jnp.sum(_repelled(distance, some, numbers, everything), 1) - 2 * own
        return {"loss": row_term(jnp.where(exists(weights), values, 0), some["weights"])}

    return block
