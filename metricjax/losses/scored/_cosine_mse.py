"""Squared error of a similarity."""

from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.types import LossDict
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._scored import prepare_scored
from metricjax.losses._terms import row_term
from metricjax.losses._views import row_similarities


@declare(rows="pairs")
def cosine_mse(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    targets: Num[Array, " n"],
    *,
    where: Num[Array, " n"] | None = None,
    distance: Distance = CosineSimilarity(),
) -> LossDict:
    r"""Pulls the cosine of each pair toward its target.

    .. math:: \ell_i = (\cos(x_i, r_i) - t_i)^2

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, r = jnp.eye(2), jnp.ones((2, 2))
        >>> loss, _ = mj.reduce(mj.losses.cosine_mse(x, r, jnp.array([1.0, 0.5])))
        >>> print(f"{loss:.4f}")
        0.0643

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``: row i of both is a pair.
        targets: ``[N]``, the similarity that each pair should have.
        where: ``[N]`` weights of the pairs; 0 is padding.
        distance: pairwise distance or similarity; a distance is used with its sign changed.

    Returns:
        ``{"loss": [N]}``, divided by the number of pairs.

    Notes:
        - when: pairs whose scores are cosines
        - miner: none taken
        - cost: ND
        - setting: default

    References:
        Reimers and Gurevych, `Sentence-BERT <https://arxiv.org/abs/1908.10084>`_, 2019.
    """
    x, r, targets, weights = prepare_scored(
        "losses.cosine_mse", embeddings, ref_embeddings, targets, where
    )
    return {"loss": row_term((row_similarities(distance, x, r) - targets) ** 2, weights)}
