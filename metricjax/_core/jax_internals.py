"""The parts of JAX that this library uses and JAX does not document, all of them in this file.

A streamed sum (`stream.sum_over`) takes a function of a loop's index and has to know three things
that no documented function tells:

* which arrays the function closes over, so that gradients reach them (`hoist`),
* what of its work no step changes, so that this work is done once (`hoist`, `split`),
* which of its outputs have a derivative, so that one loop can sum value and gradient (`depends`).

All three are read off its jaxpr. For instance ``lambda k: (jnp.sum(jnp.sin(a)) * k, k)`` becomes

    { lambda a:f32[9]; k:i32[]. let       a is closed over: a constant of the jaxpr
        b:f32[9] = sin a                  } `split`: constants alone decide these,
        c:f32[] = reduce_sum b            } so they run once, before the loop
        d:f32[] = convert_element_type k
        e:f32[] = mul c d
      in (e, k) }                         `depends`: e moves with c, k is an integer

Relied upon: `jax.make_jaxpr` keeps what is closed over as constants; equations have a primitive
with a name and parameters as `_outputs` reads them; `jax.core.eval_jaxpr` runs a jaxpr;
`SymbolicZero` marks cotangents that nobody asked for; a type has `manual_axis_type`.
tests/test_jax_internals.py fails where a version of JAX changes any of this.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero as SymbolicZero
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

SEEN_THROUGH = "sum_of_slabs"
"""A `jax.custom_jvp` function of this name has the derivative of what is written in it."""


def varying(like: Any) -> frozenset[str]:
    """The axes of `jax.shard_map` that a type varies over; none outside of it."""
    axes = like.manual_axis_type  # None: a `jax.ShapeDtypeStruct` that varies over no axis
    return frozenset() if axes is None else axes.varying


def no_slope(x: Any) -> SymbolicZero:
    """The tangent of an output of `jax.custom_jvp` that has no derivative."""
    return SymbolicZero(jax.typeof(x).to_tangent_aval())


def hoist(fn, *example):
    """`fn` with every array it closes over as an explicit argument, integers included.

    What does not depend on the arguments of `fn` is computed here, once, and closed over. Returned
    with these arrays.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*example)
    count = len(example)  # closing over the example itself would leak it, where it is traced
    tree = jax.tree.structure(shape)
    first, rest = split(closed.jaxpr)
    closed_over = jax.core.eval_jaxpr(first, closed.consts)

    def explicit(*args):
        operands, consts = args[:count], args[count:]
        return jax.tree.unflatten(tree, jax.core.eval_jaxpr(rest, consts, *operands))

    return explicit, closed_over


def depends(jaxpr: Any, moving: list[bool]) -> list[bool]:
    """Whether each output changes smoothly with what is `moving` of the inputs, constants first.

    Never False of an output that has a derivative; nothing passes through integers.
    """
    given = [*jaxpr.constvars, *jaxpr.invars][-len(moving) :]
    found = {v for v, moves in zip(given, moving, strict=True) if moves}
    at = lambda v: not isinstance(v, Literal) and v in found
    for eqn in jaxpr.eqns:
        inputs = [at(v) for v in eqn.invars]
        if any(inputs):
            outs = zip(eqn.outvars, _outputs(eqn, inputs), strict=True)
            found |= {v for v, moves in outs if moves and jnp.issubdtype(v.aval.dtype, jnp.inexact)}
    return [at(v) for v in jaxpr.outvars]


def _outputs(eqn, inputs):
    kind, params = eqn.primitive.name, eqn.params
    if kind == "stop_gradient":  # not differentiated further, and so nothing moves
        return [False] * len(eqn.outvars)
    if kind == "jit":
        return depends(params["jaxpr"].jaxpr, inputs)
    if kind == "custom_jvp_call":
        inside = params["call_jaxpr"].jaxpr
        if inside.debug_info.func_src_info.split(" ")[0] == SEEN_THROUGH:
            return depends(inside, inputs)
    if kind == "while":
        start = params["cond_nconsts"]
        consts = inputs[start : start + params["body_nconsts"]]
        carry = inputs[start + params["body_nconsts"] :]
        body = params["body_jaxpr"].jaxpr
        # what moves in a step moves its followers in the next: until nothing is added
        while True:
            more = depends(body, consts + carry)
            if not any(m and not c for m, c in zip(more, carry, strict=True)):
                return carry
            carry = [m or c for m, c in zip(more, carry, strict=True)]
    return [True] * len(eqn.outvars)  # of any other operation: it may have a derivative


def split(jaxpr: Any) -> tuple[Jaxpr, Jaxpr]:
    """What the constants alone decide, and the rest, with the results of the first as constants.

    A result that is larger than all the constants it is made of is left to the rest, and so is
    everything where sizes are symbolic, as `jax.export` has them, and cannot be compared.
    """
    known = all(isinstance(v.aval.size, int) for e in jaxpr.eqns for v in [*e.invars, *e.outvars])
    variables_of = lambda atoms: {v for v in atoms if not isinstance(v, Literal)}
    size = {v: v.aval.size for v in jaxpr.constvars}  # of the largest constant in what is known
    early, late = [], []
    for eqn in jaxpr.eqns:
        variables = variables_of(eqn.invars)
        if eqn.effects or not known or not variables <= size.keys():
            late.append(eqn)
        else:
            early.append(eqn)
            size |= dict.fromkeys(eqn.outvars, max([1, *(size[v] for v in variables)]))

    needed = variables_of(jaxpr.outvars).union(*(variables_of(eqn.invars) for eqn in late))
    first: list[JaxprEqn] = []
    wanted: set[Var] = set()
    for eqn in reversed(early):
        outs = set(eqn.outvars)
        if any(v.aval.size > size[v] for v in outs & needed):
            late.insert(0, eqn)
            needed = (needed - outs) | variables_of(eqn.invars)
        if outs & (needed | wanted):
            first.insert(0, eqn)
            wanted |= variables_of(eqn.invars)
    found = [v for v in size if v in needed]
    return (
        jaxpr.replace(invars=[], outvars=found, eqns=first),
        jaxpr.replace(constvars=found, eqns=late),
    )
