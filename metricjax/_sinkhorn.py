"""Balanced assignments of samples to prototypes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_at_least, check_embeddings, check_weights, on_host
from metricjax._core.linear import log_sum_along
from metricjax._core.masked import logsumexp
from metricjax._core.refs import replicated, weighed
from metricjax._core.types import AxisName, Scalar


def sinkhorn(
    scores: Float[Array, "n k"],
    *,
    where: Num[Array, " n"] | None = None,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    axis_name: AxisName | None = None,
) -> Float[Array, "n k"]:
    r"""Turns scores into soft assignments that use all prototypes about equally.

    .. math::
        Q = e^{S / \epsilon}, \quad \text{then repeatedly} \quad
        Q_{ik} \leftarrow \frac{Q_{ik}}{\sum_j Q_{jk}}, \quad
        Q_{ik} \leftarrow \frac{Q_{ik}}{\sum_l Q_{il}}

    All of it is computed with logarithms, so no `epsilon` overflows.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> scores = jnp.array([[1.0, 0.9], [1.0, 0.0]])  # both prefer the first prototype
        >>> print(mj.sinkhorn(scores)[0])
        [0.14285713 0.85714287]

    Args:
        scores: ``[N, K]``, usually cosines of N samples and K prototypes.
        where: ``[N]`` sample weights. A sample of weight 0 does not count, and its row is 0.
        epsilon: > 0; the smaller, the closer to one prototype for each sample.
        iterations: how often columns and rows are normalized; static.
        axis_name: the `jax.shard_map` or `pmap` axis that the samples are spread over, if any.
            Columns are normalized over the samples of all devices.

    Returns:
        ``[N, K]`` assignments, at least float32. Each row has sum 1.

    References:
        Cuturi, `Sinkhorn Distances: Lightspeed Computation of Optimal Transport
        <https://arxiv.org/abs/1306.0895>`_, 2013.
    """
    scores = jnp.asarray(scores)
    check_embeddings("sinkhorn", "scores", scores)
    check_weights("sinkhorn", "where", where, "scores", len(scores))
    check_at_least("sinkhorn", "iterations", iterations, 1)
    if (known := on_host(epsilon)) is not None and not known > 0:
        raise ValueError(f"sinkhorn: `epsilon` must be above 0, got {epsilon}.")
    weights, scores = weighed(jnp.ones(len(scores)) if where is None else where, scores)
    weights, scores = replicated((weights, scores.astype(weights.dtype)))
    each = jnp.ones(scores.shape, bool)

    def normalized(_, log):
        columns = logsumexp(log, weights[:, None], 0)
        columns = columns if axis_name is None else log_sum_along(columns, axis_name)
        log = log - jnp.where(columns == -jnp.inf, 0, columns)[None, :]
        return log - logsumexp(log, each)[:, None]

    log = jax.lax.fori_loop(0, iterations, normalized, scores / epsilon)
    return jnp.where(weights[:, None] > 0, jax.nn.softmax(log), 0)
