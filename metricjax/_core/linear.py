"""Linear maps whose transpose is written by hand, and that have all of JAX's derivatives.

The tangent of a streamed sum is a loop, and its cotangent is another loop. JAX cannot derive the
second loop from the first: it does not transpose a loop whose number of steps is traced. `linear`
takes both loops. (`jax.custom_vjp` has no forward mode, and `jax.custom_derivatives.linear_call`
has no `vmap`.)

`jax.lax.custom_linear_solve` has every derivative. It takes a matrix M, a function that solves
M z = b, and another function that solves systems with the transpose of M. To make a map L from x to
y a part of a solution, z has two copies of x and y:

        | 0   I |             | X  I |                | 0  L^T |
    M = | I  -X |      M^-1 = | I  0 |     with   X = | L   0  |

M is symmetric, and the solver is told so. The solution of M z = (x, 0, 0, 0) is (0, L x, x, 0). The
solver below skips the half of X that would be applied to zeros: L^T in the forward solve, L in the
backward solve.

M itself is applied only by second derivatives, which differentiate `push` and `pull` as they are
written. `push` and `pull` may be streamed sums themselves, so there are derivatives of any order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metricjax._core.jax_internals import varying


def linear(
    push: Callable[[Any, Any], Any], pull: Callable[[Any, Any], Any], args: Any, x: Any, like: Any
) -> Any:
    """Returns ``push(args, x)``, linear in x, with the transpose ``pull(args, y)``.

    `like` has the type of the result. `push` and `pull` close over no arrays. JAX makes all
    operands of a solver vary over the same axes of `jax.shard_map`. So they are made to vary here
    first, and each operand gets its own type back inside of the solver. Otherwise a gradient that
    `pull` has summed over devices would be summed again.
    """
    plus = lambda a, b: jax.tree.map(jnp.add, a, b)
    minus = lambda a, b: jax.tree.map(jnp.subtract, a, b)
    no_x, no_y = jax.tree.map(jnp.zeros_like, (x, like))
    wide, b = alike((args, ((x, no_y), (no_x, no_y))))
    (wide_x, wide_y), _ = b

    def forward(v):
        return _cast(push(_cast(wide, args), _cast(v, x)), wide_y)

    def backward(c):
        return _transposed_cast(pull(_cast(wide, args), _transposed_cast(c, like)), wide_x)

    def apply(z):
        (x, y), (x2, y2) = z
        of_y, of_x = backward(y2), forward(x2)
        return _tied(((x2, y2), (minus(x, of_y), minus(y, of_x))), (of_y, of_x))

    def solve(_, b):
        (x, y), (x2, y2) = b
        return (x2, plus(forward(x), y2)), (x, y)

    def transpose_solve(_, b):
        (x, y), (x2, y2) = b
        return (plus(backward(y), x2), y2), (x, y)

    z = jax.lax.custom_linear_solve(
        apply, _tied(b, b[0][0]), solve, transpose_solve, symmetric=True
    )
    return _cast(z[0][1], like)


def _tied(tree, to):
    """Returns `tree` plus a zero that is a linear function of `to`. XLA removes the zero.

    JAX can transpose the solver only with respect to all of b or none of b.
    """
    nothing = [jnp.sum(jnp.where(False, x, jnp.zeros_like(x))) for x in jax.tree.leaves(to)]
    return jax.tree.map(lambda x: x + sum(n.astype(x.dtype) for n in nothing), tree)


def alike(tree: Any) -> Any:
    """Makes all arrays vary over the same axes of `jax.shard_map`: all axes that any of them has.

    Gradients are then summed over devices once, after a loop, and not in every step of the loop.
    """
    axes = frozenset().union(*(varying(jax.typeof(x)) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: vary(x, axes - varying(jax.typeof(x))), tree)


def _cast(tree, like):
    """Makes `tree` vary over the axes of `like`. Along axes that are dropped, it is constant."""

    def one(x, like):
        more, fewer = _axes(x, like)
        if fewer and not jnp.issubdtype(x.dtype, jnp.inexact):  # a mean would not be exact
            return jax.lax.pmax(x.astype(jnp.int32), fewer).astype(x.dtype)
        return vary(jax.lax.pmean(x, fewer) if fewer else x, more)

    return jax.tree.map(one, tree, like)


def _transposed_cast(tree, like):
    """Applies the transpose of a `_cast` from the type of `like` to the type of `tree`."""

    def one(x, like):
        more, fewer = _axes(x, like)
        x = jax.lax.psum(x, fewer) if fewer else x
        return vary(x, more) / jax.lax.axis_size(more) if more else x

    return jax.tree.map(one, tree, like)


def _axes(x, like):
    """Returns the axes that only `like` varies over, and the axes that only `x` varies over.

    The axes are sorted, because sets of names have a different order in every process. Without
    sorting, processes would wait for each other in different collectives.
    """
    x, like = varying(jax.typeof(x)), varying(jax.typeof(like))
    return tuple(sorted(like - x)), tuple(sorted(x - like))


def vary(x, axes):
    """Makes `x` vary over more axes of `jax.shard_map`."""
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def vary_along(tree: Any, axis_name) -> Any:
    """Makes a pytree vary over one or several mapped axes, if types record such axes at all.

    Collectives over several axes require that all arrays vary over all of the axes, or over none.
    """
    axes = varying(jax.typeof(jax.lax.axis_index(axis_name)))
    return jax.tree.map(lambda x: vary(x, axes - varying(jax.typeof(x))), tree)


def sum_along(tree: Any, axis_name) -> Any:
    """Sums the arrays of all devices, including arrays that are the same on all devices."""
    return jax.lax.psum(vary_along(tree, axis_name), axis_name)


def log_sum_along(x, axis_name):
    """Returns the logarithm of the sum of ``exp(x)`` over devices. It is -inf if all x are -inf."""
    x = vary_along(x, axis_name)
    top = jax.lax.pmax(jax.lax.stop_gradient(x), axis_name)
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jax.lax.psum(jnp.exp(x - top), axis_name)
    none = total == 0
    return jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, total)))
