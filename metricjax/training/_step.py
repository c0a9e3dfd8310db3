"""The state, how an objective becomes a step, and what the objectives of the schemes share."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metricjax._core.masked import upcast
from metricjax._core.record import record_of
from metricjax._core.refs import on_mesh_of
from metricjax._core.types import AxisName, Scalar


class State(NamedTuple):
    """A pytree of all that changes in training, and of the key for all random numbers.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from metricjax import training
        >>> params = {"network": jnp.ones((3, 2))}
        >>> state = training.State.create(params, optax.adam(1e-3), key=jax.random.key(0))
        >>> print(state.step)
        0

    Attributes:
        step: how many steps have been completed.
        params: what is trained. The schemes need a dict, ``{"network": ..., "loss": ...}``, so that
            `optax.partition` can distinguish the parts.
        opt_state: the state of the optimizer.
        variables: what is carried from step to step without being trained, such as the averages of
            batch normalization or a `metricjax.memory.MemoryBank`; or ``None``.
        key: a key that never changes. Step i uses ``fold_in(key, i)``. ``None`` if nothing is
            random.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    variables: Any = None
    key: PRNGKeyArray | None = None

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        variables: Any = None,
        key: PRNGKeyArray | None = None,
    ) -> Self:
        """Creates the state before the first step; the arguments are described as attributes."""
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), variables, key)


def settled(x):
    """Converts a leaf to what a checkpoint returns: an array whose dtype is not weak."""
    x = jnp.asarray(x)
    return x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)


def is_key(x) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


Metrics = dict[str, Float[Array, ""]]
Step = Callable[[State, Any], tuple[State, Metrics]]
Weights = dict[str, Scalar | optax.Schedule]


