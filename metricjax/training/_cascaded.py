"""A scheme for an embedding of several parts, each mined harder than the part before."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import optax

from metricjax._core.record import record_of
from metricjax.training._step import Step, Weights, make_scheme


class Stage(NamedTuple):
    """A part of the embedding, and how it is trained.

    Attributes:
        size: how many features the part has.
        loss: what `metricjax.objective` returns.
        miner: one of `metricjax.miners`. A miner that takes ``mined``, such as
            `metricjax.miners.hdc`, chooses from what the stage before mined. Instead, a miner may
            be bound to the loss by `metricjax.objective`; then nothing is passed to the next stage.
        classifier: ``(params, embeddings) -> logits``.
    """

    size: int
    loss: Callable
    miner: Callable | None = None
    classifier: Callable | None = None


def cascaded(
    network: Callable,
    stages: Sequence[Stage],
    optimizer: optax.GradientTransformation,
    *,
    classification: Callable = optax.softmax_cross_entropy_with_integer_labels,
    weights: Weights | None = None,
) -> Step:
    """Splits the embedding into parts, and trains each part with its own loss and miner.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> loss = mj.objective(mj.losses.contrastive)
        >>> stages = [mj.training.Stage(2, loss), mj.training.Stage(1, loss, mj.miners.hdc)]
        >>> optimizer = optax.sgd(0.1)
        >>> step = jax.jit(mj.training.cascaded(lambda params, x: x @ params, stages, optimizer))
        >>> state = mj.training.State.create({"network": jnp.ones((3, 3))}, optimizer)
        >>> state, metrics = step(state, (jnp.eye(3), jnp.array([0, 1, 1])))
        >>> print([name for name in sorted(metrics) if name.startswith("metric_loss_1")])
        ['metric_loss_1', 'metric_loss_1/neg_loss', 'metric_loss_1/pos_loss']

    Args:
        network, optimizer: see `metric_loss_only`. The network returns as many features as all
            stages have together.
        stages: the stages in order. Stage i may have class weights in ``params["loss_i"]``. If it
            has a classifier, it has ``params["classifier_i"]``.
        classification: see `with_classifier`.
        weights: factors of ``metric_loss_i`` and ``classifier_loss_i``, as in `with_classifier`.

    Returns:
        ``step(state, (inputs, labels)) -> (state, metrics)``, not yet compiled.

    References:
        Yuan et al., `Hard-Aware Deeply Cascaded Embedding <https://arxiv.org/abs/1611.05720>`_,
        2017.
    """
    name = "cascaded"
    heads = [f"classifier_{i}" for i, stage in enumerate(stages) if stage.classifier is not None]
    losses = [f"loss_{i}" for i in range(len(stages))]
    known = [f"metric_{x}" for x in losses] + [x.replace("_", "_loss_") for x in heads]
    size = sum(stage.size for stage in stages)

    def add_losses(run, inputs, labels):
        embeddings = run.network("network", network, inputs)
        if embeddings.shape[1] != size:
            raise ValueError(
                f"training.{name}: `network` must give {size} features, the sizes of all stages, "
                f"got {embeddings.shape[1]}."
            )
        mined, start = None, 0
        for i, stage in enumerate(stages):
            part = embeddings[:, start : start + stage.size]
            start += stage.size
            mined = _mine(run, stage.miner, part, labels, mined)
            given = {} if mined is None else {"mined": mined}
            run.metric_loss(f"metric_loss_{i}", stage.loss, part, labels, **given)
            if stage.classifier is not None:
                head = f"classifier_{i}", stage.classifier, classification
                run.classifier_loss(*head, part, labels)

    needed = ["network", *heads]
    return make_scheme(name, add_losses, optimizer, needed, losses, weights=weights, known=known)


def _mine(run, miner, embeddings, labels, before):
    if miner is None:
        return None
    given = {"mined": before} if before is not None and record_of(miner).accepts("mined") else {}
    if record_of(miner).accepts("key"):
        given["key"] = run.new_key()
    return miner(embeddings, labels, **given)
