"""The one table of layouts: a training step of every loss, on one device and on many.

`test_layouts.py` runs them in one process, `processes.py` in several. Many losses make one program,
which takes half as long as many programs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES
from jax.sharding import AxisType, NamedSharding

import metricjax as mj
from metricjax._core.record import record_of

N, D, C = 24, 8, 16
RING = {str(case) for case in CASES if record_of(case.loss).ring}
TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


def batch(case, dtype):
    """An encoder, what the loss learns, and samples with weights from 0 to 2, as NumPy arrays."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(D, D)) / 3
    params = tuple(rng.normal(size=(C * case.centers, D)) for _ in range(case.centers > 0))
    floats = kernel, params, rng.normal(size=(N, D)), np.arange(N) % 5 / 2
    kernel, params, e, where = jax.tree.map(lambda x: x.astype(dtype), floats)
    return kernel, params, e, np.arange(N, dtype=np.int32) * 5 % 7, where


def step(total, axis_name=None, own_params=None):
    """Value, and gradients of encoder and parameters, of ``total(x, y, where, params)``.

    Each device has its part of the batch along `axis_name`, and all of the parameters, unless
    `own_params` says what to make of the gradients of its own.
    """

    def run(kernel, params, e, y, where):
        of = lambda kernel, params: total(jnp.tanh(e @ kernel), y, where, params)
        value, (to_kernel, to_params) = jax.value_and_grad(of, (0, 1))(kernel, params)
        if axis_name is not None:
            to_kernel = jax.lax.pmean(to_kernel, axis_name)
            if own_params is None:
                to_params = jax.lax.pmean(to_params, axis_name)
            else:
                to_params = jax.tree.map(own_params, to_params)
        return value, to_kernel, to_params

    return run


def whole(case, loss=None):
    """The whole batch at once."""
    loss = loss or case.fn
    return step(lambda x, y, where, p: mj.reduce(loss(x, y, *p, where=where))[0])


def in_chunks(case):
    return whole(case, case.of(mj.chunked(case.loss, 7)))


def local(case, *, chunk=None, ring=False, **how):
    """A part of the batch on each device; references, or all of the batch, are gathered."""
    loss = mj.chunked(case.loss, chunk) if chunk else case.loss
    loss = mj.ring(loss) if ring else loss

    def total(x, y, where, p):
        if case.takes("proxies"):
            x, y, _, where = mj.gather_refs(x, y, "batch", where=where)
            return mj.reduce(case.fn(x, y, *p, where=where), axis_name="batch")[0]
        recipe = mj.objective(loss, axis_name="batch", **how)
        return recipe(*case.data(x, y), *p, where=where)[0]

    return total