def make_step(
    objective: Callable,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Step:
    """Makes a training step of any objective: gradient, optimizer update, and the next state.

    The schemes of this module are ready-made objectives. If none of them fits, write your own.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> loss = mj.objective(mj.losses.contrastive)
        >>> def objective(params, state, batch, key):
        ...     total, parts = loss(batch["x"] @ params, batch["y"])
        ...     return total, (parts, state.variables)
        >>> optimizer = optax.sgd(0.1)
        >>> step = jax.jit(mj.training.make_step(objective, optimizer))
        >>> state = mj.training.State.create(jnp.eye(3), optimizer)
        >>> batch = {"x": jnp.eye(3), "y": jnp.array([0, 0, 1])}
        >>> for _ in range(2):
        ...     state, metrics = step(state, batch)
        ...     print(f"{state.step}: {metrics['loss']:.3f}")
        1: 1.414
        2: 1.311

    Args:
        objective: ``(params, state, batch, key) -> (loss, (metrics, variables))``. It returns the
            loss, which is minimized over `params`, a dict of scalars to log, and the next
            ``variables`` of the state. `state` is the state before the step. `key` is the key of
            the step, or ``None``.
        optimizer: an optimizer of Optax. It gets those extra arguments that it asks for: ``value``,
            which is the loss, ``grad``, and (without `axis_name`) the functions ``value_fn`` and
            ``grad_fn`` of this batch. So `optax.lbfgs` and `optax.contrib.sam` work. For
            `optax.lookahead`, ``state.params`` are `optax.LookaheadParams`, and the `params` of the
            objective are the fast ones.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over. Loss, metrics
            and gradients are averaged over it, and every device has a key of its own. If the loss
            is that of the whole batch (see `metricjax.objective`), so is the gradient. Variables
            are not averaged: batch normalization has its own ``axis_name``.

    Returns:
        ``step(state, batch) -> (state, metrics)``, pure and not yet compiled. In addition to those
        of the objective, the metrics have ``loss`` and ``grad_norm``.
    """
    mean = lambda x: x if axis_name is None else jax.lax.pmean(x, axis_name)

    def step(state: State, batch) -> tuple[State, Metrics]:
        key = state.key
        if key is not None:
            key = jax.random.fold_in(key, state.step)
            if axis_name is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def total(params):
            loss, aux = objective(params, state, batch, key)
            return mean(loss), aux

        def value(params):
            with on_mesh_of(batch):
                return total(params)[0]

        def gradient(params):
            with on_mesh_of(batch):
                out, grads = jax.value_and_grad(total, has_aux=True)(params)
            return out, mean(grads)

        ahead = isinstance(state.params, optax.LookaheadParams)
        (loss, (metrics, variables)), grads = gradient(state.params.fast if ahead else state.params)
        metrics = mean(metrics)
        extra = {"value": loss, "grad": grads}
        if axis_name is None:  # a line search must take the same steps on all devices
            extra |= {"value_fn": value, "grad_fn": lambda params, i: gradient(params)[1]}
        updates, opt_state = _updated(optimizer, grads, state, extra)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {"loss": loss, "grad_norm": _norm(grads)}
        return State(state.step + 1, params, opt_state, variables, state.key), metrics

    return step


def _updated(optimizer, grads, state, extra):
    """Computes the updates of an optimizer, which gets the extra arguments that it asks for.

    If the optimizer takes any keyword, it gets all of them but `grad_fn`, which is for
    `optax.contrib.sam` alone: line searches refuse arguments that they cannot use.
    """
    parameters = inspect.signature(optimizer.update).parameters
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    given = {n: x for n, x in extra.items() if n in parameters or (takes_any and n != "grad_fn")}
    try:
        return optimizer.update(grads, state.opt_state, state.params, **given)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        advice = "In a chain, hide them from a part by `optax.GradientTransformation(*part)`."
        if "value_fn" not in extra:
            advice = "There are no `value_fn` and `grad_fn` with `axis_name`; use `jax.jit` alone."
        raise TypeError(
            f"training.make_step: `optimizer` must work with {', '.join(given) or 'nothing'} as "
            f"extra arguments, got one that does not: {str(error)[:150]}. {advice}"
        ) from error


def _norm(tree):
    """Computes the norm of all leaves together.

    It is not finite only if a leaf is not finite, or if the norm itself overflows. If the norm is
    not finite, `fit` takes the gradient for not finite, but squares overflow from 2e19 on in
    float32. So there are two sums, in one pass: in units of 2^70 no square overflows.
    """
    leaves = [jnp.abs(upcast(x)) for x in jax.tree.leaves(tree)]
    norm = lambda unit: unit * jnp.sqrt(sum(jnp.sum(jnp.square(x / unit)) for x in leaves))
    return jnp.where(jnp.isinf(norm(1)), norm(2.0**70), norm(1))


class Run:
    """One evaluation of a scheme's objective: calls networks and losses, and adds up the losses.

    Args:
        scheme: the name of the public function, for errors.
        params: the parameters by name.
        state: the state before the step.
        key: the key of the step.
        weights: the factors of the losses by name.
        optional: names that `params` may have in addition to those in `needed`.
    """

    def __init__(self, scheme, params, state, key, weights, needed, optional):
        given = sorted(params) if isinstance(params, dict) else type(params).__name__
        if not isinstance(params, dict) or not {*needed} <= {*params} <= {*needed, *optional}:
            raise ValueError(
                f"training.{scheme}: `params` must be a dict with {', '.join(needed)} (and maybe "
                f"{', '.join(optional) or 'nothing else'}), got {given}."
            )
        self.scheme, self.params, self.key, self.weights = scheme, params, key, weights
        self.step, self.variables = state.step, state.variables
        self.total: Any = 0
        self.metrics: Metrics = {}

    def network(self, name: str, apply: Callable, inputs):
        """Returns the output of a network, which gets a key and the variables if it takes them."""
        if isinstance(apply, nnx.Module) or hasattr(apply, "apply"):  # Linen, Haiku
            raise TypeError(
                f"training.{self.scheme}: `{name}` must be a function of parameters and inputs, "
                f"got the module {type(apply).__name__}. Of a Linen module give `module.apply`; "
                f"of an NNX module give what `training.nnx_network(module)` returns first."
            )
        options = list(inspect.signature(apply).parameters)[2:]  # Linen's first is `variables`
        given: dict[str, Any] = {"key": self.new_key()} if "key" in options else {}
        if "variables" not in options:
            return apply(self.params[name], inputs, **given)
        out, self.variables = apply(self.params[name], inputs, variables=self.variables, **given)
        return out

    def metric_loss(self, name: str, loss: Callable, embeddings, labels, factor=1, **data) -> None:
        """Adds a loss as `metricjax.objective` returns it; `params` may hold its class weights."""
        if self.key is not None and record_of(loss).accepts("key"):
            data["key"] = self.new_key()
        key = name.replace("metric_", "")
        weights = (self.params[key],) if key in self.params else ()
        out = loss(embeddings, labels, *weights, **data)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)):
            raise TypeError(
                f"training.{self.scheme}: `loss` must return a number and a dict of numbers, got "
                f"{type(out).__name__}. Give `metricjax.objective(loss)`."
            )
        value, parts = out
        self.add(name, value, factor)
        self.metrics |= {f"{name}/{part}": x for part, x in parts.items()}

    def classifier_loss(self, name: str, apply: Callable, loss: Callable, x, labels, factor=1):
        """Adds the loss of a classifier: the mean over samples, if there is a number for each."""
        value = jnp.mean(loss(self.network(name, apply, x), labels))
        self.add(name.replace("classifier", "classifier_loss"), value, factor)

    def add(self, name: str, value, factor: Scalar = 1) -> None:
        """Adds a loss, multiplied by its weight and a factor."""
        weight = self.weights.get(name, 1)
        weight = weight(self.step) if callable(weight) else weight
        self.total += factor * weight * value
        self.metrics[name] = value

    def new_key(self):
        """Returns a key that has not been used yet."""
        if self.key is None:
            raise ValueError(
                f"training.{self.scheme}: a random scheme, network or miner needs a key: give "
                f"`key` to `State.create`."
            )
        self.key, new = jax.random.split(self.key)
        return new


def make_scheme(
    name: str, add_losses: Callable, optimizer, needed, optional=("loss",), *,
    weights: Weights | None = None, known=(), axis_name: AxisName | None = None,
) -> Step:  # fmt: skip
    """Makes the step of a scheme; ``add_losses(run, *batch)`` adds the losses to a `Run`.

    Args:
        name: the name of the public function, for errors.
        needed, optional: the names that `params` must have, and may have.
        weights: the factors of the losses by name. Each name must be in `known`.
    """
    if unknown := set(weights or {}) - set(known):
        raise ValueError(
            f"training.{name}: `weights` must be for {', '.join(known)}, got {sorted(unknown)}."
        )

    parts = list(inspect.signature(add_losses).parameters)[1:]

    def objective(params, state, batch, key):
        if not isinstance(batch, tuple | list) or len(batch) != len(parts):
            many = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
            raise ValueError(
                f"training.{name}: a batch must be ({', '.join(parts)}), got "
                f"{type(batch).__name__}{many}."
            )
        run = Run(name, params, state, key, weights or {}, needed, optional)
        add_losses(run, *batch)
        return run.total, (run.metrics, run.variables)

    return make_step(objective, optimizer, axis_name=axis_name)
