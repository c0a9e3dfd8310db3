"""A memory of past batches, to compare the current batch with."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import as_labels, check_at_least, check_embeddings, check_weights
from metricjax._core.masked import upcast
from metricjax._core.refs import gather_refs, gather_same, replicated, self_refs, spread_as
from metricjax._core.types import AxisName, Labels, Refs


class MemoryBank(NamedTuple):
    """Keeps the last enqueued embeddings, without gradient, and their labels, in a ring of slots.

    The bank is an immutable pytree of fixed shape. Like any other pytree, it goes through `jit`,
    `vmap` and `scan`, into a train state and into a checkpoint. There are two ways to compare a
    batch with it:

    - `refs` of the batch, then `enqueue`: the references are the batch, with its gradient, followed
      by the memory. In tuples, 0 to N - 1 are the rows of the batch, and N + s is slot s of the
      memory.
    - `enqueue`, then `refs()` without the batch: the references are the memory alone, and gradients
      reach only the anchors. In cross-batch memory, the anchors themselves were enqueued: pass
      their slots as ``self_index``. In MoCo, the keys of the anchors were enqueued: another
      encoder's embeddings of the same samples.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y = jnp.eye(3), jnp.array([0, 0, 1])
        >>> bank = mj.memory.MemoryBank.create(8, 3)
        >>> terms = mj.losses.contrastive(x, y, refs=bank.refs(x, y))
        >>> bank = bank.enqueue(x, y)
        >>> print(bank.labels, bank.where)
        [0 0 1 0 0 0 0 0] [1. 1. 1. 0. 0. 0. 0. 0.]

        Cross-batch memory, as `metricjax.nn.CrossBatchMemory` does it:

        >>> slots = bank.slots(len(x))
        >>> bank = bank.enqueue(x, y)
        >>> terms = mj.losses.contrastive(x, y, refs=bank.refs(self_index=slots))
        >>> print(slots)
        [3 4 5]

    Attributes:
        embeddings: ``[Q, D]``.
        labels: ``[Q]``, or a pytree of arrays with leading axis Q.
        where: ``[Q]``, the weight that each row was enqueued with; 0 means that the slot is empty.
        position: the slot that the next row is written to.

    References:
        Wang et al., `Cross-Batch Memory for Embedding Learning
        <https://arxiv.org/abs/1912.06798>`_, 2020; He et al., `Momentum Contrast for Unsupervised
        Visual Representation Learning <https://arxiv.org/abs/1911.05722>`_, 2020.
    """

    embeddings: Float[Array, "q d"]
    labels: Labels
    where: Float[Array, " q"]
    position: Int[Array, ""]

    @classmethod
    def create(
        cls, size: int, embedding_size: int, *, dtype: Any = jnp.float32, labels: Labels = None
    ) -> Self:
        """Creates an empty memory.

        Args:
            size: Q, the number of rows that the memory holds.
            embedding_size: D.
            dtype: the dtype of the embeddings. Half precision halves the memory. Computations with
                it are in float32, as everywhere.
            labels: the labels of some batch, or anything with the same structure, dtypes, and
                shapes after the first axis; ``[N]`` integers by default.
        """
        check_at_least("MemoryBank.create", "size", size, 1)
        check_at_least("MemoryBank.create", "embedding_size", embedding_size, 1)
        embeddings = jnp.zeros((size, embedding_size), dtype)
        check_embeddings("MemoryBank.create", "dtype", embeddings)
        labels = jnp.zeros(0, int) if labels is None else labels
        empty = lambda x: jnp.zeros((size, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))
        where = jnp.zeros(size, upcast(embeddings[:0]).dtype)
        return cls(embeddings, jax.tree.map(empty, labels), where, jnp.zeros((), jnp.int32))

    def enqueue(
        self,
        embeddings: Float[Array, "n d"],
        labels: Labels,
        where: Num[Array, " n"] | None = None,
        *,
        axis_name: AxisName | None = None,
    ) -> Self:
        """Returns the memory with a batch in place of its oldest rows.

        If the batch has more rows than the memory, the last rows of the batch are kept.

        Args:
            embeddings: ``[N, D]``; no gradient flows to them from the memory.
            labels: ``[N]``, or a pytree like the one that the memory was created for.
            where: ``[N]`` weights, which are kept for `refs`; rows of weight 0 are left out.
            axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over. The rows of
                all devices are enqueued on every device, in the order of the axis.
        """
        rows = self._checked("MemoryBank.enqueue", embeddings, labels, where)
        rows = _everyone(rows, axis_name)
        slots, position = self._ahead(rows[2] > 0)

        def put(old, new):
            new = replicated(old).at[slots].set(new.astype(old.dtype), mode="drop")
            return spread_as(new, old)

        embeddings, labels, where = jax.tree.map(put, self[:3], jax.lax.stop_gradient(rows))
        return self._replace(embeddings=embeddings, labels=labels, where=where, position=position)

    def slots(
        self, n: int, where: Num[Array, " n"] | None = None, *, axis_name: AxisName | None = None
    ) -> Int[Array, " n"]:
        """Returns the slot that `enqueue` will write each row of a batch to; Q for left out rows.

        After `enqueue`, the slots are the ``self_index`` of the batch among ``refs()`` of the
        memory. ``slots[index]`` turns indices of the batch into indices of those references.

        Args:
            n: N, the number of rows of the batch (of this device's part of it).
            where, axis_name: the same as for `enqueue`.
        """
        check_weights("MemoryBank.slots", "where", where, "n", n)
        slots, _ = self._ahead(_everyone(self._weights(n, where) > 0, axis_name))
        if axis_name is None:
            return slots
        start = jax.lax.axis_index(axis_name) * n
        return jax.lax.dynamic_slice_in_dim(slots, start, n)

    def refs(
        self,
        embeddings: Float[Array, "n d"] | None = None,
        labels: Labels = None,
        where: Num[Array, " n"] | None = None,
        *,
        self_index: Int[Array, " n"] | None = None,
        axis_name: AxisName | None = None,
    ) -> Refs:
        """Returns what to compare a batch with: the batch itself, if it is given, and the memory.

        Args:
            embeddings: ``[N, D]``, a batch that is not in the memory yet; gradients flow to it.
            labels: ``[N]``, the labels of the batch.
            where: ``[N]``, the weights of the batch.
            self_index: ``[N]``, the slots of the anchors, if they are in the memory: what `slots`
                returned before the anchors were enqueued.
            axis_name: the axis along which the batches of all devices are gathered, see
                `metricjax.gather_refs`.

        Returns:
            `Refs`, in which empty slots have weight 0.
        """
        if embeddings is None:
            return Refs(self.embeddings, self.labels, self_index, self.where)
        if self_index is not None:
            raise ValueError(
                "MemoryBank.refs: `self_index` says where the anchors are in the memory; a batch "
                "that is not in it yet is its own."
            )
        embeddings, labels, weights = self._checked("MemoryBank.refs", embeddings, labels, where)
        if axis_name is None:
            batch = self_refs(embeddings, labels, weights)
        else:
            batch = gather_refs(embeddings, labels, axis_name, where=weights)
        x, past = upcast(batch.embeddings), upcast(replicated(self.embeddings))
        dtype = max(x.dtype, past.dtype, key=lambda t: jnp.finfo(t).bits)
        mine = x.astype(dtype), batch.labels, batch.where
        others = past.astype(dtype), *replicated((self.labels, self.where))
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), mine, others)
        return Refs(joined[0], joined[1], batch.self_index, joined[2])

    def _weights(self, n, where):
        dtype = self.where.dtype
        return jnp.ones(n, dtype) if where is None else jnp.asarray(where).astype(dtype)

    def _ahead(self, kept):
        """Returns the slots of the next rows, if they are `kept`, and the position after them."""
        size, kept = len(self.where), replicated(kept)
        rank = jnp.cumsum(kept, dtype=jnp.int32)  # starts at 1
        total = jnp.sum(kept, dtype=jnp.int32)
        last = kept & (rank > total - size)
        slots = jnp.where(last, (self.position + rank - 1) % size, size)
        return slots.astype(int), (self.position + total) % size

    def _checked(self, function, embeddings, labels, where):
        embeddings = jnp.asarray(embeddings)
        check_embeddings(function, "embeddings", embeddings)
        labels = as_labels(function, "labels", labels, "embeddings", len(embeddings))
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"{function}: `embeddings` must have {self.embeddings.shape[1]} features, as the "
                f"memory has, got {embeddings.shape}."
            )
        check_weights(function, "where", where, "embeddings", len(embeddings))
        kind = lambda x: f"{x.dtype}[{', '.join(map(str, ('N', *x.shape[1:])))}]"
        wanted, got = (jax.tree.map(kind, y) for y in (self.labels, labels))
        if wanted != got:
            raise TypeError(
                f"{function}: `labels` must be {wanted}, as the memory has, got {got}; give some "
                f"to `MemoryBank.create`."
            )
        return embeddings, labels, self._weights(len(embeddings), where)


def _everyone(rows, axis_name):
    """Gathers the rows of all devices, so that every device has the same rows."""
    return replicated(rows) if axis_name is None else gather_same(rows, axis_name)
