"""Embeds a large batch one chunk at a time, in the forward and the backward pass."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metricjax._core.blocks import Cut
from metricjax._core.check import check_at_least
from metricjax._core.refs import reshape_rows


def embed_in_chunks(apply, params, inputs, chunk_size: int, *, key: PRNGKeyArray | None = None):
    """Computes ``apply(params, inputs)`` without holding the activations of the whole batch.

    This is gradient caching. Losses that compare the samples of a batch need a large batch, whose
    activations may not fit in memory. Here the activations of only one chunk are held at a time:
    the backward pass computes each chunk again. The value, and the gradients of the parameters and
    of the inputs, are those of the whole batch at once.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> apply = lambda params, x: jnp.tanh(x @ params)
        >>> def loss(params, x, y):
        ...     embeddings = mj.embed_in_chunks(apply, params, x, chunk_size=2)
        ...     return mj.reduce(mj.losses.contrastive(embeddings, y))[0]
        >>> x, y = jnp.eye(5), jnp.array([0, 0, 1, 1, 1])
        >>> print(jax.grad(loss)(jnp.ones((5, 3)), x, y).shape)
        (5, 3)

    Args:
        apply: ``(params, inputs) -> embeddings``. Each row of the embeddings depends only on the
            same row of the inputs. State, such as the running averages of batch normalization, is
            not supported: use stored averages, or a normalization of each sample.
        params: the first argument of `apply`.
        inputs: a pytree of arrays with leading axis N.
        chunk_size: the number of rows at a time; static. The last chunk is filled with copies of
            rows.
        key: a key for dropout. With a key, `apply` takes a third argument,
            ``jax.random.fold_in(key, k)`` for the k-th chunk, which is the same in both passes.

    Returns:
        What `apply` returns: an array ``[N, ...]``, or a pytree of such arrays.

    Raises:
        ValueError: `apply` returns something that does not have a row for each of the inputs.

    References:
        Gao et al., `Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
        <https://arxiv.org/abs/2101.06983>`_, 2021.
    """
    name = "embed_in_chunks"
    check_at_least(name, "chunk_size", chunk_size, 1)
    leaves = jax.tree.leaves(inputs)
    counts = {jnp.shape(x)[:1] for x in leaves}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"{name}: `inputs` must hold arrays with the same leading axis N, got shapes "
            f"{', '.join(str(jnp.shape(x)) for x in leaves) or 'of nothing'}."
        )
    n = len(leaves[0])
    devices = _devices(leaves[0])
    cut = Cut(n, devices * max(1, min(chunk_size, n) // devices), runs=devices)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(k, rows):
        own_key = () if key is None else (jax.random.fold_in(key, k),)
        out = apply(params, rows, *own_key)
        for shape in map(jnp.shape, jax.tree.leaves(out)):
            if shape[:1] != (cut.size,):
                raise ValueError(
                    f"{name}: `apply` must return a row for each of {cut.size} inputs, got "
                    f"{shape}. It cannot return state, such as that of batch normalization."
                )
        return jax.tree.map(lambda x: reshape_rows(x, 1, cut.runs, cut.run), out)

    out = cut.each(chunk, cut(inputs, "edge"))  # a network may fail on zeros
    return jax.tree.map(lambda x: cut.join(jnp.moveaxis(x, 1, 0)), out)


def _devices(x):
    """Returns how many parts the rows of `x` are explicitly sharded into."""
    sharding = jax.typeof(x).sharding
    axes = sharding.spec[0] or ()
    axes = (axes,) if isinstance(axes, str) else axes
    return math.prod(sharding.mesh.shape[axis] for axis in axes)
