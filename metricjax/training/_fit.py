"""The training loop around a step."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from metricjax._core.check import check_at_least, check_choice
from metricjax.training._checkpoints import Checkpoints, Progress
from metricjax.training._finite import Done, compiled, look_at, unsound
from metricjax.training._loggers import joined
from metricjax.training._resume import begin, recipe_of
from metricjax.training._step import State, Step, settled


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        state: the state after the last step.
        best_step: the step of the evaluation with the best score; ``None`` without scores.
        best_score: the best score; ``None`` without scores.
        stopped_early: whether training stopped before `steps`, because `patience` was exceeded.
    """

    state: State
    best_step: int | None = None
    best_score: float | None = None
    stopped_early: bool = False


def fit(
    step: Step,
    state: State,
    batches: Callable[[int], Any] | Any,
    *,
    steps: int,
    folder: str | os.PathLike | None = None,
    save_every: int = 1000,
    evaluate: Callable[[State], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
    score: str | None = None,
    mode: Literal["max", "min"] = "max",
    patience: int | None = None,
    about: dict[str, Any] | None = None,
    allow_changes: bool = False,
    loggers: Sequence[Callable[[int, dict[str, float]], None]] = (),
    log_every: int = 100,
    progress: bool = False,
) -> Fitted:
    """Trains, evaluates, logs and saves; if it is started again, it resumes from the last state.

    The last state in `folder` is restored with the best score so far, and a warning of the Python
    logger ``metricjax`` reports this. Batches and random numbers depend only on the number of the
    step. So a training that was killed and started again ends with the same parameters as one that
    was not killed. A damaged state is renamed to ``STEP.damaged``, and the state before it is
    restored.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj, optax
        >>> optimizer = optax.sgd(0.1)
        >>> loss = mj.objective(mj.losses.contrastive)
        >>> step = mj.training.metric_loss_only(lambda params, x: x @ params, loss, optimizer)
        >>> state = mj.training.State.create({"network": jnp.eye(3)}, optimizer)
        >>> x, y = jnp.eye(3), jnp.array([0, 0, 1])
        >>> done = mj.training.fit(
        ...     step, state, lambda i: (x, y), steps=4, log_every=2,
        ...     loggers=[lambda i, metrics: print(i, f"{metrics['loss']:.3f}")],
        ... )
        2 ...
        4 ...

    Args:
        step: a step of `make_step` or of a scheme. It is compiled here. Before that, it is traced
            once with the labels of the first batch as constants, so that losses refuse what they
            cannot see in a compiled step: labels that are no class, or beyond int32. Give the step
            without `jax.jit`, which would hide the labels as well.
        state: the state to begin with if there is none in `folder`. It is not changed. The states
            of later steps are donated, so `evaluate` must copy what it keeps of them. On several
            devices, place the state on the mesh: shardings are kept.
        batches: ``batches(i)`` or ``batches[i]`` is the batch of step i, counted from 0. Iterators
            are refused, because they cannot resume.
        steps: how many steps to do in total, including those of earlier runs.
        folder: the folder for checkpoints, written by Orbax: the last two states, and the states
            with the best score. By default no checkpoints are written.
        save_every: after how many steps a checkpoint is written. A checkpoint is also written after
            each evaluation and at the end. Writing runs in the background.
        evaluate: ``state -> {name: number}``.
        evaluate_every: after how many steps to evaluate; also at the end.
        score: the name of the number, among those that `evaluate` returns, that says which state is
            best. NaN is never best.
        mode: ``"max"`` if a larger score is better, ``"min"`` if a smaller one is.
        patience: how many evaluations in a row may fail to be the best. One more ends the training.
        about: what defines this training, in a form that JSON can hold, such as the names of the
            loss and of the data set, and learning rates. It is saved with each state.
        allow_changes: resume even if `about`, `score` or `mode` differ from those of the saved
            state. By default that is an error. After a change of `score` or `mode` there is no best
            state until the next evaluation. Another model or kind of optimizer is always an error.
        loggers: functions that are called with the number of completed steps and a dict of numbers;
            those of `evaluate` are named ``eval/...``. Use `print_metrics`, `CsvLog`,
            `TensorBoardLog` or your own function. The method ``close`` of a logger, if it has one,
            is called at the end. The method ``note``, if it has one, is called with the number of
            steps and a line of text: from which state training resumes, and which steps were
            skipped. With several processes, only the first one logs.
        log_every: after how many steps to log; also with each evaluation and at the end.
        progress: show a progress bar; needs tqdm.

    Raises:
        FloatingPointError: if the loss, another metric or the state is not finite. The error says
            in which step, and where the last good checkpoint is. A bad state is never saved. If the
            gradient is not finite but the new state is, the optimizer skipped the step, as
            `optax.apply_if_finite` does, and the training continues.
        ValueError: if `folder` holds another model, another recipe, more than `steps` steps, or
            only states that cannot be read.
    """
    for name, value, low in (
        ("steps", steps, 1), ("save_every", save_every, 1), ("evaluate_every", evaluate_every, 1),
        ("log_every", log_every, 1), ("patience", 0 if patience is None else patience, 0),
    ):  # fmt: skip
        check_at_least("training.fit", name, value, low)
    check_choice("training.fit", "mode", mode, ("max", "min"))
    if (score is not None and evaluate is None) or (patience is not None and score is None):
        raise ValueError("training.fit: `patience` needs `score`, and `score` needs `evaluate`.")
    batch_of = _batch_of(batches, steps)
    due = lambda done, every: done % every == 0 or done == steps
    state = jax.tree.map(settled, state)
    recipe = recipe_of(score, mode, about)
    advance = compiled(step, state)

    with contextlib.ExitStack() as stack:
        checkpoints = None if folder is None else Checkpoints("training.fit", folder, recipe=recipe)
        if checkpoints is not None:
            stack.callback(checkpoints.close)
        state, reached, text = begin(checkpoints, state, recipe, steps, patience, allow_changes)
        start = int(state.step)
        waiting: Done | None = None
        log, note = joined(stack, loggers, progress, start, steps)
        if text:
            note(start, text)

        def check(done, state):
            """Raises an error if a step is bad; if the optimizer skipped the step, notes it.

            `state` may be the state after the next step, because a bad state stays bad.
            """
            if done.finite:
                return
            numbers = _numbers(done.metrics).items()
            bad = [f"{name} is {x}" for name, x in numbers if not math.isfinite(x)]
            where = f"in step {done.step}, with batch {done.step - 1}"
            if not done.may_be_skipped() or unsound(state):
                raise _not_finite(where, bad, checkpoints)
            text = f"training.fit: not finite {where}: {', '.join(bad)}. The optimizer skipped it."
            note(done.step, text)

        def record(done, scores):
            if scores or due(done.step, log_every):
                log(done.step, _numbers(done.metrics) | scores)

        for i in range(start, steps):
            if reached.impatient(patience):
                break
            batch = batch_of(i)
            if i == start:
                look_at(step, state, batch)
            state, *outcome = advance(state, batch)
            if waiting is not None:  # one step late, so as never to wait for the device
                check(waiting, state)
                record(waiting, {})
            waiting = Done(i + 1, *outcome)
            evaluating = evaluate is not None and due(i + 1, evaluate_every)
            if not evaluating and (checkpoints is None or not due(i + 1, save_every)):
                continue
            check(waiting, state)  # before it is evaluated or saved
            scores = {}
            if evaluate is not None and evaluating:
                scores = {f"eval/{name}": float(x) for name, x in evaluate(state).items()}
                if score is not None:
                    reached = _judged(reached, i + 1, score, mode, scores)
            record(waiting, scores)
            waiting = None
            if checkpoints is not None:
                if bad := unsound(state):
                    raise _not_finite(f"after step {i + 1}", bad, checkpoints)
                checkpoints.save(state, reached)
        if waiting is not None:
            check(waiting, state)
            record(waiting, {})
    early = int(state.step) < steps
    return Fitted(state, reached.best_step, reached.best_score, early)


def _batch_of(batches, steps):
    """Returns `batches` as a function of the step."""
    if callable(batches):
        return batches
    kind = type(batches).__name__
    wanted = f"`batches` must be a function of the step, or hold a batch for each of {steps} steps"
    if not hasattr(batches, "__getitem__"):
        raise TypeError(
            f"training.fit: {wanted}, got {kind}. An iterator cannot resume where it was. Give "
            f"`lambda i: ...` that makes the batch of step i, with rows from "
            f"`metricjax.samplers.Batches` for instance."
        )
    if isinstance(batches, list | tuple) and len(batches) < steps:
        raise ValueError(
            f"training.fit: {wanted}, got a {kind} of {len(batches)}. Give `lambda i: batch` for a "
            f"batch that stays the same, `lambda i: batches[i % len(batches)]` to repeat some."
        )

    def batch_of(i):
        try:
            return batches[i]
        except LookupError as error:
            raise ValueError(
                f"training.fit: {wanted}, got {kind} without batch {i}: {error!r}."
            ) from error

    return batch_of


def _judged(reached, done, score, mode, scores):
    if (value := scores.get(f"eval/{score}")) is None:
        raise ValueError(
            f"training.fit: `score` must be in what `evaluate` gives, got {score!r}; it gives "
            f"{', '.join(name.removeprefix('eval/') for name in scores)}."
        )
    sign = 1 if mode == "max" else -1
    if sign * value > (-math.inf if reached.best_score is None else sign * reached.best_score):
        return Progress(done, value)
    return reached._replace(since_best=reached.since_best + 1)


def _not_finite(where, what, checkpoints):
    if checkpoints is None:
        kept = "No checkpoint is kept, as `folder` was not given."
    elif (last := checkpoints.last) is None:
        kept = "There is no checkpoint yet."
    else:
        kept = f"The last good checkpoint is {checkpoints.folder / str(last)}."
    return FloatingPointError(f"training.fit: not finite {where}: {', '.join(what)}. {kept}")


def _numbers(metrics):
    return {name: float(x) for name, x in jax.device_get(metrics).items()}
