"""A loss between a batch and the batches before it."""

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
    """A loss between a batch and the batches before it, which stay in ``bank``.

    Each call enqueues the batch and then compares it with the memory, of which it is now a part: so
    the gradient reaches the anchors only. ``bank`` is a `flax.nnx.Variable` that holds a
    `metricjax.memory.MemoryBank` and no parameter; ``bank.set_value`` starts it anew.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> memory = mj.nn.CrossBatchMemory(mj.losses.contrastive, 1024, 4)
        >>> for _ in range(3):
        ...     loss, parts = mj.reduce(memory(jnp.eye(4), jnp.array([0, 0, 1, 1])))
        >>> print(memory.bank.get_value().where.sum())
        12.0

    Args:
        loss: one of `metricjax.losses` that takes `refs`, a module of `metricjax.nn`, or any
            function of that shape; give its options at the call or with `functools.partial`.
        size: how many embeddings the memory holds.
        embedding_size: D.
        miner: ``(embeddings, labels, refs=, ...) -> mined``, chooses pairs or triplets of the batch
            and the memory; ``refs.self_index`` is where the batch is in it.
        rngs: not needed; taken so that `flax.nnx.bridge.to_linen` can give it.
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
        """The loss dict of the batch against the memory, and the batch in the memory.

        Args:
            embeddings: ``[N, D]``.
            labels: ``[N]``, or the pytree that the memory was created for.
            *params: what the loss takes after the labels.
            where: ``[N]`` sample weights; rows of weight 0 are neither enqueued nor anchors.
            enqueue_mask: ``[N]``: these rows are enqueued, and the others are the anchors; by
                default, all are both.
            mined: pairs or triplets within the batch, added as pairs to those of the miner, or to
                all pairs. They are looked up in the memory; rows that were not enqueued are not
                found.
            key: for random miners.
            axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over: all devices
                enqueue all of it. Then `reduce` with the same, or leave both to `objective`.
            **options: of the loss.
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
    """Pairs of a batch and the memory, and those within the batch, which sits in some slots.

    Triplets of a miner become pairs, see `as_pairs`, as PyTorch Metric Learning has it.
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
