"""Embeddings of a large batch, a chunk at a time, in the forward and the backward pass."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metricjax._check import check_at_least, check_rows


def embed_in_chunks(apply, params, inputs, chunk_size: int, *, key: PRNGKeyArray | None = None):
    """``apply(params, inputs)`` without the activations of the whole batch: gradient caching.

    Losses that compare the samples of a batch want a large one, whose activations may not fit.
    Here only one chunk's are ever held: the backward pass computes each chunk again. Value and
    gradients, of the parameters and of the inputs, are those of the whole batch at once.

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
        apply: ``(params, inputs) -> embeddings``, each row of which depends on that row of the
            inputs alone. State such as the running averages of batch normalization is not
            supported: use stored averages, or a normalization of each sample.
        params: what `apply` takes first.
        inputs: a pytree of arrays with leading axis N.
        chunk_size: rows at a time; static. The last chunk is filled up with copies of rows.
        key: for dropout. Then `apply` takes a third argument, ``jax.random.fold_in(key, k)`` for
            the k-th chunk, the same in both passes.

    Returns:
        What `apply` returns, an array ``[N, ...]`` or a pytree of such.

    Raises:
        ValueError: `apply` returns something that does not have a row for each of the inputs.

    References:
        Gao et al., `Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
        <https://arxiv.org/abs/2101.06983>`_, 2021.
    """
    name = "embed_in_chunks"
    check_at_least(name, "chunk_size", chunk_size, 1)
    leaves = jax.tree.leaves(inputs)
    if not leaves or not jnp.ndim(leaves[0]):
        raise ValueError(f"{name}: `inputs` must hold arrays with leading axis N.")
    n = len(leaves[0])
    check_rows(name, "inputs", inputs, "the first of them", n)
    devices = _devices(leaves[0])
    local = n // devices
    size = max(1, min(chunk_size // devices, local))
    count = -(-local // size)

    def deal(x):
        """``[N, ...]`` as ``[count, devices, size, ...]``: each chunk has rows from all devices."""
        x = _reshape_rows(x, 1, (devices, local))
        if count * size > local:
            x = x[:, jnp.minimum(jnp.arange(count * size), local - 1)]
        return jnp.moveaxis(x.reshape(devices, size, count, *x.shape[2:]), 2, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 2).reshape(devices, count * size, *x.shape[3:])
        return _reshape_rows(x[:, :local], 2, (n,))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(part):
        k, rows = part
        rows = jax.tree.map(lambda x: _reshape_rows(x, 2, (devices * size,)), rows)
        own_key = () if key is None else (jax.random.fold_in(key, k),)
        out = apply(params, rows, *own_key)
        for shape in map(jnp.shape, jax.tree.leaves(out)):
            if shape[:1] != (devices * size,):
                raise ValueError(
                    f"{name}: `apply` must return a row for each of {devices * size} inputs, got "
                    f"{shape}. It cannot return state, such as that of batch normalization."
                )
        return jax.tree.map(lambda x: _reshape_rows(x, 1, (devices, size)), out)

    out = jax.lax.map(chunk, (jnp.arange(count), jax.tree.map(deal, inputs)))
    return jax.tree.map(join, out)


def _devices(x):
    """How many parts the rows of `x` are explicitly sharded into."""
    sharding = jax.typeof(x).sharding
    axes = sharding.spec[0] or ()
    axes = (axes,) if isinstance(axes, str) else axes
    return math.prod(sharding.mesh.shape[axis] for axis in axes)


def _reshape_rows(x, ndim, shape):
    """`x` with its first `ndim` axes reshaped to `shape`; the first stays sharded as it is."""
    sharding, rest = jax.typeof(x).sharding, x.shape[ndim:]
    spec = sharding.spec
    if all(axis is None for axis in spec):
        return x.reshape(*shape, *rest)
    spec = jax.P(spec[0], *[None] * (len(shape) - 1), *spec[ndim:])
    return x.reshape(*shape, *rest, out_sharding=sharding.update(spec=spec))
