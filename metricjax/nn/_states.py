"""Modules that own the state of a self-supervised loss."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from metricjax import losses
from metricjax._core.check import check_at_least
from metricjax._core.types import LossDict
from metricjax.losses.views._sogclr import ISogCLRState
from metricjax.nn._options import checked


class DINO(nnx.Module):
    """Owns the ``center`` of `metricjax.losses.dino`, a `flax.nnx.BatchStat`.

    Args:
        num_prototypes: K, the number of scores.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., Any]] = staticmethod(losses.dino)

    def __init__(self, num_prototypes: int, *, rngs: nnx.Rngs | None = None, **options):
        check_at_least("nn.DINO", "num_prototypes", num_prototypes, 1)
        self.center = nnx.BatchStat(jnp.zeros(num_prototypes))
        self.options = tuple(sorted(checked(type(self), options).items()))

    def __call__(
        self, student: Float[Array, "v n k"], teacher: Float[Array, "t n k"], **options
    ) -> LossDict:
        """Returns the loss dict of the pure function and keeps the new center."""
        options = dict(self.options) | options
        terms, center = self.loss(student, teacher, center=self.center[...], **options)
        self.center[...] = center.astype(jnp.float32)
        return terms


class _OfSamples(nnx.Module):
    """Owns the ``state`` of a loss that remembers every sample of a data set.

    The state is a `flax.nnx.BatchStat`.

    Args:
        num_samples: S, the size of the data set.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., Any]]
    first_state: ClassVar[Callable[..., Any]]
    """The state of S samples that were not seen yet."""

    def __init__(self, num_samples: int, *, rngs: nnx.Rngs | None = None, **options):
        check_at_least(f"nn.{type(self).__name__}", "num_samples", num_samples, 1)
        self.state = nnx.BatchStat(type(self).first_state(num_samples))
        self.options = tuple(sorted(checked(type(self), options).items()))

    def __call__(
        self,
        embeddings: Float[Array, "n d"],
        ref_embeddings: Float[Array, "n d"],
        index: Int[Array, " n"],
        **options,
    ) -> LossDict:
        """Returns the loss dict of the pure function and keeps the new state."""
        options = dict(self.options) | options
        state = self.state.get_value()
        terms, new = self.loss(embeddings, ref_embeddings, index, state=state, **options)
        self.state.set_value(jax.tree.map(lambda x: x.astype(jnp.float32), new))
        return terms


class SogCLR(_OfSamples):
    """Owns the ``state`` of `metricjax.losses.sogclr`, one number for each of ``num_samples``."""

    loss = staticmethod(losses.sogclr)
    first_state = staticmethod(lambda n: jnp.full(n, -jnp.inf))


class ISogCLR(_OfSamples):
    """Owns the ``state`` of `metricjax.losses.isogclr` for each of ``num_samples``."""

    loss = staticmethod(losses.isogclr)
    first_state = staticmethod(ISogCLRState.create)
