"""What depends on what in a function, seen in its jaxpr."""

import math

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

SEEN_THROUGH = "sum_of_slabs"
"""A `jax.custom_vjp` function of this name has the derivative of what is written in it."""


def depends(jaxpr: Jaxpr, moving: list[bool]) -> list[bool]:
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
            found |= {v for v, moves in outs if moves and _inexact(v)}
    return [at(v) for v in jaxpr.outvars]


def _outputs(eqn, inputs):
    kind, params = eqn.primitive.name, eqn.params
    if kind == "stop_gradient":
        return [False] * len(eqn.outvars)
    if kind == "jit":
        return depends(params["jaxpr"].jaxpr, inputs)
    if kind == "custom_vjp_call" and _name(params["call_jaxpr"].jaxpr) == SEEN_THROUGH:
        return depends(params["call_jaxpr"].jaxpr, inputs)
    if kind == "while":
        start = params["cond_nconsts"]
        consts = inputs[start : start + params["body_nconsts"]]
        carry = inputs[start + params["body_nconsts"] :]
        body = params["body_jaxpr"].jaxpr
        while carry != (more := _either(carry, depends(body, consts + carry))):
            carry = more
        return carry
    return [True] * len(eqn.outvars)


def _inexact(variable):
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _name(jaxpr):
    return jaxpr.debug_info.func_src_info.split(" ")[0]


def _either(a, b):
    return [x or y for x, y in zip(a, b, strict=True)]


def split(jaxpr: Jaxpr) -> tuple[Jaxpr, Jaxpr]:
    """What the constants alone decide, and the rest, with the results of the first as constants.

    A result that is larger than all the constants it is made of is left to the rest.
    """
    size = {v: _size(v) for v in jaxpr.constvars}  # of the largest constant in what is known
    early, late = [], []
    for eqn in jaxpr.eqns:
        variables = _variables(eqn.invars)
        if eqn.effects or not variables <= size.keys():
            late.append(eqn)
        else:
            early.append(eqn)
            size |= dict.fromkeys(eqn.outvars, max([1, *(size[v] for v in variables)]))

    needed = _variables(jaxpr.outvars).union(*(_variables(eqn.invars) for eqn in late))
    first: list[JaxprEqn] = []
    wanted: set[Var] = set()
    for eqn in reversed(early):
        outs = set(eqn.outvars)
        if any(_size(v) > size[v] for v in outs & needed):
            late.insert(0, eqn)
            needed = (needed - outs) | _variables(eqn.invars)
        if outs & (needed | wanted):
            first.insert(0, eqn)
            wanted |= _variables(eqn.invars)
    found = [v for v in size if v in needed]
    return (
        jaxpr.replace(invars=[], outvars=found, eqns=first),
        jaxpr.replace(constvars=found, eqns=late),
    )


def _variables(atoms):
    return {v for v in atoms if not isinstance(v, Literal)}


def _size(variable):
    return math.prod(variable.aval.shape)
