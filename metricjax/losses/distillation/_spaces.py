"""Shared by losses that compare the student's embedding space with the teacher's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metricjax._core.masked import upcast
from metricjax._core.refs import prepare, replicated


class Spaces(NamedTuple):
    """Rows and references in both spaces.

    Attributes:
        student: ``[N, D]`` and ``[M, D]``.
        teacher: ``[N, E]`` and ``[M, E]``, constant for the gradient.
        weights: ``[N]`` and ``[M]``.
        other: ``[N, M]``, whether a reference is not the row itself.
    """

    student: tuple[Float[Array, "n d"], Float[Array, "m d"]]
    teacher: tuple[Float[Array, "n e"], Float[Array, "m e"]]
    weights: tuple[Float[Array, " n"], Float[Array, " m"]]
    other: Bool[Array, "n m"]

    @property
    def count(self):
        """How many pairs there are: what sums over pairs are divided by."""
        return jnp.sum(self.weights[0]) * jnp.sum(self.weights[1])


def prepare_spaces(function, embeddings, teacher, refs, where) -> Spaces:
    """Both spaces, checked and in at least float32."""
    batch = prepare(embeddings, teacher, refs, where)
    own, theirs = batch.embeddings, batch.refs.embeddings
    weights = batch.weights, batch.ref_weights

    def of_teacher(name, rows, weights):
        known = getattr(rows, "ndim", 0) == 2 and jnp.issubdtype(rows.dtype, jnp.floating)
        if not known:
            got = f"{getattr(rows, 'dtype', type(rows).__name__)} of shape {jnp.shape(rows)}"
            raise ValueError(
                f"{function}: `{name}` must be embeddings of shape [{len(weights)}, E], got {got}."
            )
        rows = jnp.where(weights[:, None] > 0, replicated(rows), 0).astype(weights.dtype)
        return jax.lax.stop_gradient(rows)

    ours = of_teacher("teacher", batch.labels, weights[0])
    others = of_teacher("refs.labels", batch.refs.labels, weights[1])
    if ours.shape[1] != others.shape[1]:
        raise ValueError(
            f"{function}: `refs.labels` must have {ours.shape[1]} features to match `teacher`, got "
            f"{others.shape}."
        )
    n, m = own.shape[0], theirs.shape[0]
    other = jnp.ones((n, m), bool)
    if batch.refs.self_index is not None:
        other = batch.refs.self_index[:, None] != jnp.arange(m)[None, :]
    return Spaces((upcast(own), upcast(theirs)), (ours, others), weights, other)


def huber(gap):
    """Half of the square below 1, and linear above."""
    size = jnp.abs(gap)
    small = size < 1
    return jnp.where(small, jnp.where(small, gap, 0) ** 2 / 2, size - 0.5)
