"""Similarity-preserving knowledge distillation."""

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import safe_sqrt
from metricjax._core.types import LossDict, Refs
from metricjax.distances import DotProductSimilarity, normalize
from metricjax.losses._terms import row_term
from metricjax.losses.distillation._spaces import prepare_spaces


@declare()
def similarity_preserving(
    embeddings: Float[Array, "n d"],
    teacher: Float[Array, "n e"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    precision: Precision = Precision.HIGHEST,
) -> LossDict:
    r"""Makes the student's rows of similarities equal to the teacher's.

    .. math::
        \ell_i = \sum_j (g_{ij} - t_{ij})^2 \qquad
        g_i = \frac{(x_i \cdot x_j)_j}{\lVert (x_i \cdot x_j)_j \rVert}

    t is the same of the teacher's embeddings. Embeddings are not normalized, but rows of dot
    products are. The spaces may have different dimensions.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, teacher = jnp.eye(3), jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> loss, _ = mj.reduce(mj.losses.similarity_preserving(x, teacher))
        >>> print(f"{loss:.4f}")
        0.1710

    Args:
        embeddings: ``[N, D]``, the student's embeddings.
        teacher: ``[N, E]``, the teacher's embeddings of the same samples. No gradient flows through
            them.
        refs: what to compare with; the batch itself by default. The labels of `refs` are the
            teacher's embeddings ``[M, E]``, as in a memory that was created with
            ``labels=teacher``.
        where: ``[N]`` sample weights; 0 is padding.
        precision: of the matrix products.

    Returns:
        ``{"loss": [N]}``, divided by all N * M pairs, as in the paper.

    Notes:
        - when: a student of any dimension; activations of any layer
        - miner: none taken
        - cost: NM
        - setting: default, times 3,000

    References:
        Tung and Mori, `Similarity-Preserving Knowledge Distillation
        <https://arxiv.org/abs/1907.09682>`_, 2019.
    """
    name = "losses.similarity_preserving"
    spaces = prepare_spaces(name, embeddings, teacher, refs, where)
    distance = DotProductSimilarity(normalize_embeddings=False, precision=precision)
    shares = safe_sqrt(spaces.weights[1])[None, :]
    rows_of = lambda side: normalize(shares * distance(*side))
    gaps = jnp.sum((rows_of(spaces.student) - rows_of(spaces.teacher)) ** 2, 1)
    return {"loss": row_term(gaps, spaces.weights[0], spaces.count)}
