"""A network, a metric loss and a classifier."""

from collections.abc import Callable

import optax

from metricjax.training._step import Step, Weights, make_scheme


def with_classifier(
    network: Callable,
    classifier: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    classification: Callable = optax.softmax_cross_entropy_with_integer_labels,
    weights: Weights | None = None,
    axis_name: str | None = None,
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

    def add_losses(run, inputs, labels):
        embeddings = run.network("network", network, inputs)
        run.metric_loss("metric_loss", loss, embeddings, labels)
        run.classifier_loss("classifier", classifier, classification, embeddings, labels)

    return make_scheme(
        "with_classifier", add_losses, optimizer, ["network", "classifier"],
        weights=weights, known=["metric_loss", "classifier_loss"], axis_name=axis_name,
    )  # fmt: skip
