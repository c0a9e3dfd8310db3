"""Probabilistic knowledge transfer."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import LossDict, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._terms import term
from metricjax.losses.distillation._spaces import prepare_spaces


@declare(within={"eps": "(0, inf)"})
def pkt(
    embeddings: Float[Array, "n d"],
    teacher: Float[Array, "n e"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    eps: Scalar = 1e-7,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Pulls the student's distribution over neighbors toward the teacher's.

    .. math::
        \ell_{ij} = t_{ij} \log \frac{t_{ij} + \epsilon}{p_{ij} + \epsilon} \qquad
        p_{ij} = \frac{1 + \cos(x_i, x_j)}{\sum_k 1 + \cos(x_i, x_k)}

    t is the same distribution of the teacher's embeddings. A sample is its own neighbor, too, as in
    the authors' code. There is no temperature to choose. The spaces may have different dimensions.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, teacher = jnp.eye(3), jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> print(f"{mj.reduce(mj.losses.pkt(x, teacher))[0]:.4f}")
        0.0108

    Args:
        embeddings: ``[N, D]``, the student's embeddings.
        teacher: ``[N, E]``, the teacher's embeddings of the same samples. No gradient flows through
            them.
        refs: what to compare with; the batch itself by default. The labels of `refs` are the
            teacher's embeddings ``[M, E]``, as in a memory that was created with
            ``labels=teacher``.
        where: ``[N]`` sample weights; 0 is padding.
        eps: added to the probabilities in the logarithm, > 0.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": [N, M]}``, divided by all N * M pairs, as in the authors' code.

    Notes:
        - when: a student of any dimension, trained on features alone
        - miner: none taken
        - cost: NM
        - setting: default, times 10,000 or more

    References:
        Passalis and Tefas, `Learning Deep Representations with Probabilistic Knowledge Transfer
        <https://arxiv.org/abs/1803.10837>`_, 2018.
    """
    check_distance("losses.pkt", distance, CosineSimilarity)
    spaces = prepare_spaces("losses.pkt", embeddings, teacher, refs, where)
    rows, columns = spaces.weights

    def neighbors(side):
        closeness = (1 + distance(*side)) / 2
        closeness = jnp.where(closeness < 0, 0, closeness)  # a cosine may be rounded to below -1
        total = jnp.sum(columns[None, :] * closeness, 1)
        return safe_divide(closeness, total[:, None])

    p, t = neighbors(spaces.student), neighbors(spaces.teacher)
    weights = rows[:, None] * columns[None, :]
    values = t * jnp.log((t + eps) / (p + eps))
    return {"loss": term(values, weights, spaces.count, anchor_weights=rows)}
