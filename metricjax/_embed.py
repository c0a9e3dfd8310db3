"""Embeddings of a large batch, a chunk at a time, in the forward and the backward pass."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metricjax._check import check_at_least, check_rows
from metricjax._chunks import Cut


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
    size = min(chunk_size, max(n, 1))
    count = -(-n // size)

    def chunk(k, rows):
        out = apply(params, rows) if key is None else apply(params, rows, jax.random.fold_in(key, k))
        for leaf in jax.tree.leaves(out):
            if jnp.shape(leaf)[:1] != (size,):
                raise ValueError(
                    f"{name}: `apply` must return a row for each of {size} inputs, got shape "
                    f"{jnp.shape(leaf)}. State, such as that of batch normalization, is not supported."
                )
        return out

    def deal(x):
        """Part k has the rows k, k + count, ...: some of every device, where x is sharded."""
        x = x[jnp.minimum(jnp.arange(size * count), n - 1)] if size * count > n else x
        return jnp.moveaxis(x.reshape(size, count, *x.shape[1:]), 1, 0)

    remat = jax.checkpoint(lambda args: chunk(*args), prevent_cse=False)
    out = jax.lax.map(remat, (jnp.arange(count), jax.tree.map(deal, inputs)))
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])[:n]
    return jax.tree.map(join, out)
