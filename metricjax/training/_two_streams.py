"""Anchors and what they are compared with, as two inputs."""

from collections.abc import Callable

import optax

from metricjax._core.refs import gather_refs, replicated
from metricjax._core.types import Refs
from metricjax.training._step import Step, make_scheme


def two_streams(
    network: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
) -> Step:
    """Compares the anchors of a batch with a second input: sketches with photos, say.

    Row i of both has the same label, so the two are a positive pair. Anchors are not compared with
    each other.

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
        network, optimizer, axis_name: see `metric_loss_only`. It is called for each input; two
            networks are one function that looks at the structure of its input.
        loss: as in `metric_loss_only`, one that takes ``refs``, which a miner is given, too.

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
