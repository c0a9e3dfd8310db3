"""Modules that own a few numbers of a loss: boundaries, a scale, a histogram."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from metricjax import losses
from metricjax._core.types import LossDict
from metricjax.nn._options import checked


class Margin(nnx.Module):
    """Owns the boundary ``beta`` of `metricjax.losses.margin`.

    Args:
        num_classes: C, for one boundary for each class, ``[C]``; ``None`` for a single boundary.
        beta: initial value of the boundary.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        param_dtype: dtype of the boundary.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., LossDict]] = staticmethod(losses.margin)

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        beta: float = 1.2,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        **options,
    ):
        shape = () if num_classes is None else (num_classes,)
        self.beta = nnx.Param(jnp.full(shape, beta, param_dtype))
        self.options = tuple(sorted(checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """Returns the loss dict of the pure function; `options` override the constructor's."""
        return self.loss(embeddings, labels, self.beta[...], **(dict(self.options) | options))


class _ScaleAndBias(nnx.Module):
    """Owns the ``bias`` of a loss and the logarithm of its scale, ``log_scale``.

    Args:
        scale, bias: initial values; those of the paper by default.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        param_dtype: dtype of both.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., LossDict]]
    first: ClassVar[tuple[float, float]]
    """The paper's scale and bias."""

    def __init__(
        self,
        *,
        scale: float | None = None,
        bias: float | None = None,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        **options,
    ):
        scale = self.first[0] if scale is None else scale
        bias = self.first[1] if bias is None else bias
        self.log_scale = nnx.Param(jnp.log(jnp.asarray(scale, param_dtype)))
        self.bias = nnx.Param(jnp.asarray(bias, param_dtype))
        self.options = tuple(sorted(checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """Returns the loss dict of the pure function; `options` override the constructor's."""
        scale, bias = jnp.exp(self.log_scale[...]), self.bias[...]
        return self.loss(embeddings, labels, scale, bias, **(dict(self.options) | options))


class SigLIP(_ScaleAndBias):
    """Owns ``bias`` and the logarithm of the scale, ``log_scale``, of `metricjax.losses.siglip`."""

    loss = staticmethod(losses.siglip)
    first = 10.0, -10.0


class GE2E(_ScaleAndBias):
    """Owns ``bias`` and the logarithm of the scale, ``log_scale``, of `metricjax.losses.ge2e`."""

    loss = staticmethod(losses.ge2e)
    first = 10.0, -5.0


class DynamicSoftMargin(nnx.Module):
    """Owns the running ``histogram`` of `metricjax.losses.dynamic_soft_margin`.

    The histogram is a `flax.nnx.BatchStat`.

    Args:
        num_bins: number of bins of the histogram.
        rngs: not used; accepted so that `flax.nnx.bridge.to_linen` can pass it.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., Any]] = staticmethod(losses.dynamic_soft_margin)

    def __init__(self, num_bins: int = 10, *, rngs: nnx.Rngs | None = None, **options):
        self.histogram = nnx.BatchStat(jnp.zeros(num_bins))
        self.options = tuple(sorted(checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """Returns the loss dict of the pure function and adds the batch to the histogram."""
        histogram = self.histogram[...]
        options = dict(self.options) | options | {"num_bins": len(histogram)}
        terms, self.histogram[...] = self.loss(embeddings, labels, histogram=histogram, **options)
        return terms
