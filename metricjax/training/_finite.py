"""Whether a training is still sound: a step with a look at its numbers, and a look at a state.

A gradient that is not finite makes every parameter that it reaches not finite. If it did not, the
optimizer has seen to it: `optax.apply_if_finite` and dynamic loss scaling skip such a step,
`optax.zero_nans` repairs it. Such a step is no reason to stop. That a state stayed sound is tested
on the device, inside the step and only after a bad gradient, so other steps pay nothing for it, and
the buffers of the state before can be used again, which a comparison with it would prevent.

A loss or metric that is not finite while the gradient is, was dealt with by nobody.
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
    skipped: Bool[Array, ""]  # not finite, but the state is sound: the optimizer's doing


def compiled(step, state: State):
    """``(state, batch) -> (state, metrics, finite, skipped)``; the state's shardings are kept."""

    def advance(state, batch):
        state, metrics = step(state, batch)
        finite = jnp.array(True)
        for name, x in metrics.items():
            if jnp.shape(x):
                raise ValueError(
                    f"training.fit: metrics must be scalars, got {name!r} of shape {jnp.shape(x)}."
                )
            finite &= jnp.isfinite(x)
        state = jax.tree.map(settled, state)
        skipped = jnp.array(False)
        if "grad_norm" in metrics:
            all_good = lambda state: jnp.all(jnp.stack(jax.tree.leaves(_sound(state))))
            bad = ~jnp.isfinite(metrics["grad_norm"])
            skipped = jax.lax.cond(bad, all_good, lambda state: jnp.array(False), state)
        return state, metrics, finite, skipped

    on_mesh = lambda x: x.sharding if isinstance(x.sharding, NamedSharding) else None
    shardings = jax.tree.map(on_mesh, state), None, None, None
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
