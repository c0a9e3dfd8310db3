"""Every loss in every layout: value and gradients are those of the whole batch on one device."""

import functools

import chex
import jax
import numpy as np
import pytest
from cases import CASES
from layouts import LAYOUTS, RING, TOLERANCES, batch, in_chunks, mapped_by_pmap, on_mesh, whole

import metricjax as mj

QUICK = "contrastive arcface proxy_anchor triplet_margin smooth_ap lifted_structure vicreg".split()


@functools.cache
def on_one_device(case, dtype):
    value, to_kernel, to_params = jax.jit(whole(case))(*batch(case, dtype))
    assert value.dtype == dtype
    assert abs(value) > 1e-3 and all(
        np.abs(g).max() > 1e-4 for g in jax.tree.leaves((to_kernel, to_params))
    )
    return jax.device_get((value, to_kernel, to_params))


def in_blocks(case, dtype):
    return jax.jit(in_chunks(case))(*batch(case, dtype))


HOW = {
    "chunked": (LAYOUTS["auto in chunks"].has, in_blocks),
    **{
        name: (layout.has, lambda c, dtype, layout=layout: on_mesh(layout, [c], dtype)[str(c)])
        for name, layout in LAYOUTS.items()
    },
    "pmap": (LAYOUTS["shard_map"].has, mapped_by_pmap),
    "pmap, classes over its axis": (
        LAYOUTS["classes over the batch's axis"].has,
        functools.partial(mapped_by_pmap, own_classes=True),
    ),
}
QUICK_HOW = "chunked", "explicit", "shard_map", "classes over the batch's axis"
CELLS = [
    pytest.param(
        case,
        how,
        dtype,
        id=f"{case}-{how}-{dtype}",
        marks=[]
        if dtype == "float32" and (str(case) in QUICK and how in QUICK_HOW)
        else [pytest.mark.slow],
    )
    for case in CASES
    for how, (has, _) in HOW.items()
    if has(case)
    for dtype in TOLERANCES
]


@pytest.mark.parametrize("case, how, dtype", CELLS)
def test_a_layout_is_one_device(case, how, dtype):
    with jax.enable_x64(dtype == "float64"):
        got = jax.device_get(HOW[how][1](case, dtype))
        want, tolerance = on_one_device(case, dtype), TOLERANCES[dtype]
        size = max(1, *(np.abs(x).max() for x in jax.tree.leaves(want)))
        chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance * size)


def test_rings_are_those_of_the_library():
    with pytest.raises(ValueError) as error:
        mj.ring(mj.losses.arcface)
    named = str(error.value).split("one of ")[1].split(", got")[0]
    assert set(named.split(", ")) == RING
