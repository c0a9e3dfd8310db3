"""Rows dealt into blocks of equal size."""

import jax
import jax.numpy as jnp

from metricjax._refs import replicated
from metricjax._stream import Stream
from metricjax._types import TripletRule, Triplets


class Cut:
    """Deals n rows out to parts of `size`: part k has the rows k, k + count, k + 2 count, ...

    So each part has rows from every device when the batch is sharded, and all devices work on it.
    """

    def __init__(self, n, size):
        self.n, self.size, self.count = n, size, -(-n // size)

    def __call__(self, tree):
        """Arrays ``[n, ...]`` as ``[size, count, ...]``, with zeros at the end."""

        def one(x):
            if padding := self.size * self.count - self.n:
                x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
            return x.reshape(self.size, self.count, *x.shape[1:])

        return jax.tree.map(one, replicated(tree))

    def at(self, parts, k):
        """Part k of what was cut."""
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, k, 1, False), parts)

    def rows(self, k):
        """The row numbers of part k; those from n on are padding."""
        return jnp.arange(self.size, dtype=jnp.int32) * self.count + k

    def join(self, x):
        """``[size, count, ...]`` as ``[n, ...]``."""
        return x.reshape(-1, *x.shape[2:])[: self.n]

    def stream(self, slab):
        return Stream(slab, self.count, self.rows, self.join).terms()


def cut_mined(cut, mined):
    """Mined pairs or triplets as a function of k: those of the anchors in part k."""
    if isinstance(mined, Triplets):
        ours = lambda k: mined.anchor % cut.count == k
        return lambda k: mined._replace(
            anchor=jnp.where(ours(k), mined.anchor // cut.count, 0),
            weights=jnp.where(ours(k), mined.weights, 0),
        )
    if isinstance(mined, TripletRule):
        parts = cut((mined.positive, mined.negative, mined.rows))
        return lambda k: TripletRule(*cut.at(parts, k), mined.keep)
    parts = cut(mined)
    return lambda k: cut.at(parts, k)
