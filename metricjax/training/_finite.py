"""Whether a training is sound: a look at its first batch, at the numbers of a step, at a state.

Under `jit` labels have no values. So the step is traced once with those of a batch as they are, and
losses check what they could not see otherwise.

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
import numpy as np
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


def look_at(step, state: State, batch) -> None:
    """Traces a step with labels and weights of a batch as constants, so that losses check them.

    Whatever has the shape ``[N]`` may be such. Arrays that are spread over several devices stay
    hidden.
    """
    leaves, tree = jax.tree.flatten(batch)
    known = [_plain(x) for x in leaves]
    if all(x is None for x in known):
        return

    def look(state, hidden):
        rest = iter(hidden)
        return step(state, tree.unflatten(next(rest) if x is None else x for x in known))

    jax.eval_shape(look, state, [x for x, k in zip(leaves, known, strict=True) if k is None])


def _plain(x):
    """`x` on the host: as a JAX array, unless that would cut integers off. Or `None`: hidden."""
    spread = isinstance(x, jax.Array) and len(x.devices()) > 1
    if spread or getattr(x, "ndim", 0) != 1 or x.dtype.kind not in "biuf":
        return None
    x = np.asarray(x)
    as_jax = jax.device_put(x, jax.local_devices(backend="cpu")[0])
    return as_jax if np.array_equal(x, as_jax) else x


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
