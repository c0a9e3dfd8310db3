"""Whether a training is still sound: a step with a look at its numbers, and a look at a state.

A gradient that is not finite makes every parameter that it reaches not finite, and they stay so. If
the parameters are finite nevertheless, the optimizer has seen to it: `optax.apply_if_finite` and
dynamic loss scaling skip such a step, `optax.zero_nans` repairs it. That is no reason to stop. So
after a bad gradient, and only then, the state is looked at; other steps pay nothing for it. A test
inside the step would cost more: the state before could not be overwritten while it is compared, and
on a GPU the host has to wait for a branch.

If the gradient is finite, but the loss or a metric is not, nobody has dealt with it: the training
ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool

from metricjax.training._step import Metrics, State, is_key, settled


class Done(NamedTuple):
    """A step that was done: its number, counted from 1, and what came of it."""

    step: int
    metrics: Metrics
    finite: Bool[Array, ""]

    def may_be_skipped(self) -> bool:
        """Whether an optimizer had a reason to skip the step."""
        return not jnp.isfinite(self.metrics.get("grad_norm", 0.0))


def compiled(step, state: State):
    """``(state, batch) -> (state, metrics, finite)``; the state's shardings are kept."""

    def advance(state, batch):
        state, metrics = step(state, batch)
        finite = jnp.array(True)
        for name, x in metrics.items():
            if jnp.shape(x):
                raise ValueError(
                    f"training.fit: metrics must be scalars, got {name!r} of shape {jnp.shape(x)}."
                )
            finite &= jnp.isfinite(x)
        return jax.tree.map(settled, state), metrics, finite

    on_mesh = lambda x: x.sharding if isinstance(x.sharding, NamedSharding) else None
    shardings = jax.tree.map(on_mesh, state), None, None
    return jax.jit(advance, donate_argnums=0, out_shardings=shardings)


def unsound(state: State) -> list[str]:
    """Leaves that must not be saved: not finite parameters, and NaN anywhere."""
    leaves = jax.tree.leaves_with_path(jax.device_get(_sound(state)))
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, good in leaves if not good]


@jax.jit
def _sound(state):
    finite = lambda x: jnp.all(jnp.isfinite(x))
    no_nan = lambda x: jnp.array(True) if is_key(x) else ~jnp.any(jnp.isnan(x))
    good = jax.tree.map(no_nan, state)
    return good._replace(params=jax.tree.map(finite, state.params))
