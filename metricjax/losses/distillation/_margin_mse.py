"""MarginMSE loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.types import LossDict
from metricjax.distances import Distance, DotProductSimilarity
from metricjax.losses._documents import check_teacher, prepare_documents, scores
from metricjax.losses._terms import term
from metricjax.losses._views import prepare_views, row_similarities


@declare(rows="pairs")
def margin_mse(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    negatives: Float[Array, "n h d"],
    teacher: Float[Array, "n k"],
    *,
    where: Num[Array, " n"] | None = None,
    distance: Distance = DotProductSimilarity(normalize_embeddings=False),
) -> LossDict:
    r"""Pulls the margin between the positive and each negative toward a teacher's margin.

    .. math:: \ell_{ih} = \big((q_i \cdot p_i - q_i \cdot n_{ih}) - (T_{ip} - T_{ih})\big)^2

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> q, p, n = jnp.eye(2), jnp.ones((2, 2)), jnp.zeros((2, 1, 2))
        >>> loss, _ = mj.reduce(mj.losses.margin_mse(q, p, n, jnp.array([[3.0, 1.0], [2.0, 1.0]])))
        >>> print(f"{loss:.4f}")
        0.5000

    Args:
        embeddings: ``[N, D]``, one row for each query.
        ref_embeddings: ``[N, D]``, one positive for each query.
        negatives: ``[N, H, D]``, H negatives for each query.
        teacher: ``[N, 1 + H]``, the teacher's scores of the positive and the negatives, or
            ``[N, H]``, the positive's score minus those of the negatives. No gradient flows through
            them.
        where: ``[N]`` weights of the queries; 0 is padding.
        distance: pairwise distance or similarity; the dot product without normalization by default.

    Returns:
        ``{"loss": [N, H]}``, divided by the number of negatives.

    Notes:
        - when: scores of a cross-encoder for each query
        - miner: none taken
        - cost: NHD
        - setting: default

    References:
        Hofstätter et al., `Improving Efficient Neural Ranking Models with Cross-Architecture
        Knowledge Distillation <https://arxiv.org/abs/2010.02666>`_, 2020.
    """
    name = "losses.margin_mse"
    q, p, weights = prepare_views(name, embeddings, ref_embeddings, where)
    _, negatives, _ = prepare_documents(name, embeddings, negatives, where, "negatives")
    n, h, _ = negatives.shape
    teacher = check_teacher(name, teacher, ((n, 1 + h), (n, h)))
    if teacher.shape[1] > h:
        teacher = teacher[:, :1] - teacher[:, 1:]
    margin = row_similarities(distance, q, p)[:, None] - scores(distance, q, negatives)
    each = jnp.broadcast_to(weights[:, None], margin.shape)
    return {"loss": term((margin - teacher) ** 2, each, anchor_weights=weights)}
