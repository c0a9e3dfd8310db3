"""A step with a teacher: a second network that is a moving average of the trained one."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from metricjax._core.masked import upcast
from metricjax._core.types import AxisName, Scalar
from metricjax.training._step import Metrics, State, Step, make_step


class Teacher(NamedTuple):
    """The ``variables`` of a state whose step has a teacher: its parameters, and other variables.

    Attributes:
        params: the averages of the parameters, of the same structure. `create` keeps averages of
            half precision in float32: their steps are too small for half precision.
        variables: what ``State.variables`` would be without a teacher, such as a
            `metricjax.memory.MemoryBank`; or ``None``.
    """

    params: Any
    variables: Any = None

    @classmethod
    def create(cls, params: Any, variables: Any = None) -> Self:
        """Creates a teacher that equals the student.

        The parameters are copied, so that the buffers of the student can be donated.
        """
        return cls(jax.tree.map(lambda x: jnp.array(upcast(x), copy=True), params), variables)


def with_teacher(
    objective: Callable,
    optimizer: optax.GradientTransformation,
    *,
    momentum: Scalar | optax.Schedule = 0.99,
    axis_name: AxisName | None = None,
) -> Step:
    r"""Makes a training step with a teacher: an exponential moving average of the parameters.

    .. math:: \theta' \leftarrow m \, \theta' + (1 - m) \, \theta

    The average moves after each step of the optimizer. In MoCo, BYOL and DINO, the student learns
    from targets that such a teacher computes. There is no gradient to the teacher. The rest is as
    in `make_step`.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> def objective(params, teacher, state, batch, key):
        ...     loss = mj.losses.infonce(batch @ params, batch @ teacher)
        ...     return mj.reduce(loss)[0], ({}, state.variables)
        >>> optimizer, params = optax.sgd(1.0), jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> step = jax.jit(mj.training.with_teacher(objective, optimizer, momentum=0.9))
        >>> teacher = mj.training.Teacher.create(params)
        >>> state = mj.training.State.create(params, optimizer, variables=teacher)
        >>> state, metrics = step(state, jnp.eye(3))
        >>> print(state.params[0].round(3), state.variables.params[0].round(3))
        [ 1.   -0.05] [ 1.    -0.005]

    Args:
        objective: ``(params, teacher_params, state, batch, key) -> (loss, (metrics, variables))``.
            `teacher_params` have the dtypes of the parameters. `state` is the state before the
            step, and its ``variables`` are those of the `Teacher`. Otherwise as in `make_step`.
        optimizer, axis_name: see `make_step`.
        momentum: m, from 0 to 1, or a schedule of Optax, that is, a function of the number of
            completed steps. BYOL and DINO let it rise to 1.

    Returns:
        ``step(state, batch) -> (state, metrics)``, pure and not yet compiled. Give
        ``variables=Teacher.create(params)`` to `State.create`.

    References:
        He et al., `Momentum Contrast for Unsupervised Visual Representation Learning
        <https://arxiv.org/abs/1911.05722>`_, 2019; Grill et al., `Bootstrap Your Own Latent
        <https://arxiv.org/abs/2006.07733>`_, 2020; Caron et al., `Emerging Properties in
        Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021.
    """
    name = "training.with_teacher"
    if isinstance(momentum, int | float) and not 0 <= momentum <= 1:
        raise ValueError(f"{name}: `momentum` must be in [0, 1], got {momentum}.")

    def taught(params, state, batch, key):
        teacher = state.variables
        if not isinstance(teacher, Teacher):
            raise TypeError(
                f"{name}: `state.variables` must be a Teacher, got {type(teacher).__name__}. Give "
                f"`variables=Teacher.create(params)` to `State.create`."
            )
        as_student = lambda x, student: x.astype(student.dtype)
        frozen = jax.tree.map(as_student, teacher.params, _fast(state.params))
        inner = state._replace(variables=teacher.variables)
        loss, (metrics, variables) = objective(params, frozen, inner, batch, key)
        return loss, (metrics, teacher._replace(variables=variables))

    student_step = make_step(taught, optimizer, axis_name=axis_name)

    def step(state: State, batch) -> tuple[State, Metrics]:
        new, metrics = student_step(state, batch)
        m = momentum(state.step) if callable(momentum) else momentum

        def follow(old, student):
            mean = optax.incremental_update(upcast(student), upcast(old), 1 - m)
            return mean.astype(old.dtype)

        averages = jax.tree.map(follow, new.variables.params, _fast(new.params))
        return new._replace(variables=new.variables._replace(params=averages)), metrics

    return step


def _fast(params):
    """The parameters of the student: of `optax.lookahead`, the fast ones."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params
