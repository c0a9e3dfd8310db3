"""AnglE loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import safe_abs
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import normalize
from metricjax.losses._scored import prepare_scored, rising


@declare(rows="batch", why="it compares each pair of the batch with all others")
def angle(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    targets: Num[Array, " n"],
    *,
    where: Num[Array, " n"] | None = None,
    scale: Scalar = 20.0,
    axis_name: AxisName | None = None,
) -> LossDict:
    r"""Pulls pairs with larger targets closer, as `cosent` does, by angles between complex vectors.

    .. math::
        L = \log\Big(1 + \sum_{i, j: t_i < t_j} e^{\lambda (s_i - s_j)}\Big) \qquad
        s = \frac{\lvert \sum_k a_k c_k + b_k d_k + b_k c_k - a_k d_k \rvert}
        {\lVert x \rVert \lVert r \rVert}

    The angles between complex vectors have a slope where the cosine is flat. The first half of the
    features are the real parts: a of x and c of r. The second half are the imaginary parts: b of x
    and d of r. An odd number of features is padded with a 0. :math:`s` is at most :math:`\sqrt 2`,
    and 0 where a row is zero. Time is N log N, and memory is N.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> r = jnp.array([[1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
        >>> loss, _ = mj.reduce(mj.losses.angle(x, r, jnp.array([0.9, 0.2, 0.4])))
        >>> print(f"{loss:.4f}")
        11.0557

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``: row i of both is a pair.
        targets: ``[N]``, how similar the sides of each pair should be, in any unit.
        where: ``[N]`` weights of the pairs; 0 is padding.
        scale: :math:`\lambda`.
        axis_name: the `jax.shard_map` or `pmap` axis over which the batch is spread, if any. The
            pairs of all devices along it are then compared.

    Returns:
        ``{"loss": []}``, already reduced. It is 0 if all targets are equal.

    Notes:
        - when: pairs of texts with graded similarity, together with `infonce`
        - miner: none taken
        - cost: N
        - setting: default, with weight 0.02 when added to `infonce`

    References:
        Li and Li, `AnglE-optimized Text Embeddings <https://arxiv.org/abs/2309.12871>`_, 2023.
    """
    x, r, targets, weights = prepare_scored(
        "losses.angle", embeddings, ref_embeddings, targets, where
    )
    halves = lambda x: jnp.split(jnp.pad(normalize(x), ((0, 0), (0, x.shape[1] % 2))), 2, 1)
    (a, b), (c, d) = halves(x), halves(r)
    scores = safe_abs(jnp.sum(a * c + b * d + b * c - a * d, 1))
    return {"loss": rising(scores, targets, weights, scale, axis_name)}
