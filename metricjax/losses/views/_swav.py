"""SwAV loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_at_least
from metricjax._core.declare import declare
from metricjax._core.jax_internals import varying
from metricjax._core.refs import axis_names, replicated
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax._sinkhorn import sinkhorn
from metricjax.losses._terms import row_term
from metricjax.losses._views import between_views, prepare_many_views


@declare(
    rows="batch",
    why="its codes are balanced over the whole batch",
    within={"temperature": "(0, inf)", "epsilon": "(0, inf)"},
)
def swav(
    scores: Float[Array, "v n k"],
    *,
    queue: Float[Array, "a m k"] | None = None,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    assign: int = 2,
    axis_name: AxisName | None = None,
) -> LossDict:
    r"""Predicts the code of one view from every other view; codes use all prototypes equally.

    .. math::
        \ell_i = -\frac1A \sum_{a \le A} \frac{1}{V - 1} \sum_{b \neq a}
        \sum_k q_{aik} \log \mathrm{softmax}_k(s_{bi} / \tau)

    The code :math:`q_a` of a view is `metricjax.sinkhorn` of its scores. No gradient flows through
    codes.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, prototypes = jnp.eye(2), jnp.eye(2)
        >>> scores = jnp.stack([x @ prototypes.T, x @ prototypes.T])
        >>> print(f"{mj.reduce(mj.losses.swav(scores, temperature=1.0))[0]:.4f}")
        0.3133

    Args:
        scores: ``[V, N, K]``, cosines of V >= 2 views of N samples with K prototypes:
            ``mj.distances.CosineSimilarity()(view, prototypes)``.
        queue: ``[A, M, K]``, scores of earlier samples with the current prototypes, for each of the
            A views that have codes. They only help to balance small batches. With `axis_name`, each
            device passes its own part of the queue.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the scores that predict, > 0.
        epsilon: divides the scores in `metricjax.sinkhorn`, > 0.
        iterations: of `metricjax.sinkhorn`; static.
        assign: A, how many views have codes: the first ones, which are the global crops; static.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. Codes
            are balanced over the batch of all devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: self-supervision with prototypes and many crops
        - miner: none taken
        - cost: VNK
        - setting: default

    References:
        Caron et al., `Unsupervised Learning of Visual Features by Contrasting Cluster Assignments
        <https://arxiv.org/abs/2006.09882>`_, 2020.
    """
    name = "losses.swav"
    scores, weights = prepare_many_views(name, "scores", scores, where)
    v, n, k = scores.shape
    check_at_least(name, "assign", assign, 1)
    if v < max(2, assign):
        raise ValueError(
            f"{name}: `scores` must have at least {max(2, assign)} views, got shape {scores.shape}."
        )
    if queue is not None:
        queue = _checked_queue(name, queue, assign, k, axis_name).astype(scores.dtype)

    def code(a):
        rows, there = jax.lax.stop_gradient(scores[a]), weights
        if queue is not None:
            rows = jnp.concatenate([rows, queue[a]])
            there = jnp.concatenate([weights, jnp.ones(queue.shape[1], weights.dtype)])
        options = {"epsilon": epsilon, "iterations": iterations, "axis_name": axis_name}
        return jax.lax.stop_gradient(sinkhorn(rows, where=there, **options)[:n])

    values = between_views([code(a) for a in range(assign)], scores, temperature)
    return {"loss": row_term(values, weights)}


def _checked_queue(function, queue, assign, k, axis_name):
    queue = jnp.asarray(queue)
    if queue.ndim != 3 or queue.shape[::2] != (assign, k):
        raise ValueError(
            f"{function}: `queue` must have shape [{assign}, M, {k}], got {queue.shape}."
        )
    if axis_name is not None:
        typed = varying(jax.typeof(jax.lax.axis_index(axis_name)))
        if typed and {*axis_names(axis_name)} - varying(jax.typeof(queue)):
            raise ValueError(
                f"{function}: `queue` must be this device's part of the queue, got one that is the "
                f"same on all devices along {axis_name}, so that each row would count more than "
                f"once. Spread it by the `in_specs` of `jax.shard_map`."
            )
    return jax.lax.stop_gradient(replicated(queue))
