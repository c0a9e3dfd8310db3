"""Step functions that replace the comparison of two similarities in a rank."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metricjax._core.types import PerSample, Scalar


class LateStep(NamedTuple):
    """The step for a reference that should come later than a positive, but may come before it.

    It is a sigmoid while the reference is behind the positive, and grows without bound the farther
    the reference is ahead, so that its gradient does not vanish:

        sigmoid(gap / temperature)            behind:      gap <= 0
        start + sigmoid(gap / temperature)    a little:    0 < gap <= delta
        rho * (gap - delta) + offset          far ahead:   gap > delta

    By default, `offset` makes the last two parts meet. A gap within rounding error is none.
    """

    temperature: PerSample
    rho: Scalar
    delta: Scalar
    start: Scalar
    offset: Scalar | None

    def __call__(self, gap):
        smooth = jax.nn.sigmoid(gap / self.temperature)
        offset = self.offset
        if offset is None:
            offset = self.start + jax.nn.sigmoid(self.delta / self.temperature)
        far = self.rho * (gap - self.delta) + offset
        ahead = jnp.where(gap <= self.delta, self.start + smooth, far)
        return jnp.where(gap <= _rounding(gap), smooth, ahead)


def exact_step(gap, same):
    """1 where the gap is not negative, or where a reference is compared with itself, else 0.

    It has no gradient. A gap that is NaN stays visible.
    """
    return jax.lax.stop_gradient(jnp.where((gap < -_rounding(gap)) & ~same, 0, 1 + 0 * gap))


def _rounding(gap):
    """The rounding error of the difference of two cosines.

    Products of the same two vectors may differ by it in blocks, on other devices, or in another
    column. Without it, equal references would be ordered by chance.
    """
    return 16 * float(jnp.finfo(gap.dtype).eps)
