"""CoSENT loss."""

from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._scored import prepare_scored, rising
from metricjax.losses._views import row_similarities


@declare(rows="batch", why="it compares each pair of the batch with all others")
def cosent(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    targets: Num[Array, " n"],
    *,
    where: Num[Array, " n"] | None = None,
    scale: Scalar = 20.0,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
) -> LossDict:
    r"""Pulls pairs with larger targets closer than pairs with smaller targets.

    .. math:: L = \log\Big(1 + \sum_{i, j: t_i < t_j} e^{\lambda (s_i - s_j)}\Big)

    Only the order of the targets counts. :math:`s_i` is the similarity of the two sides of pair i.
    The sum over all pairs of pairs is computed from running sums of the sorted pairs. Time is
    N log N, and memory is N.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> r = jnp.array([[1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
        >>> loss, _ = mj.reduce(mj.losses.cosent(x, r, jnp.array([0.9, 0.2, 0.4])))
        >>> print(f"{loss:.4f}")
        14.1421

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``: row i of both is a pair.
        targets: ``[N]``, how similar the sides of each pair should be, in any unit.
        where: ``[N]`` weights of the pairs; 0 is padding.
        scale: :math:`\lambda`.
        distance: pairwise distance or similarity; a distance is used with its sign changed.
        axis_name: the `jax.shard_map` or `pmap` axis over which the batch is spread, if any. The
            pairs of all devices along it are then compared.

    Returns:
        ``{"loss": []}``, already reduced. It is 0 if all targets are equal.

    Notes:
        - when: pairs of texts with graded similarity
        - miner: none taken
        - cost: N
        - setting: default

    References:
        Su, `CoSENT: A More Effective Sentence Vector Scheme Than Sentence-BERT
        <https://kexue.fm/archives/8847>`_, 2022.
    """
    x, r, targets, weights = prepare_scored(
        "losses.cosent", embeddings, ref_embeddings, targets, where
    )
    return {"loss": rising(row_similarities(distance, x, r), targets, weights, scale, axis_name)}
