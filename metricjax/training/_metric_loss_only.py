"""A network and a metric loss."""

from collections.abc import Callable

import optax

from metricjax.training._step import Step, make_scheme


def metric_loss_only(
    network: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
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
            is given one, for dropout. If it has one named ``variables``, it is given those of the
            state, and returns a pair: embeddings and the next variables.
        loss: of `metricjax.objective`, or any function of that shape. If there is
            ``params["loss"]``, it is given after the labels: class weights. Random miners get a key
            if the state has one.
        optimizer: of Optax.
        axis_name: see `make_step`. Give it to `metricjax.objective`, too.

    Returns:
        ``step(state, (inputs, labels)) -> (state, metrics)``, not yet compiled.
    """

    def add_losses(run, inputs, labels):
        run.metric_loss("metric_loss", loss, run.network("network", network, inputs), labels)

    return make_scheme("metric_loss_only", add_losses, optimizer, ["network"], axis_name=axis_name)
