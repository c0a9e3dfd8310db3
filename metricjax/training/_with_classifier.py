"""A network, a metric loss and a classifier."""

from collections.abc import Callable

import optax

from metricjax._core.types import AxisName
from metricjax.training._step import Run, Step, Weights, check_weights, classifier_loss, make_step


def with_classifier(
    network: Callable,
    classifier: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    classification: Callable = optax.softmax_cross_entropy_with_integer_labels,
    weights: Weights | None = None,
    axis_name: AxisName | None = None,
) -> Step:
    """Minimizes a metric loss and the loss of a classifier of the embeddings together.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> linear = lambda params, x: x @ params
        >>> optimizer = optax.sgd(0.1)
        >>> loss = mj.objective(mj.losses.contrastive)
        >>> step = jax.jit(mj.training.with_classifier(
        ...     linear, linear, loss, optimizer, weights={"classifier_loss": 0.5}
        ... ))
        >>> params = {"network": jnp.eye(3), "classifier": jnp.zeros((3, 2))}
        >>> state = mj.training.State.create(params, optimizer)
        >>> state, metrics = step(state, (jnp.eye(3), jnp.array([0, 1, 1])))
        >>> print(f"{metrics['metric_loss']:.2f} {metrics['classifier_loss']:.2f}")
        1.41 0.69

    Args:
        network, loss, optimizer, axis_name: see `metric_loss_only`.
        classifier: ``(params["classifier"], embeddings) -> logits``; `network`'s rules hold.
        classification: ``(logits, labels)``: a number for each sample, or one for all.
        weights: factors of ``metric_loss`` and ``classifier_loss``, 1 by default; numbers, or
            schedules of Optax, functions of the step.

    Returns:
        ``step(state, (inputs, labels)) -> (state, metrics)``, not yet compiled.
    """
    name = "with_classifier"
    weights = check_weights(name, weights, ["metric_loss", "classifier_loss"])

    def objective(params, state, batch, key):
        inputs, labels = batch
        run = Run(name, params, state, key, weights, ["network", "classifier"], ["loss"])
        embeddings = run.network("network", network, inputs)
        run.metric_loss("metric_loss", loss, embeddings, labels)
        logits = run.network("classifier", classifier, embeddings)
        run.add("classifier_loss", classifier_loss(classification, logits, labels))
        return run.result()

    return make_step(objective, optimizer, axis_name=axis_name)
