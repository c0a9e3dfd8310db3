"""Every loss in every layout: value and gradients are those of the whole batch on one device."""

import functools

import jax
import pytest
from cases import CASES
from layouts import LAYOUTS, RING, TOLERANCES, by_pmap, check, in_chunks, on_mesh, on_one_device

import metricjax as mj

QUICK = "contrastive arcface lifted_structure vicreg".split()
HOW = {
    "chunked": (LAYOUTS["auto in chunks"].has, functools.partial(on_one_device, in_chunks)),
    **{name: (layout.has, functools.partial(on_mesh, name)) for name, layout in LAYOUTS.items()},
    "pmap": (LAYOUTS["shard_map"].has, functools.partial(by_pmap, False)),
    "pmap, classes over its axis": (
        LAYOUTS["classes over the batch's axis"].has,
        functools.partial(by_pmap, True),
    ),
}


def check_layout(how, cases, dtype):
    has, run = HOW[how]
    with jax.enable_x64(dtype == "float64"):
        check(jax.device_get(run([c for c in cases if has(c)], dtype)), cases, dtype)


@pytest.mark.parametrize(
    "how",
    [*(pytest.param(how, marks=pytest.mark.slow) for how in ("chunked", "explicit")), "shard_map"],
)
def test_some_losses_are_those_of_one_device(how):
    check_layout(how, tuple(c for c in CASES if str(c) in QUICK), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("how", HOW)
def test_every_loss_is_that_of_one_device(how, dtype):
    check_layout(how, tuple(CASES), dtype)


def test_every_loss_has_every_layout_that_it_can_have():
    """Losses of the whole batch have no chunks, those without class weights no spread classes."""
    lacking = {how: {str(c) for c in CASES if not has(c)} for how, (has, _) in HOW.items()}
    whole = {str(c) for c in CASES if c.whole}
    spread = {str(c) for c in CASES if c.centers and c.takes("labels")}
    assert whole == {"barlow_twins", "infonce", "manifold", "n_pairs", "vicreg"}
    for how, losses in lacking.items():
        if "classes" in how:
            assert {str(c) for c in CASES} - losses == spread
        elif how != "ring":
            assert losses == (whole if "chunk" in how else set())


def test_rings_are_those_of_the_library():
    with pytest.raises(ValueError) as error:
        mj.ring(mj.losses.arcface)
    named = str(error.value).split("one of ")[1].split(", got")[0]
    assert set(named.split(", ")) == RING
