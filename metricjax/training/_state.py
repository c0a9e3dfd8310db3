"""What a training step maps to its successor."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray


class State(NamedTuple):
    """All that changes in training, and the key that all its random numbers come from: a pytree.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from metricjax import training
        >>> params = {"network": jnp.ones((3, 2))}
        >>> state = training.State.create(params, optax.adam(1e-3), key=jax.random.key(0))
        >>> print(state.step)
        0

    Attributes:
        step: how many steps were done.
        params: what is trained. The schemes want a dict, ``{"network": ..., "loss": ...}``, so that
            `optax.partition` can tell the parts.
        opt_state: of the optimizer.
        variables: what is carried from step to step without being trained, such as the averages of
            batch normalization or a `metricjax.memory.MemoryBank`; or ``None``.
        key: never changes. Step i uses ``fold_in(key, i)``; ``None`` where nothing is random.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    variables: Any = None
    key: PRNGKeyArray | None = None

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        variables: Any = None,
        key: PRNGKeyArray | None = None,
    ) -> Self:
        """The state before the first step; see the attributes."""
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), variables, key)


def settled(x):
    """A leaf as it comes back from a checkpoint: an array, and its dtype not a weak one."""
    x = jnp.asarray(x)
    return x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)


def is_key(x) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
