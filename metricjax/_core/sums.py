"""Sums that a loss needs before its terms, and how two parts of a sum are added up."""

from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._core.stream import zeros_like


class OverRefs(NamedTuple):
    """What a loss yields to have it summed over the references of each anchor."""

    sums: Any


class OfAnchors(NamedTuple):
    """What a loss yields of its anchors alone. Each block of references is sent its share."""

    value: Any


class LogSum(NamedTuple):
    """The logarithm of a sum, as `logsumexp` returns it: -inf where nothing has been added."""

    log: Float[Array, "..."]

    @property
    def exists(self) -> Bool[Array, "..."]:
        return self.log != -jnp.inf

    @property
    def value(self) -> Float[Array, "..."]:
        """Returns the logarithm, or 0 where nothing has been added."""
        return jnp.where(self.exists, self.log, 0)


def _is_log(x):
    return isinstance(x, LogSum)


def add(total, part):
    join = lambda a, b: LogSum(jnp.logaddexp(a.log, b.log)) if _is_log(a) else a + b
    return jax.tree.map(join, total, part, is_leaf=_is_log)


def nothing(like):
    zero = lambda x: LogSum(zeros_like(x.log) - jnp.inf) if _is_log(x) else zeros_like(x)
    return jax.tree.map(zero, like, is_leaf=_is_log)


def share(cotangents, part, total):
    """Returns the tangents or cotangents of a part.

    Those of a log-sum are multiplied by the part's share of the total.
    """

    def one(c, part, total):
        if not _is_log(c):
            return c
        none = part.log == -jnp.inf
        fraction = jnp.exp(jnp.where(none, 0, part.log) - jnp.where(none, 0, total.log))
        return LogSum(jnp.where(none, 0, c.log * fraction))

    return jax.tree.map(one, cotangents, part, total, is_leaf=_is_log)


def sent(body, known, *, all_refs: bool = True, then=None):
    """Runs a loss on the `known` sums. Returns what it yields next or returns, and if it returned.

    With `all_refs` the anchors meet all references, and sums over references are sent back at once.
    If `then` is given, the loss continues with ``then(part)`` of everything else that it yields.
    """
    if not isinstance(body, Generator):
        return body, True
    known = iter(known)
    try:
        part = next(body)
        while True:
            if all_refs and isinstance(part, OverRefs | OfAnchors):
                part = body.send(part[0])
                continue
            for total in known:  # only the next one
                part = body.send(total)
                break
            else:
                if then is None:
                    return part, False
                part = body.send(then(part))
    except StopIteration as end:
        return end.value, True
