"""DINO loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.linear import sum_along
from metricjax._core.masked import safe_divide
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.losses._terms import row_term
from metricjax.losses._views import between_views, prepare_many_views


@declare(
    rows="pairs",
    within={
        "temperature": "(0, inf)",
        "teacher_temperature": "(0, inf)",
        "momentum": "[0, 1]",
    },
)
def dino(
    student: Float[Array, "v n k"],
    teacher: Float[Array, "t n k"],
    *,
    center: Float[Array, " k"] | None = None,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.1,
    teacher_temperature: Scalar = 0.04,
    momentum: Scalar = 0.9,
    axis_name: AxisName | None = None,
) -> LossDict | tuple[LossDict, Float[Array, " k"]]:
    r"""Pulls the student's distribution of each view toward the teacher's of every other view.

    .. math::
        \ell_i = -\frac{1}{|\{t \neq v\}|} \sum_{t \neq v} \sum_k P_{tik} \log S_{vik} \qquad
        S = \mathrm{softmax}(s / \tau_s) \qquad
        P = \mathrm{softmax}\big((t - c) / \tau_t\big)

    The teacher is a moving average of the student; see `metricjax.training.with_teacher`. The
    center c is a moving average of the teacher's scores. Subtracting it keeps one score from taking
    over, and the low temperature of the teacher keeps its distribution from becoming uniform. No
    gradient flows through P.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> student = teacher = jnp.stack([jnp.eye(2), 1 - jnp.eye(2)])
        >>> terms, center = mj.losses.dino(student, teacher, center=jnp.zeros(2))
        >>> print(f"{mj.reduce(terms)[0]:.4f} {center}")
        10.0000 [0.05 0.05]

    Args:
        student: ``[V, N, K]``, the student's K scores for V views of N samples. Views may be crops
            of any size: DINO has two global crops and some local ones.
        teacher: ``[T, N, K]``, the teacher's scores. View t of both is the same crop; usually these
            are the two global crops.
        center: ``[K]``, as the previous call returned it, or zeros at the start. If ``None``, the
            call starts from zeros, and no center is returned.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the student's scores, > 0.
        teacher_temperature: divides the teacher's scores, > 0. DINO raises it from 0.04 to 0.07
            over the first epochs.
        momentum: weight of the old center in the new one, 0 to 1.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. The
            center is computed from the batch of all devices.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. With `center`, a pair of this dict and
        the new center. If no view of the student differs from a view of the teacher, values are 0.

    Notes:
        - when: self-supervision with a teacher and many crops
        - miner: none taken
        - cost: VNK
        - setting: default, with `regularizers.koleo` in DINOv2

    References:
        Caron et al., `Emerging Properties in Self-Supervised Vision Transformers
        <https://arxiv.org/abs/2104.14294>`_, 2021.
    """
    name = "losses.dino"
    student, weights = prepare_many_views(name, "student", student, where)
    teacher, _ = prepare_many_views(name, "teacher", teacher, where)
    if teacher.shape[1:] != student.shape[1:]:
        raise ValueError(
            f"{name}: `teacher` must have shape [T, {student.shape[1]}, {student.shape[2]}] to "
            f"match `student`, got {teacher.shape}."
        )
    teacher, k = teacher.astype(student.dtype), student.shape[2]
    old = jnp.zeros(k, student.dtype) if center is None else jnp.asarray(center, student.dtype)
    if old.shape != (k,):
        raise ValueError(f"{name}: `center` must have shape {(k,)}, got {old.shape}.")
    old, teacher = jax.lax.stop_gradient((old, teacher))
    softmax = lambda scores: jax.nn.softmax((scores - old[None, :]) / teacher_temperature)
    targets = [jax.lax.stop_gradient(softmax(scores)) for scores in teacher]
    terms: LossDict = {"loss": row_term(between_views(targets, student, temperature), weights)}
    if center is None:
        return terms
    sums = jnp.sum(weights[None, :, None] * teacher, (0, 1)), len(teacher) * jnp.sum(weights)
    total, count = sums if axis_name is None else sum_along(sums, axis_name)
    new = momentum * old + (1 - momentum) * safe_divide(total, count)
    return terms, jnp.where(count > 0, new, old)
