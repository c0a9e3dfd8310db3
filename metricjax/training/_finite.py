"""Checks of a training: of its first batch, of the numbers of a step, and of a state.

Under `jit` labels have no values. So the step is traced once with the labels of a batch as
constants, and losses check what they could not see otherwise.

A gradient that is not finite makes every parameter that it reaches not finite, and the parameters
stay so. If the parameters are finite nevertheless, the optimizer has handled the gradient:
`optax.apply_if_finite` and dynamic loss scaling skip such a step, and `optax.zero_nans` repairs it.
That is no reason to stop. So after a bad gradient the state is checked. Other steps pay nothing for
this check. (Every state is also checked before it is saved.) A test inside the step would cost
more: the state before could not be overwritten while it is compared, and on a GPU the host would
have to wait for a branch.

If the gradient is finite, but the loss or a metric is not, nothing has handled the problem: the
training ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool

from metricjax.training._step import Metrics, State, is_key, settled


class Done(NamedTuple):
    """A completed step: its number, counted from 1, its metrics, and whether they are finite."""

    step: int
    metrics: Metrics
    finite: Bool[Array, ""]

    def may_be_skipped(self) -> bool:
        """Whether an optimizer had a reason to skip the step."""
        return not jnp.isfinite(self.metrics.get("grad_norm", 0.0))


def look_at(step, state: State, batch) -> None:
    """Traces a step with labels and weights of a batch as constants, so that losses check them.

    Every array of shape ``[N]`` is taken for labels or weights. Arrays that are spread over several
    devices stay traced.
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
    """Returns `x` on the host, or `None` if `x` stays traced.

    The result is a JAX array, unless JAX would change values, such as large integers. Then it is a
    NumPy array.
    """
    spread = isinstance(x, jax.Array) and len(x.devices()) > 1
    if spread or getattr(x, "ndim", 0) != 1 or x.dtype.kind not in "biuf":
        return None
    x = np.asarray(x)
    as_jax = jax.device_put(x, jax.local_devices(backend="cpu")[0])
    return as_jax if np.array_equal(x, as_jax) else x


def compiled(step, state: State):
    """Compiles a step as ``(state, batch) -> (state, metrics, finite)``; shardings are kept."""

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
    """Returns leaves that must not be saved: parameters that are not finite, and NaN anywhere."""
    leaves = jax.tree.leaves_with_path(jax.device_get(_sound(state)))
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, good in leaves if not good]


@jax.jit
def _sound(state):
    finite = lambda x: jnp.all(jnp.isfinite(x))
    no_nan = lambda x: jnp.array(True) if is_key(x) else ~jnp.any(jnp.isnan(x))
    good = jax.tree.map(no_nan, state)
    return good._replace(params=jax.tree.map(finite, state.params))
