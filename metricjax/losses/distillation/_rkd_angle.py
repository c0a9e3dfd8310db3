"""Relational knowledge distillation of angles."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import safe_divide
from metricjax._core.refs import admit
from metricjax._core.tuning import block_sizes, pairs_at_once
from metricjax._core.types import AxisName, LossDict
from metricjax.distances import normalize
from metricjax.losses._row_blocks import by_rows
from metricjax.losses._terms import row_term
from metricjax.losses.distillation._spaces import huber, prepare_spaces


@declare(rows="batch", why="each angle has three samples")
def rkd_angle(
    embeddings: Float[Array, "n d"],
    teacher: Float[Array, "n e"],
    *,
    where: Num[Array, " n"] | None = None,
    precision: Precision = Precision.HIGHEST,
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""Makes the angles of the student's triangles equal to the teacher's.

    .. math::
        \ell_i = \frac{1}{N^2} \sum_{jk} h\big(e_{ij} \cdot e_{ik} - t_{ij} \cdot t_{ik}\big) \qquad
        e_{ij} = \frac{x_j - x_i}{\lVert x_j - x_i \rVert}

    t are the same directions between the teacher's embeddings, and h is that of `rkd_distance`. The
    direction from a sample to itself, or to a copy, is 0. Embeddings are not normalized. The spaces
    may have different dimensions. A loop takes a few vertices i at a time, in ``N * (N + D)``
    memory for each of them.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, teacher = jnp.eye(3), jnp.array([[0.0], [1.0], [3.0]])
        >>> print(f"{mj.reduce(mj.losses.rkd_angle(x, teacher))[0]:.4f}")
        0.0926

    Args:
        embeddings: ``[N, D]``, the student's embeddings.
        teacher: ``[N, E]``, the teacher's embeddings of the same samples. No gradient flows through
            them.
        where: ``[N]`` sample weights; 0 is padding.
        precision: of the matrix products.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. Angles
            are those between the samples of all devices.
        chunk_size: at most this many vertices at a time; static.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples: all in all by N³, as in the authors'
        code.

    Notes:
        - when: a student of any dimension; directions matter
        - miner: none taken
        - cost: N², time N³D
        - setting: 2 times this, plus `rkd_distance`

    References:
        Park et al., `Relational Knowledge Distillation <https://arxiv.org/abs/1904.05068>`_, 2019.
    """
    name = "losses.rkd_angle"
    x, t, _ = admit(name, embeddings, teacher, None, where, "teacher")
    spaces = prepare_spaces(name, x, t, None, where)
    rows = spaces.student[0], spaces.teacher[0], spaces.weights[0]

    def cosines(vertex, rows):
        unit = normalize(rows - vertex[None, :])
        return jnp.matmul(unit, unit.T, precision=precision)

    def block(some, numbers, everything) -> LossDict:
        xs, ts, weights = everything

        def at_vertex(x, t):
            gaps = huber(cosines(x, xs) - cosines(t, ts))
            total = jnp.sum(weights * jnp.matmul(gaps, weights, precision=precision))
            return safe_divide(total, jnp.sum(weights) ** 2)

        return {"loss": row_term(jax.vmap(at_vertex)(*some[:2]), some[2])}

    n, width = len(x), max(x.shape[1], t.shape[1])
    m = n if axis_name is None else n * jax.lax.axis_size(axis_name)
    width = m * max(m, width)  # a vertex has m * m angles, and m directions
    if chunk_size is None and n * width >= pairs_at_once():
        chunk_size = max(1, block_sizes().chunk_pairs // width)
    return by_rows(name, block, rows, pairs=m, chunk_size=chunk_size, axis_name=axis_name)
