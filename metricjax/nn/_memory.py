"""A module that compares a batch with the batches before it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from metricjax._core.check import check_rows
from metricjax._core.record import record_of
from metricjax._core.types import AxisName, Labels, LossDict, Mined, Pairs
from metricjax.memory import MemoryBank
from metricjax.tuples import all_pairs, as_pairs


class CrossBatchMemory(nnx.Module):
    """Computes a loss between a batch and a memory of past batches, kept in ``bank``.

    Each call first enqueues the batch and then compares it with the memory, which now contains the
    batch. The gradient therefore reaches the anchors only. ``bank`` is a `flax.nnx.Variable` that
    holds a `metricjax.memory.MemoryBank`, not a parameter. Use ``bank.set_value`` to reset it.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> memory = mj.nn.CrossBatchMemory(mj.losses.contrastive, 1024, 4)
        >>> for _ in range(3):
        ...     loss, parts = mj.reduce(memory(jnp.eye(4), jnp.array([0, 0, 1, 1])))
        >>> print(memory.bank.get_value().where.sum())
        12.0

    Args:
        loss: one of `metricjax.losses` that takes `refs`, a module of `metricjax.nn`, or any
            function with the same arguments. Pass its options in the call or with
            `functools.partial`.
        size: how many embeddings the memory holds.
        embedding_size: D.
        miner: ``(embeddings, labels, refs=, ...) -> mined`` chooses pairs or triplets of the batch
            and the memory. ``refs.self_index`` says where the batch is in the memory.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        dtype, labels: see `metricjax.memory.MemoryBank.create`.

    References:
        Wang et al., `Cross-Batch Memory for Embedding Learning
        <https://arxiv.org/abs/1912.06798>`_, 2020.
    """

    def __init__(
        self,
        loss: Callable[..., LossDict],
        size: int,
        embedding_size: int,
        *,
        miner: Callable[..., Mined] | None = None,
        rngs: nnx.Rngs | None = None,
        dtype: Any = jnp.float32,
        labels: Labels = None,
    ):
        record = record_of(loss)
        if not record.accepts("refs"):
            raise TypeError(f"nn.CrossBatchMemory: {record.name} does not compare with references.")
        bank = MemoryBank.create(size, embedding_size, dtype=dtype, labels=labels)
        self.bank = nnx.Variable(bank)
        self.inner, self.miner = loss, miner

    def __call__(
        self,
        embeddings: Float[Array, "n d"],
        labels: Labels,
        *params,
        where: Num[Array, " n"] | None = None,
        enqueue_mask: Bool[Array, " n"] | None = None,
        mined: Mined | None = None,
        key: PRNGKeyArray | None = None,
        axis_name: AxisName | None = None,
        **options,
    ) -> LossDict:
        """Enqueues the batch and returns the loss dict of the batch against the memory.

        Args:
            embeddings: ``[N, D]``.
            labels: ``[N]``, or the pytree that the memory was created for.
            *params: further positional arguments of the loss, after the labels.
            where: ``[N]`` sample weights; rows of weight 0 are not enqueued and are not anchors.
            enqueue_mask: ``[N]``; rows that are true are enqueued, and the other rows are the
                anchors. By default all rows are both.
            mined: pairs or triplets within the batch. They are added as pairs to those of the
                miner, or to all pairs if there is no miner. Their references are looked up in the
                memory; pairs whose reference was not enqueued are dropped.
            key: a key for random miners.
            axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over. Every
                device enqueues the whole batch. Pass the same `axis_name` to `reduce`, or let
                `objective` pass both.
            **options: options of the loss.
        """
        queued = anchors = where
        if enqueue_mask is not None:
            n = len(embeddings)
            check_rows("nn.CrossBatchMemory", "enqueue_mask", enqueue_mask, "embeddings", n)
            weights = jnp.ones(n) if where is None else jnp.asarray(where)
            none = jnp.zeros_like(weights)
            queued = jnp.where(enqueue_mask, weights, none)
            anchors = jnp.where(enqueue_mask, none, weights)
        bank = self.bank.get_value()
        slots = bank.slots(len(embeddings), queued, axis_name=axis_name)
        bank = bank.enqueue(embeddings, labels, queued, axis_name=axis_name)
        self.bank.set_value(bank)
        rows = embeddings, labels, anchors, slots
        if axis_name is not None and record_of(self.inner).needs_whole_batch():
            rows = jax.lax.all_gather(rows, axis_name, tiled=True)
        elif axis_name is not None and record_of(self.inner).has("axis_name"):
            options["axis_name"] = axis_name
        embeddings, labels, anchors, slots = rows
        refs = bank.refs(self_index=slots)
        shared: dict[str, Any] = {"refs": refs}
        if anchors is not None:
            shared["where"] = anchors
        relation = {"match": options["match"]} if "match" in options else {}
        chosen = None
        if self.miner is not None:
            random = {} if key is None else {"key": key}
            chosen = self.miner(embeddings, labels, **shared, **relation, **random)
        if mined is not None:
            if chosen is None:
                there = refs._replace(where=bank.where > 0)  # the loss multiplies by the weights
                chosen = all_pairs(labels, there, **relation)
            chosen = _with_tuples_of_batch(chosen, mined, slots, bank)
        if chosen is not None:
            shared["mined"] = chosen
        return self.inner(embeddings, labels, *params, **shared, **options)


def _with_tuples_of_batch(chosen: Mined, mined: Mined, slots, bank: MemoryBank) -> Pairs:
    """Adds pairs within the batch, whose rows are in `slots`, to pairs of batch and memory.

    Triplets of a miner are converted to pairs with `as_pairs`, as in PyTorch Metric Learning.
    """
    size, n = len(bank.where), len(slots)
    chosen = as_pairs(chosen, (n, size))
    own = as_pairs(mined, (n, n))
    if own.positive.shape != (n, n):
        raise ValueError(
            f"nn.CrossBatchMemory: `mined` must have shape {(n, n)}, within the batch, got "
            f"{own.positive.shape}."
        )
    moved = lambda x: jnp.zeros((n, size), x.dtype).at[:, slots].add(x, mode="drop")
    return Pairs(*(a + moved(b).astype(a.dtype) for a, b in zip(chosen, own, strict=True)))
