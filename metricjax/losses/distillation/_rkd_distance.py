"""Relational knowledge distillation of distances."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Num

from metricjax._core.declare import Passes, declare
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Refs
from metricjax.distances import LpDistance
from metricjax.losses._terms import term
from metricjax.losses.distillation._spaces import huber, prepare_spaces


@declare()
def rkd_distance(
    embeddings: Float[Array, "n d"],
    teacher: Float[Array, "n e"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    precision: Precision = Precision.HIGHEST,
    axis_name: AxisName | None = None,
) -> Passes[LossDict]:
    r"""Makes the student's distances proportional to the teacher's.

    .. math::
        \ell_{ij} = h\Big(\frac{d_{ij}}{\mu} - \frac{t_{ij}}{\mu_t}\Big) \qquad
        h(x) = \begin{cases} x^2 / 2 & |x| < 1 \\ |x| - 1/2 & \text{else} \end{cases}

    d and t are the Euclidean distances of the student's and of the teacher's embeddings, without
    normalization. :math:`\mu` and :math:`\mu_t` are their means over all pairs of different
    samples. Gradients flow through :math:`\mu`. The spaces may have different dimensions.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, teacher = jnp.eye(3), jnp.array([[0.0], [1.0], [3.0]])
        >>> print(f"{mj.reduce(mj.losses.rkd_distance(x, teacher))[0]:.4f}")
        0.0556

    Args:
        embeddings: ``[N, D]``, the student's embeddings.
        teacher: ``[N, E]``, the teacher's embeddings of the same samples. No gradient flows through
            them.
        refs: what to compare with; the batch itself by default. The labels of `refs` are the
            teacher's embeddings ``[M, E]``, as in a memory that was created with
            ``labels=teacher``.
        where: ``[N]`` sample weights; 0 is padding.
        precision: of the matrix products.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. The
            means are those of all devices.

    Returns:
        ``{"loss": [N, M]}``, divided by all N * M pairs. The value of a sample with itself is 0,
        but counts, as in the authors' code.

    Notes:
        - when: a student of any dimension; distances matter
        - miner: none taken
        - cost: NM
        - setting: 1 times this, plus 2 times `rkd_angle`

    References:
        Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, 2019.
    """
    spaces = prepare_spaces("losses.rkd_distance", embeddings, teacher, refs, where)
    rows, columns = spaces.weights
    weights = rows[:, None] * columns[None, :]
    pairs = jnp.where(spaces.other, weights, 0)
    distance = LpDistance(normalize_embeddings=False, precision=precision)

    def distances(side):
        """In units of the references' largest entry: only ratios count, and none underflows."""
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(side[1]), initial=0))
        top = jnp.where(top > 0, top, 1)
        return jnp.where(spaces.other, distance(side[0] / top, side[1] / top), 0)

    student, theirs = distances(spaces.student), distances(spaces.teacher)
    total, of_teacher, count = yield (
        jnp.sum(pairs * student),
        jnp.sum(pairs * theirs),
        jnp.sum(pairs),
    )
    in_units = lambda mat, total: safe_divide(mat, safe_divide(total, count))
    values = huber(in_units(student, total) - in_units(theirs, of_teacher))
    return {"loss": term(values, weights, spaces.count, anchor_weights=rows)}
