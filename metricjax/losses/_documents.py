"""Shared by losses of queries with several documents each, and by those with a teacher's scores."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax._core.check import check_embeddings, check_weights
from metricjax._core.masked import upcast
from metricjax._core.refs import replicated, weighed
from metricjax.distances import Distance
from metricjax.losses._classes import similarities


def prepare_documents(function, embeddings, documents, where, name="documents"):
    """Rows and their documents ``[N, K, D]``, in at least float32, and a weight for each row."""
    x, documents = jnp.asarray(embeddings), jnp.asarray(documents)
    check_embeddings(function, "embeddings", x)
    n, d = x.shape
    if documents.ndim != 3 or documents.shape[::2] != (n, d):
        raise ValueError(
            f"{function}: `{name}` must have shape [{n}, K, {d}] to match `embeddings`, got "
            f"{documents.shape}."
        )
    check_weights(function, "where", where, "embeddings", n)
    weights, x = weighed(jnp.ones(n) if where is None else where, x)
    documents = jnp.where(weights[:, None, None] > 0, documents, 0)
    return replicated((upcast(x), upcast(documents), weights))


def check_teacher(function, teacher, shapes):
    """The teacher's scores, checked to have one of the shapes; the gradient stops here."""
    teacher = jnp.asarray(teacher)
    if teacher.shape not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise ValueError(f"{function}: `teacher` must have shape {allowed}, got {teacher.shape}.")
    return jax.lax.stop_gradient(upcast(teacher))


def scores(distance: Distance, x, documents) -> Float[Array, "n k"]:
    """How close each row is to its own documents."""
    one = lambda x, documents: similarities(distance, x[None], documents)[0]
    return jax.vmap(one)(x, documents)
