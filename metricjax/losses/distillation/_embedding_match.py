"""Distillation of embeddings."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice
from metricjax._core.declare import declare
from metricjax._core.masked import safe_norm
from metricjax._core.types import LossDict
from metricjax.distances import CosineSimilarity
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, row_similarities


@declare(rows="pairs")
def embedding_match(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    kind: Literal["cosine", "mse", "l2"] = "cosine",
    *,
    where: Num[Array, " n"] | None = None,
) -> LossDict:
    r"""Pulls the student's embedding of each sample toward the teacher's embedding.

    .. math::
        \ell_i = 1 - \cos(x_i, t_i) \qquad
        \tfrac1D \lVert x_i - t_i \rVert^2 \qquad \lVert x_i - t_i \rVert

    If the teacher's width differs from the student's, add a layer on top of the student.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.embedding_match(jnp.eye(2), jnp.ones((2, 2))))
        >>> print(f"{loss:.4f}")
        0.2929

    Args:
        embeddings: ``[N, D]``, the student's embeddings.
        ref_embeddings: ``[N, D]``, the teacher's embeddings of the same samples. No gradient flows
            through them.
        kind: "cosine", "mse" or "l2": the three formulas above, in this order; static.
        where: ``[N]`` sample weights; 0 is padding.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: a small model that replaces a large one
        - miner: none taken
        - cost: ND
        - setting: default

    References:
        Kim et al., `EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval
        <https://arxiv.org/abs/2301.12005>`_, 2023.
    """
    name = "losses.embedding_match"
    check_choice(name, "kind", kind, ("cosine", "mse", "l2"))
    x, t, weights = prepare_views(name, embeddings, ref_embeddings, where)
    t = jax.lax.stop_gradient(t)
    if kind == "cosine":
        values = 1 - row_similarities(CosineSimilarity(), x, t)
    elif kind == "mse":
        values = jnp.mean((x - t) ** 2, 1)
    else:
        values = safe_norm(x - t)
    return {"loss": row_term(values, weights)}
