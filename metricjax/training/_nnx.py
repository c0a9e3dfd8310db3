"""Modules of Flax NNX as the functions of parameters that the schemes train."""

from collections.abc import Callable

from flax import nnx


def nnx_network(module: nnx.Module) -> tuple[Callable, nnx.State, nnx.State]:
    """Splits a module into a function, its parameters, and its variables.

    The variables are all that is no parameter: the averages of batch normalization, and the keys
    and counts of the module's random numbers. So dropout draws new numbers in each step, and a
    checkpoint resumes with the next ones. For that, give the module its `nnx.Rngs` when it is made:
    ``nnx.Dropout(0.1, rngs=rngs)``.

    To get a module back, write the trained state into `module`, by `nnx.update`.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> from flax import nnx
        >>> module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> network, params, variables = mj.training.nnx_network(module)
        >>> optimizer, loss = optax.sgd(0.1), mj.objective(mj.losses.contrastive)
        >>> step = jax.jit(mj.training.metric_loss_only(network, loss, optimizer))
        >>> state = mj.training.State.create({"network": params}, optimizer, variables=variables)
        >>> state, metrics = step(state, (jnp.eye(3), jnp.array([0, 1, 1])))
        >>> nnx.update(module, state.params["network"], state.variables)
        >>> print(module(jnp.eye(3)).shape)
        (3, 2)

    Args:
        module: called as ``module(inputs)``. It is not changed by the training. It is trained in
            the mode that it is in now, which is training unless you called ``module.eval()``.

    Returns:
        ``(network, params, variables)``. ``network(params, inputs, variables)`` returns the
        embeddings and the next variables, as `metric_loss_only` expects. `params` are copies
        of the `nnx.Param` of the module, for ``params["network"]`` of `State.create`.

    Raises:
        TypeError: if `module` is no `nnx.Module`.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"training.nnx_network: `module` must be a flax.nnx.Module, got "
            f"{type(module).__name__}. Of a Linen module, `module.apply` is the network."
        )
    # A state holds the variables of its module: without a copy, it would change with the module.
    graph, *states = nnx.split(nnx.clone(module), nnx.Param, ...)
    params, variables = states

    def network(params, inputs, variables):
        # Without a copy, the module would write its averages into the arguments of this function.
        merged = nnx.merge(graph, params, variables, copy=True)
        embeddings = merged(inputs)
        return embeddings, nnx.split(merged, nnx.Param, ...)[2]

    return network, params, variables
