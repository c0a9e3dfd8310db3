"""Embeddings whose first features are also embeddings."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metricjax._core.check import check_at_least
from metricjax._core.record import record_of
from metricjax._core.stream import scaled
from metricjax._core.types import LossDict, Refs, Scalar
from metricjax.distances import normalize as unit

SCORES = ("teacher", "documents_where")
"""Arguments whose last axis is documents, even if there are as many documents as features."""


def matryoshka(
    loss, dims: Sequence[int], weights: Sequence[Scalar] | None = None, *, normalize: bool = False
):
    r"""Applies a loss to the first d features for several d, so that embeddings can be truncated.

    .. math:: L = \sum_d w_d \, \ell(x_{:d})

    Everything with as many features as the embeddings is truncated with them: references, class
    weights, a second view, and negatives. An argument `teacher` stays whole, because its space is
    another one; embeddings of a teacher that are `ref_embeddings` are truncated.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0, 2.0], [0.8, 0.6, 1.0], [0.0, 1.0, 0.0]])
        >>> y = jnp.array([0, 0, 1])
        >>> loss = mj.matryoshka(mj.losses.ntxent, dims=(2, 3))
        >>> total, parts = mj.reduce(loss(x, y))
        >>> print(f"{total:.4f}", {name: f"{x:.4f}" for name, x in parts.items()})
        0.0286 {'loss_2': '0.0279', 'loss_3': '0.0007'}

    Args:
        loss: any loss of `metricjax.losses`, a module of `metricjax.nn`, the result of `chunked`,
            or any function with the same arguments and result. A miner sees whole embeddings: pass
            the miner to `objective`, together with the function that is returned here.
        dims: how many of the first features to use, each number at most D; static. D itself should
            be among them.
        weights: a factor for each of `dims`, 1 by default; may be traced.
        normalize: whether to divide truncated rows by their norm, except class weights; static. Use
            it for losses that do not normalize embeddings themselves.

    Returns:
        A function with the arguments of `loss`. Its terms are named ``{name}_{d}``, so that
        reducers can differ by d.

    Raises:
        ValueError: `dims` is empty, holds something other than integers from 1 to D, or holds a
            number twice, or there are not as many `weights` as `dims`.

    References:
        Kusupati et al., `Matryoshka Representation Learning <https://arxiv.org/abs/2205.13147>`_,
        2022.
    """
    dims = tuple(dims)
    for d in dims:
        check_at_least("matryoshka", "dims", d, 1)
    if not dims or len({*dims}) < len(dims):
        raise ValueError(f"matryoshka: `dims` must be one or more, each once, got {dims}.")
    factors = [1] * len(dims) if weights is None else list(weights)
    if len(factors) != len(dims):
        raise ValueError(
            f"matryoshka: `weights` must be {len(dims)}, one for each of `dims`, got "
            f"{len(factors)}."
        )
    record = record_of(loss)

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **options) -> LossDict:
        width = jnp.shape(embeddings)[-1]
        if max(dims) > width:
            raise ValueError(
                f"matryoshka: `dims` must be at most {width}, the features of `embeddings`, got "
                f"{dims}."
            )
        pure, args = loss, [embeddings, labels, *params]
        if hasattr(loss, "loss") and hasattr(loss, "weights"):  # a module that owns class weights
            pure = functools.partial(loss.loss, **dict(loss.options))
            args.insert(2, loss.weights[...])
        names = [*record.signature.parameters, *[""] * len(args)][: len(args)]
        out: LossDict = {}
        for d, factor in zip(dims, factors, strict=True):

            def first(name, value, d=d):
                if name in SCORES:
                    return value
                return _first(value, normalize and name != "weights", width=width, d=d)

            some = map(first, names, args)
            terms = pure(*some, **{name: first(name, x) for name, x in options.items()})
            terms = terms if weights is None else scaled(terms, factor)
            out |= {f"{name}_{d}": term for name, term in terms.items()}
        return out

    fn.record = dataclasses.replace(record, body=fn, opaque=True)  # type: ignore[attr-defined]
    return fn


def _first(value, normalize, *, width, d):
    """Returns the first d features of references, or of an array of rows with `width` features."""
    if isinstance(value, Refs):
        rows = _first(value.embeddings, normalize, width=width, d=d)
        return value._replace(embeddings=rows)
    rows = isinstance(value, jax.Array) or hasattr(value, "__array__")
    if not rows or jnp.ndim(value) < 2 or jnp.shape(value)[-1] != width:
        return value
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    some = jnp.asarray(value)[..., :d]
    return unit(some).astype(some.dtype) if normalize else some
