"""Schemes with one network and a metric loss of the batch as it is."""

from collections.abc import Callable

import optax

from metricjax._core.refs import gather_refs, replicated
from metricjax._core.types import AxisName, Refs
from metricjax.training._step import Step, Weights, make_scheme


def metric_loss_only(
    network: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Step:
    """Embeds a batch and minimizes a metric loss.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> network = lambda params, x: x @ params
        >>> optimizer = optax.sgd(0.1)
        >>> loss = mj.objective(mj.losses.arcface)
        >>> step = jax.jit(mj.training.metric_loss_only(network, loss, optimizer))
        >>> params = {"network": jnp.eye(3), "loss": jnp.eye(2, 3)}
        >>> state = mj.training.State.create(params, optimizer)
        >>> state, metrics = step(state, (jnp.eye(3), jnp.array([0, 1, 1])))
        >>> print(sorted(metrics))
        ['grad_norm', 'loss', 'metric_loss', 'metric_loss/loss']

    Args:
        network: ``(params["network"], inputs) -> [N, D]``. If it has an argument named ``key``, it
            gets a random key, for example for dropout. If it has an argument named ``variables``,
            it gets the variables of the state, and returns a pair: the embeddings and the next
            variables.
        loss: what `metricjax.objective` returns, or any function like it. If there is
            ``params["loss"]``, it is passed after the labels, as class weights. Random miners get a
            key if the state has one.
        optimizer: an optimizer of Optax.
        axis_name: see `make_step`. Pass it to `metricjax.objective` as well.

    Returns:
        ``step(state, (inputs, labels)) -> (state, metrics)``, not yet compiled.
    """

    def add_losses(run, inputs, labels):
        run.metric_loss("metric_loss", loss, run.network("network", network, inputs), labels)

    return make_scheme("metric_loss_only", add_losses, optimizer, ["network"], axis_name=axis_name)


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
    """Minimizes the weighted sum of a metric loss and the loss of a classifier of the embeddings.

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
        classifier: ``(params["classifier"], embeddings) -> logits``. It may take a ``key`` and
            ``variables``, as `network` may.
        classification: ``(logits, labels)`` to a number for each sample, or one number for all.
        weights: factors of ``metric_loss`` and ``classifier_loss``, 1 by default. A factor is a
            number or a schedule of Optax, that is, a function of the step.

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


def two_streams(
    network: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Step:
    """Compares the anchors of a batch with a second input, for example sketches with photos.

    Row i of both inputs has the same label, so the two rows are a positive pair. Anchors are not
    compared with each other.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> optimizer = optax.sgd(0.1)
        >>> loss = mj.objective(mj.losses.triplet_margin)
        >>> step = mj.training.two_streams(lambda params, x: x @ params, loss, optimizer)
        >>> state = mj.training.State.create({"network": jnp.eye(3)}, optimizer)
        >>> batch = jnp.eye(3), jnp.ones((3, 3)), jnp.array([0, 1, 2])
        >>> state, metrics = jax.jit(step)(state, batch)
        >>> print(f"{metrics['loss']:.2f}")
        0.05

    Args:
        network, optimizer, axis_name: see `metric_loss_only`. The network is called for each input.
            To use two networks, write one function that looks at the structure of its input.
        loss: as in `metric_loss_only`, but it must take ``refs``. Its miner gets ``refs`` as well.

    Returns:
        ``step(state, (anchors, others, labels)) -> (state, metrics)``, not yet compiled.
    """

    def add_losses(run, anchors, others, labels):
        embeddings = run.network("network", network, anchors)
        references = run.network("network", network, others)
        if axis_name is None:
            refs = replicated(Refs(references, labels))
        else:
            refs = gather_refs(references, labels, axis_name)._replace(self_index=None)
        run.metric_loss("metric_loss", loss, embeddings, labels, refs=refs)

    return make_scheme("two_streams", add_losses, optimizer, ["network"], axis_name=axis_name)
