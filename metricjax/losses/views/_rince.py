"""RINCE loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._row_blocks import by_rows
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, rivals_of


@declare(
    rows="batch",
    why="each row meets all rows of both views",
    within={"temperature": "(0, inf)", "q": "[0, 1]", "lam": "(0, inf)"},
)
def rince(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    q: Scalar = 0.1,
    lam: Scalar = 0.01,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""A contrastive loss of two views that tolerates views which do not belong together.

    .. math::
        \ell_i = \frac1q \bigg(\lambda^q \Big(e^{s^+ / \tau} + \sum_j e^{s_j / \tau}\Big)^q
        - e^{q s^+ / \tau}\bigg)

    :math:`s^+` is the similarity of the two views of a sample, and :math:`s_j` are those with the
    2N - 2 views of other samples. With q near 0, the loss is NT-Xent plus a constant. With q = 1,
    it is symmetric, like the mean absolute error: pairs that are wrong have bounded influence.
    Every sample is taken twice, once for each of its views; its value is the mean.

    Values may be negative, so use no reducer that drops values which are not above 0. In float32,
    q / temperature must be below 88, or values overflow. A distance is used with its sign changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.rince(jnp.eye(3), jnp.eye(3), temperature=1.0))
        >>> print(f"{loss:.4f}")
        -3.4182

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the similarities, > 0.
        q: how robust the loss is, 0 to 1.
        lam: weight of the negatives, > 0.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            Negatives are those of all devices.
        chunk_size: at most this many rows at a time; static. By default all rows of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: views that may not belong together (video, captions of the web)
        - miner: none taken
        - cost: N²
        - setting: default; 1.0 and `q=0.6` with a momentum encoder

    References:
        Chuang et al., `Robust Contrastive Learning against Noisy Views
        <https://arxiv.org/abs/2201.04309>`_, 2022.
    """
    rows = prepare_views("losses.rince", embeddings, ref_embeddings, where)

    def block(some, numbers, everything) -> LossDict:
        own, sides, weights = rivals_of(distance, some, numbers, everything)
        positive = own / temperature

        def value(side):
            negative = logsumexp(side / temperature, weights)
            everyone = positive + softplus(negative - positive)
            weighed = everyone + jnp.log(jnp.asarray(lam, everyone.dtype))
            return _power(weighed, q) - _power(positive, q)

        return {"loss": row_term(sum(map(value, sides)) / 2, some[2])}

    return by_rows("losses.rince", block, rows, pairs=4, chunk_size=chunk_size, axis_name=axis_name)


def _power(x, q):
    """``(exp(q x) - 1) / q``, which is x in the limit of q = 0."""
    t = q * x
    small = jnp.abs(t) < 0.01  # there, seven terms of the series are exact in float64
    series = jnp.ones_like(t)
    for k in range(8, 1, -1):
        series = 1 + jnp.where(small, t, 0) / k * series
    large = jnp.where(small, 1, t)
    return x * jnp.where(small, series, jnp.expm1(large) / large)