def classes_on_devices(case, class_axis):
    """A part of the classes on each device, over an axis of their own or the batch's."""
    if case.takes("class_axis"):
        return local(case, class_axis=class_axis)

    def total(x, y, where, p):  # proxy_anchor, whose terms have a row for each class
        x, y, _, where = mj.gather_refs(x, y, "batch", where=where)
        ids = jnp.arange(len(p[0]), dtype=jnp.int32) + len(p[0]) * jax.lax.axis_index(class_axis)
        terms = case.loss(x, y, *p, where=where, class_ids=ids)
        return jax.lax.pmean(mj.reduce(terms, axis_name=class_axis)[0], "batch")

    return total


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a step is spread over a mesh of eight devices.

    Attributes:
        has: whether a loss can be spread so.
        run: ``case -> step``: of the global arrays, or of each device's parts of them.
        mapped: the latter, by `jax.shard_map`, with its types checked or not.
        kind: of the mesh's axes.
        axes: names and sizes of the mesh's axes.
        params: how class weights are spread.
    """

    has: Callable[[Any], bool]
    run: Callable[[Any], Callable]
    mapped: bool = False
    checked: bool = True
    kind: AxisType = AxisType.Auto
    axes: tuple[tuple[str, int], ...] = (("batch", 8),)
    params: jax.P = jax.P()

    def mesh(self):
        names, sizes = zip(*self.axes, strict=True)
        return jax.make_mesh(sizes, names, axis_types=(self.kind,) * len(names))

    def specs(self):
        return jax.P(), self.params, *[jax.P("batch")] * 3

    def place(self, mesh, args):
        """Global arrays of a batch; each process has all of it and keeps what is its own."""

        def put(spec, x):
            part = lambda index: x[index]
            return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), part)

        return tuple(
            jax.tree.map(functools.partial(put, spec), arg)
            for spec, arg in zip(self.specs(), args, strict=True)
        )

    def of(self, case, mesh):
        """The step of a loss, to be compiled with `mesh` set."""
        if not self.mapped:
            return self.run(case)
        return jax.shard_map(
            self.run(case),
            mesh=mesh,
            in_specs=self.specs(),
            out_specs=(jax.P(), jax.P(), self.params),
            check_vma=self.checked,
        )


everything = lambda case: True
rings = lambda case: str(case) in RING
apart = lambda case: not case.whole
classes = lambda case: case.takes("class_axis") or case.takes("class_ids")
as_it_is = lambda x: x
over_the_batch = {"mapped": True, "params": jax.P("batch")}
over_their_axis = {
    "mapped": True,
    "axes": (("batch", 4), ("classes", 2)),
    "params": jax.P("classes"),
}

LAYOUTS = {
    "auto": Layout(everything, whole),
    "explicit": Layout(everything, whole, kind=AxisType.Explicit),
    "auto in chunks": Layout(apart, in_chunks),
    "explicit in chunks": Layout(apart, in_chunks, kind=AxisType.Explicit),
    "shard_map": Layout(everything, lambda c: step(local(c), "batch"), mapped=True),
    "shard_map in chunks": Layout(apart, lambda c: step(local(c, chunk=2), "batch"), mapped=True),
    "ring": Layout(rings, lambda c: step(local(c, ring=True), "batch"), mapped=True),
    "classes over their axis": Layout(
        classes,
        lambda c: step(classes_on_devices(c, "classes"), "batch", as_it_is),
        **over_their_axis,
    ),
    "classes over their axis, types unchecked": Layout(
        classes,
        lambda c: step(
            classes_on_devices(c, "classes"),
            ("batch", "classes"),
            lambda x: jax.lax.psum(x, "batch") / 8,
        ),
        checked=False,
        **over_their_axis,
    ),
    "classes over the batch's axis": Layout(
        classes,
        lambda c: step(classes_on_devices(c, "batch"), "batch", as_it_is),
        **over_the_batch,
    ),
    "classes, types unchecked": Layout(
        classes,
        lambda c: step(classes_on_devices(c, "batch"), "batch", lambda x: x / 8),
        checked=False,
        **over_the_batch,
    ),
}


def on_mesh(name, cases, dtype):
    """Results of some losses by name, in a layout of the table."""
    layout = LAYOUTS[name]
    mesh = layout.mesh()
    runs = {str(c): layout.of(c, mesh) for c in cases}
    args = {str(c): layout.place(mesh, batch(c, dtype)) for c in cases}
    with jax.set_mesh(mesh):
        return jax.jit(lambda args: {loss: runs[loss](*args[loss]) for loss in runs})(args)


def on_one_device(run, cases, dtype):
    """The same without a mesh, of ``run(case)``, a step."""
    args = {str(c): batch(c, dtype) for c in cases}
    runs = {str(c): run(c) for c in cases}
    return jax.jit(lambda args: {loss: runs[loss](*args[loss]) for loss in runs})(args)


def by_pmap(own_classes, cases, dtype):
    """The same by `jax.pmap`, where each device has all class weights, or its own."""
    split = lambda x: x.reshape(8, -1, *x.shape[1:])
    join = (lambda x: x.reshape(-1, D)) if own_classes else (lambda x: x[0])
    total = (lambda c: classes_on_devices(c, "batch")) if own_classes else local
    own_params = (lambda x: x / 8) if own_classes else None
    runs = {str(c): step(total(c), "batch", own_params) for c in cases}
    shared, own = {}, {}
    for c in cases:
        kernel, params, *samples = batch(c, dtype)
        shared[str(c)] = kernel, None if own_classes else params
        own[str(c)] = jax.tree.map(split, (params if own_classes else None, samples))

    def run(shared, own):
        out = {}
        for loss in runs:
            (kernel, params), (own_params, samples) = shared[loss], own[loss]
            out[loss] = runs[loss](kernel, own_params if own_classes else params, *samples)
        return out

    out = jax.pmap(run, axis_name="batch", in_axes=(None, 0))(shared, own)
    return {
        loss: (value[0], to_kernel[0], jax.tree.map(join, to_params))
        for loss, (value, to_kernel, to_params) in out.items()
    }


@functools.cache
def wanted(cases, dtype):
    """What every layout must give: the whole batch at once, on one device."""
    results = jax.device_get(on_one_device(whole, cases, dtype))
    for loss, (value, *grads) in results.items():
        assert value.dtype == dtype and abs(value) > 1e-3, loss
        assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads)), loss
    return results


def check(got, cases, dtype):
    """`got` is what is wanted of these losses."""
    want, tolerance = wanted(cases, dtype), TOLERANCES[dtype]
    for loss, results in got.items():
        size = max(1, *(np.abs(x).max() for x in jax.tree.leaves(want[loss])))
        chex.assert_trees_all_close(
            results, want[loss], rtol=tolerance, atol=tolerance * size, custom_message=loss
        )
