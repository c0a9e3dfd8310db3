"""All parts of JAX that this library uses although JAX does not document them.

A streamed sum (`stream.sum_over`) takes a function of a loop's index. It needs three facts that no
documented function returns:

* which arrays the function closes over, so that gradients reach them (`hoist`),
* which work of the function is the same in every step, so that it is done once (`hoist`, `split`),
* which of its outputs have a derivative, so that one loop can sum value and gradient (`depends`).

All three are read from the function's jaxpr. For example,
``lambda k: (jnp.sum(jnp.sin(a)) * k, k)`` becomes

    { lambda a:f32[9]; k:i32[]. let       a is closed over: a constant of the jaxpr
        b:f32[9] = sin a                  } `split`: constants alone decide these,
        c:f32[] = reduce_sum b            } so they run once, before the loop
        d:f32[] = convert_element_type k
        e:f32[] = mul c d
      in (e, k) }                         `depends`: e moves with c, k is an integer

The library relies on the following. `jax.make_jaxpr` keeps closed-over arrays as constants.
Equations have a primitive with a name, and parameters as `_outputs` reads them.
`jax.core.eval_jaxpr` runs a jaxpr. `SymbolicZero` marks the tangents of arrays that are not
differentiated. A type has `manual_axis_type`. tests/test_jax_internals.py fails if a version of JAX
changes any of this.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero as SymbolicZero
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

SEEN_THROUGH = "sum_of_slabs"
"""The derivative of a `jax.custom_jvp` function of this name is the derivative of its body."""


def varying(like: Any) -> frozenset[str]:
    """Returns the axes of `jax.shard_map` that a type varies over. Outside, there are none."""
    axes = like.manual_axis_type  # None: a `jax.ShapeDtypeStruct` that varies over no axis
    return frozenset() if axes is None else axes.varying


def no_slope(x: Any) -> SymbolicZero:
    """Returns the tangent of an output of `jax.custom_jvp` that has no derivative."""
    return SymbolicZero(jax.typeof(x).to_tangent_aval())


def hoist(fn, *example):
    """Returns `fn` with every array that it closes over as an explicit argument, and these arrays.

    Integer arrays are included. Work that does not depend on the arguments of `fn` is done here,
    once: its results are among the returned arrays.
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*example)
    count = len(example)  # closing over `example` itself would leak it if it is traced
    tree = jax.tree.structure(shape)
    first, rest = split(closed.jaxpr)
    closed_over = jax.core.eval_jaxpr(first, closed.consts)

    def explicit(*args):
        operands, consts = args[:count], args[count:]
        return jax.tree.unflatten(tree, jax.core.eval_jaxpr(rest, consts, *operands))

    return explicit, closed_over


def depends(jaxpr: Any, moving: list[bool]) -> list[bool]:
    """Returns for each output whether it changes smoothly with the inputs that are `moving`.

    `moving` lists constants first. The answer is never False for an output that has a derivative.
    Nothing passes through integers.
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
    if kind == "stop_gradient":  # not differentiated further, so nothing moves
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
        # what moves in one step may move more in the next step: repeat until nothing is added
        while True:
            more = depends(body, consts + carry)
            if not any(m and not c for m, c in zip(more, carry, strict=True)):
                return carry
            carry = [m or c for m, c in zip(more, carry, strict=True)]
    return [True] * len(eqn.outvars)  # any other operation may have a derivative


def split(jaxpr: Any) -> tuple[Jaxpr, Jaxpr]:
    """Splits a jaxpr into the part that depends only on constants, and the rest.

    The results of the first part are constants of the rest. A result that is larger than each of
    the constants it is computed from stays in the rest. If there are symbolic sizes, as in
    `jax.export`, sizes cannot be compared, and everything stays in the rest.
    """
    known = all(isinstance(v.aval.size, int) for e in jaxpr.eqns for v in [*e.invars, *e.outvars])
    variables_of = lambda atoms: {v for v in atoms if not isinstance(v, Literal)}
    size = {v: v.aval.size for v in jaxpr.constvars}  # of the largest constant it comes from
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
