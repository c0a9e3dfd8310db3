"""Passes references around the devices, so that no device ever holds all of them."""

import functools
import inspect

import jax
import jax.numpy as jnp

from metricjax import losses
from metricjax._core.record import record_of
from metricjax._core.refs import admit, prepare
from metricjax._core.sums import sent
from metricjax._core.visits import Around, over_refs


def ring(loss):
    r"""Computes the same loss over the batches of all devices, without gathering them on a device.

    The references go around the devices of a `jax.shard_map` or `pmap` axis. Each device compares
    its anchors with one block of references at a time. Value and gradient are those of the whole
    batch on one device, or of `metricjax.gather_refs`. Memory grows with N * N, where N is the
    batch of one device.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> def local(x, y):
        ...     terms = mj.ring(mj.losses.ntxent)(x, y, axis_name="batch", temperature=0.5)
        ...     return mj.reduce(terms, axis_name="batch")[0]
        >>> mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> spread = jax.shard_map(local, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P())
        >>> x, y = jnp.eye(4), jnp.array([0, 0, 1, 1])
        >>> print(f"{jax.jit(spread)(x, y):.4f}")
        1.0986

    Args:
        loss: one of `metricjax.losses` whose values are sums over the references of an anchor, or
            functions of such sums, or a `functools.partial` of such a loss. Most losses of pairs
            qualify. The error for any other loss lists all losses that do.

    Returns:
        ``(embeddings, labels, *params, axis_name, refs=None, where=None, **options) -> LossDict``,
        to be reduced with the same `axis_name`. `refs` are this device's part of the references,
        for example the other tower's batch. A ``self_index`` is a row of this part. `mined` is not
        supported, because it would be a matrix of all references. Terms of pairs are streamed, and
        `reducers.per_anchor` does not support them.

    Raises:
        ValueError: the loss cannot be computed this way. For example, losses of triplets and most
            losses of ranks need several references at once.
    """
    record = record_of(loss)
    if not record.ring or record.opaque:
        raise ValueError(
            f"ring: `loss` must be one of {', '.join(_LOSSES)}, got {record.name}. "
            f"For others gather the references with `metricjax.gather_refs`."
        )
    signature = _signature(loss)

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **options):
        try:
            bound = signature.bind(embeddings, labels, *params, **options)
        except TypeError as error:
            raise TypeError(f"ring: losses.{record.name}: {error}.") from None
        bound.apply_defaults()
        given = bound.arguments
        axis_name = given.pop("axis_name")
        embeddings, labels, refs, where = map(given.pop, ("embeddings", "labels", "refs", "where"))
        batch = prepare(*admit(f"losses.{record.name}", embeddings, labels, refs, where), where)
        given = record.options.check(f"losses.{record.name}", len(embeddings), (labels,), given)
        block, self_index = batch.refs._replace(self_index=None), batch.refs.self_index

        def body(own, block):
            """Computes the loss of the device's anchors with one block of references."""
            if self_index is not None:  # an anchor is not in the blocks of other devices
                nowhere = jnp.full_like(self_index, len(block.embeddings))
                block = block._replace(self_index=jnp.where(own, self_index, nowhere))
            options = given | {"refs": block, "where": batch.weights}
            return record.body(batch.embeddings, batch.labels, **options)

        of_all = functools.partial(jax.lax.psum, axis_name=axis_name)
        return sent(over_refs(body, Around(axis_name), block), (), then=of_all)[0]

    fn.__signature__ = signature  # type: ignore[attr-defined]
    return fn


_LOSSES = sorted(
    name for name, loss in vars(losses).items() if hasattr(loss, "record") and loss.record.ring
)


def _signature(loss):
    """Returns the signature of the loss, with `axis_name` and without `mined`."""
    whole = inspect.signature(loss)
    mined = whole.parameters.get("mined")
    if mined is not None and mined.default is not None:
        raise ValueError(
            "ring: `mined` is not supported: it would need a matrix over all devices' references."
        )
    axis_name = inspect.Parameter("axis_name", inspect.Parameter.KEYWORD_ONLY, annotation=str)
    others = [p for p in whole.parameters.values() if p.name not in ("mined", "axis_name")]
    return whole.replace(parameters=[*others, axis_name])
