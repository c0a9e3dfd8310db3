"""Decoupled contrastive loss, with and without weights of the pairs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import exists, logsumexp
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._row_blocks import by_rows
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, rivals_of, row_similarities

WHY = "each row meets all rows of both views"


@declare(rows="batch", why=WHY, within={"temperature": "(0, inf)"})
def dcl(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""NT-Xent of two views without the positive in the sum: quick to learn in small batches.

    .. math::
        \ell_i = \tfrac12 \sum_{(u, v)} \Big( -\frac{u_i \cdot v_i}{\tau}
        + \log \sum_{j \neq i} e^{u_i \cdot u_j / \tau} + e^{u_i \cdot v_j / \tau} \Big)
        \qquad (u, v) \in \{(x, x'), (x', x)\}

    It may be negative: give no reducer that leaves out what is not above 0. A distance is used with
    its sign changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.dcl(jnp.eye(3), jnp.eye(3), temperature=1.0))
        >>> print(f"{loss:.4f}")
        0.3863

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the similarities, > 0.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any; rivals
            are those of all devices.
        chunk_size: at most so many rows at a time; static. By default all of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. A single sample has 0.

    Notes:
        - when: self-supervision, small batches
        - miner: none taken
        - cost: N²
        - setting: default

    References:
        Yeh et al., `Decoupled Contrastive Learning <https://arxiv.org/abs/2110.06848>`_, 2022.
    """
    rows = prepare_views("losses.dcl", embeddings, ref_embeddings, where)
    block = _block(distance, temperature, lambda own, everything: 1)
    return by_rows("losses.dcl", block, rows, pairs=4, chunk_size=chunk_size, axis_name=axis_name)


@declare(rows="batch", why=WHY, within={"temperature": "(0, inf)", "sigma": "(0, inf)"})
def dclw(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    sigma: Scalar = 0.5,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""`dcl` in which positives count for more the farther apart they still are.

    .. math::
        \ell_i = \tfrac12 \sum_{(u, v)} \Big( -w_i \frac{u_i \cdot v_i}{\tau}
        + \log \sum_{j \neq i} e^{u_i \cdot u_j / \tau} + e^{u_i \cdot v_j / \tau} \Big)
        \qquad w_i = 2 - N \frac{e^{x_i \cdot x'_i / \sigma}}{\sum_j e^{x_j \cdot x'_j / \sigma}}

    The weights are constant for the gradient. It may be negative.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.dclw(jnp.eye(3), jnp.eye(3), temperature=1.0))
        >>> print(f"{loss:.4f}")
        0.3863

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the similarities, > 0.
        sigma: divides those of the weights, > 0.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any; rivals
            are those of all devices.
        chunk_size: at most so many rows at a time; static. By default all of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. A single sample has 0.

    Notes:
        - when: as `dcl`, with views far apart
        - miner: none taken
        - cost: N²
        - setting: default

    References:
        Yeh et al., `Decoupled Contrastive Learning <https://arxiv.org/abs/2110.06848>`_, 2022.
    """
    rows = prepare_views("losses.dclw", embeddings, ref_embeddings, where)

    def factor(own, everything):
        x, r, weights = jax.lax.stop_gradient(everything)
        logits = row_similarities(distance, x, r) / sigma
        share = jax.lax.stop_gradient(own) / sigma - logsumexp(logits, weights, empty=0.0)
        return 2 - jnp.sum(weights) * jnp.exp(share)

    block = _block(distance, temperature, factor)
    return by_rows("losses.dclw", block, rows, pairs=4, chunk_size=chunk_size, axis_name=axis_name)


def _block(distance, temperature, factor):
    """The values of some rows, whose positives count ``factor(own, everything)`` times."""

    def block(some, numbers, everything) -> LossDict:
        own, sides, rivals = rivals_of(distance, some, numbers, everything)
        sums = [logsumexp(side / temperature, rivals) for side in sides]
        values = sum(sums) / 2 - factor(own, everything) * own / temperature
        return {"loss": row_term(jnp.where(exists(rivals), values, 0), some[2])}

    return block
