"""Flax modules that own the class weights of a loss and call the pure function.

A module takes the loss's options as defaults and each call may override them. Those given at
construction are static; give what is traced, scheduled or learned at the call:

    >>> import jax.numpy as jnp, metricjax as mj
    >>> from flax import nnx
    >>> head = mj.nn.ArcFace(10, 64, margin=20.0, rngs=nnx.Rngs(0))
    >>> x, y = jnp.ones((4, 64)), jnp.arange(4)
    >>> loss, parts = mj.reduce(head(x, y, margin=jnp.float32(5.0)))

Linen users get the same modules from ``flax.nnx.bridge.to_linen(mj.nn.ArcFace, 10, 64)``.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from metricjax import losses
from metricjax._types import LossDict
from metricjax.distances import farther

Initializer = Callable[..., Array]


class _ClassWeights(nnx.Module):
    """Owns ``weights [C, D]`` and feeds them to `loss`; subclasses say which loss and what logits.

    Args:
        num_classes: C.
        embedding_size: D.
        rngs: where the initial weights come from.
        param_dtype: of the weights.
        weight_init: a `jax.nn.initializers` function, called with shape ``[C, D]``.
        **options: defaults of the loss's options; static.
    """

    loss: ClassVar[Callable[..., LossDict]]
    default_init: ClassVar[Initializer] = staticmethod(nnx.initializers.normal(1.0))

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        weight_init: Initializer | None = None,
        **options,
    ):
        init = weight_init or type(self).default_init
        self.weights = nnx.Param(init(rngs.params(), (num_classes, embedding_size), param_dtype))
        self.options = tuple(sorted(_checked(type(self), options).items()))

    def __call__(
        self, embeddings: Float[Array, "n d"], labels: Int[Array, " n"], **options
    ) -> LossDict:
        """The loss dict of the pure function; `options` override those of the constructor."""
        return self.loss(embeddings, labels, self.weights[...], **(dict(self.options) | options))

    def _option(self, name):
        return dict(self.options).get(name, _defaults(type(self))[name])


def _defaults(module):
    data = {"mined", "where", "class_ids"}
    parameters = inspect.signature(module.loss).parameters.values()
    options = (p for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in data)
    return {p.name: p.default for p in options}


def _checked(module, options):
    known = _defaults(module)
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                f"nn.{module.__name__}: no option {name!r}; there are {', '.join(known)}."
            )
        if isinstance(value, jax.Array):
            raise TypeError(
                f"nn.{module.__name__}: {name!r} is an array; options given here are static. Give "
                f"a Python number, or the array at the call."
            )
    return options


class ArcFace(_ClassWeights):
    """`metricjax.losses.arcface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.arcface)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the class centers, without the margin."""
        return self._option("scale") * self._option("distance")(embeddings, self.weights[...])


class ProxyAnchor(_ClassWeights):
    """`metricjax.losses.proxy_anchor` and its proxies, normal with variance 2 / C at first."""

    loss = staticmethod(losses.proxy_anchor)
    default_init = staticmethod(nnx.initializers.variance_scaling(2.0, "fan_in", "normal"))

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Similarities to the proxies (negated distances): larger is better."""
        distance = self._option("distance")
        return farther(distance, 0, distance(embeddings, self.weights[...]))
