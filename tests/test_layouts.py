"""Losses in every layout: value and gradients are those of the whole batch on one device."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from cases import CASES, one_of_each_kind
from jax.sharding import AxisType
from layouts import LAYOUTS, RING, by_pmap, check, in_chunks, on_mesh, on_one_device

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


# In float64, where 1e-10 shows what the rounding errors of float32 would hide.
EVERY_LOSS = (
    *("auto", "explicit", "shard_map", "ring"),
    *("classes over their axis", "classes over the batch's axis"),
)


@pytest.mark.slow
@pytest.mark.parametrize("how", EVERY_LOSS)
def test_every_loss_is_that_of_one_device(how):
    check_layout(how, tuple(CASES), "float64")


@pytest.mark.slow
@pytest.mark.parametrize("how", [how for how in HOW if how not in EVERY_LOSS])
def test_a_loss_of_each_kind_is_that_of_one_device(how):
    """Blocks are tested with every loss in `test_losses.py`; `jax.pmap` is `jax.shard_map`."""
    check_layout(how, one_of_each_kind(), "float64")


def test_every_loss_has_every_layout_that_it_can_have():
    """Losses of the whole batch have no chunks, those without class weights no spread classes."""
    lacking = {how: {str(c) for c in CASES if not has(c)} for how, (has, _) in HOW.items()}
    whole = {str(c) for c in CASES if c.whole}
    spread = {str(c) for c in CASES if c.centers and c.takes("labels")}
    assert whole == {
        *("barlow_twins", "manifold", "n_pairs", "vicreg", "angle", "cosent", "ge2e"),
        *("adacos", "adaface", "curricularface", "elasticface"),
        *("swav", "w_mse"),
        *("cosine_mse", "distill_kl", "embedding_match", "margin_mse"),  # row by row
        *("alignment", "dino", "negative_cosine"),
    }
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
    assert RING >= set(
        "circle contrastive generalized_lifted_structure multi_similarity nca ntxent siglip "
        "signal_to_noise_ratio_contrastive sup_con tuplet_margin intra_pair_variance "
        "threshold_consistent_margin ranked_list fast_ap".split()
    )


@pytest.mark.slow
def test_several_axes_are_one():
    """Of a mesh of 2 x 4 devices: gathered, summed over, gone around, and classes spread over."""
    both = "data", "fsdp"
    x, y = jax.random.normal(jax.random.key(0), (32, 8)), jnp.arange(32) % 5
    w = jax.random.normal(jax.random.key(1), (16, 8))
    spread, whole = jax.P(both), jax.P()
    sharded = functools.partial(mj.objective, axis_name=both)
    ring = lambda x, y: mj.reduce(mj.ring(mj.losses.sup_con)(x, y, axis_name=both), axis_name=both)
    classes = lambda x, y, w: mj.reduce(mj.losses.arcface(x, y, w, class_axis=both))
    mesh = jax.make_mesh((2, 4), both, axis_types=(AxisType.Auto,) * 2)
    for loss, local, specs, more in (
        (mj.losses.ntxent, sharded(mj.losses.ntxent), (spread, spread), ()),
        (mj.losses.histogram, sharded(mj.losses.histogram), (spread, spread), ()),
        (mj.losses.sup_con, ring, (spread, spread), ()),
        (mj.losses.arcface, classes, (whole, whole, spread), (w,)),
    ):
        on_mesh = jax.shard_map(
            lambda *args, local=local: local(*args)[0], mesh=mesh, in_specs=specs, out_specs=whole
        )
        alone = lambda x, y, *w, loss=loss: mj.reduce(loss(x, y, *w))[0]
        got, want = (jax.jit(jax.value_and_grad(fn))(x, y, *more) for fn in (on_mesh, alone))
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
