"""The loop around a step."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from metricjax._core.check import check_at_least
from metricjax._optional import needed
from metricjax.training._checkpoints import Checkpoints, Progress
from metricjax.training._step import Metrics, State, Step, is_key, settled


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        state: after the last step.
        best_step: of the evaluation with the best score; ``None`` without scores.
        best_score: that score.
        stopped_early: for lack of patience.
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
    patience: int | None = None,
    loggers: Sequence[Callable[[int, dict[str, float]], None]] = (),
    log_every: int = 100,
    progress: bool = False,
) -> Fitted:
    """Trains, evaluates, logs and saves; started again, it goes on where it was.

    The last state in `folder` is restored, with the best score so far. As batches and random
    numbers depend on the number of the step alone, a training that was killed ends with the same
    parameters as one that was not.

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
        step: of `make_step` or one of the schemes. It is compiled here.
        state: where to begin, if there is nothing in `folder`. It stays as it is; the states of
            later steps are donated, so copy what `evaluate` is to keep of them. On several devices,
            place it on the mesh: shardings are kept.
        batches: ``batches(i)`` or ``batches[i]`` is the batch of step i, counted from 0.
        steps: how many are to be done in all, with those of runs before.
        folder: for checkpoints, by Orbax: the last one and the one with the best score. None are
            written by default.
        save_every: after how many steps a checkpoint is written; one is after each evaluation and
            at the end, too. It takes place in the background.
        evaluate: ``state -> {name: number}``.
        evaluate_every: after how many steps; also at the end.
        score: the name in what `evaluate` gives that says which state is best: the larger the
            better; a NaN never is.
        patience: how many evaluations in a row may fail to be the best; the next one that does ends
            the training.
        loggers: called with the number of steps done and a dict of numbers, those of `evaluate` as
            ``eval/...``: `print_metrics`, `CsvLog`, `TensorBoardLog` or your own function. What has
            a method ``close`` is closed at the end. Of many processes, the first one logs.
        log_every: after how many steps; also with each evaluation.
        progress: show a progress bar; needs tqdm.

    Raises:
        FloatingPointError: the loss, another metric or the state is not finite. It says in which
            step, and where the last good checkpoint is. A bad state is never saved.
    """
    for name, value, low in (
        ("steps", steps, 1), ("save_every", save_every, 1), ("evaluate_every", evaluate_every, 1),
        ("log_every", log_every, 1), ("patience", 0 if patience is None else patience, 0),
    ):  # fmt: skip
        check_at_least("training.fit", name, value, low)
    if (score is not None and evaluate is None) or (patience is not None and score is None):
        raise ValueError("training.fit: `patience` needs `score`, and `score` needs `evaluate`.")
    batch_of = batches if callable(batches) else batches.__getitem__
    due = lambda done, every: done % every == 0 or done == steps
    state = jax.tree.map(settled, state)
    advance = _compiled(step, state)

    with contextlib.ExitStack() as stack:
        checkpoints = None if folder is None else Checkpoints("training.fit", folder)
        if checkpoints is not None:
            stack.callback(checkpoints.close)
        found = checkpoints and checkpoints.restore(state)
        state, reached = found or (jax.tree.map(jnp.copy, state), Progress())
        start = int(state.step)
        waiting: tuple[int, Metrics, jax.Array] | None = None
        log = _joined(stack, loggers, progress, start, steps)

        def check(done, metrics, finite):
            if not finite:
                bad = [f"{n} is {x}" for n, x in _numbers(metrics).items() if not math.isfinite(x)]
                raise _not_finite(f"in step {done}, with batch {done - 1}", bad, checkpoints)

        def settle(done, metrics, finite, scores=None):
            check(done, metrics, finite)
            if scores or due(done, log_every):
                log(done, _numbers(metrics) | (scores or {}))

        for i in range(start, steps):
            if patience is not None and reached.since_best > patience:
                break
            state, metrics, finite = advance(state, batch_of(i))
            if waiting is not None:  # one step late: the device is never waited for
                settle(*waiting)
            waiting = i + 1, metrics, finite
            scores = {}
            if evaluate is not None and due(i + 1, evaluate_every):
                check(*waiting)
                scores = {f"eval/{name}": float(x) for name, x in evaluate(state).items()}
                if score is not None:
                    reached = _judged(reached, i + 1, score, scores)
            if scores or (checkpoints is not None and due(i + 1, save_every)):
                settle(*waiting, scores)
                waiting = None
                if checkpoints is not None:
                    if bad := _unsound(state):
                        raise _not_finite(f"after step {i + 1}", bad, checkpoints)
                    checkpoints.save(state, reached)
        if waiting is not None:
            settle(*waiting)
    early = int(state.step) < steps
    return Fitted(state, reached.best_step, reached.best_score, early)


def _compiled(step, state):
    """The step, and whether all its metrics are finite."""

    def advance(state, batch):
        state, metrics = step(state, batch)
        finite = jnp.array(True)
        for name, x in metrics.items():
            if jnp.shape(x):
                raise ValueError(
                    f"training.fit: metrics must be scalars, got {name!r} of shape {jnp.shape(x)}."
                )
            finite &= jnp.isfinite(x)
        return jax.tree.map(settled, state), metrics, finite

    on_mesh = lambda x: x.sharding if isinstance(x.sharding, NamedSharding) else None
    shardings = jax.tree.map(on_mesh, state), None, None
    return jax.jit(advance, donate_argnums=0, out_shardings=shardings)


def _judged(reached, done, score, scores):
    if (value := scores.get(f"eval/{score}")) is None:
        raise ValueError(
            f"training.fit: `score` must be in what `evaluate` gives, got {score!r}; it gives "
            f"{', '.join(name.removeprefix('eval/') for name in scores)}."
        )
    if value > (-math.inf if reached.best_score is None else reached.best_score):
        return Progress(done, value)
    return reached._replace(since_best=reached.since_best + 1)


def _unsound(state):
    """Leaves that must not be saved: not finite parameters, and NaN anywhere."""
    leaves = jax.tree.leaves_with_path(jax.device_get(_sound(state)))
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, good in leaves if not good]


@jax.jit
def _sound(state):
    finite = lambda x: jnp.all(jnp.isfinite(x))
    no_nan = lambda x: jnp.array(True) if is_key(x) else ~jnp.any(jnp.isnan(x))
    good = jax.tree.map(no_nan, state)
    return good._replace(params=jax.tree.map(finite, state.params))


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


def _joined(stack, loggers, progress, start, steps):
    """All loggers and the bar as one function, which does nothing in all processes but one."""
    if jax.process_index():
        return lambda done, numbers: None
    for logger in loggers:
        if hasattr(logger, "close"):
            stack.callback(logger.close)
    bar = None
    if progress:
        advice = "training.fit: `progress` needs tqdm: pip install 'metricjax[train]'"
        tqdm = needed("tqdm", advice).tqdm
        bar = stack.enter_context(tqdm(desc="training", initial=start, total=steps))

    def log(done, numbers):
        for logger in loggers:
            logger(done, numbers)
        if bar is not None:
            bar.set_postfix({name: f"{x:.3g}" for name, x in numbers.items()}, refresh=False)
            bar.update(done - bar.n)

    return log
