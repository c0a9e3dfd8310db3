"""Every option set of every loss against PyTorch Metric Learning: value and gradients.

Over random batches in self mode, with references, with mined pairs and with mined triplets, in
float64, so that a difference is one of mathematics; the defaults in float32, too, compiled as users
compile them. What is left out is listed in `docs/differences.md`, and tested on its own in
`test_differences.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from pml_side import NO_GRADIENT, SINGLE, N, draw, make_pml, run_pml

import metricjax as mj

SEEDS = range(3)
ONLY_BATCH = "fast_ap histogram instance n_pairs pnp ranked_list smooth_ap".split()


def modes(case, options):
    yield "self"
    confused = options.get("swap") or str(case) in ("lifted_structure", *TCM)  # D4, D3
    if case.takes("refs") and str(case) not in ONLY_BATCH and not confused:
        yield "refs"
    if case.takes("mined") and str(case) != "p2s_grad":
        yield "pairs"
        yield "triplets"


TCM = ("threshold_consistent_margin",)


def settings():
    for case in CASES:
        for options in ({}, *case.options) if case.pml else ():
            for mode in modes(case, options):
                words = "-".join(f"{k}={v}" for k, v in options.items())
                yield pytest.param(case, options, mode, id=f"{case}-{words}-{mode}")


@functools.cache
def ours(case, mode, words):
    """``(embeddings, labels, other, index, weights) -> value, gradients``, compiled once."""
    options = OPTIONS[str(case), words]

    def total(inputs, y, other, index):
        e, *weights = inputs
        a, p, n = index
        if str(case) == "angular":
            e = e / jnp.linalg.norm(e, axis=1, keepdims=True)
            other = (other[0] / jnp.linalg.norm(other[0], axis=1, keepdims=True), other[1])
        given = {
            "self": {},
            "refs": {"refs": mj.Refs(*other)},
            "pairs": {"mined": mj.tuples.from_pairs(a, p, a[::2], n[::2], shape=(N, N))},
            "triplets": {"mined": mj.tuples.from_triplets(a, p, n)},
        }[mode]
        return mj.reduce(case.fn(e, y, *weights, **given, **options))[0]

    run = jax.jit(jax.value_and_grad(total))
    return lambda e, y, other, index, weights: run((e, *weights), y, other, index)


OPTIONS = {(str(case), str(options)): options for case in CASES for options in ({}, *case.options)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case, options, mode", list(settings()))
def test_value_and_gradients_are_those_of_pml(case, options, mode):
    run = ours(case, mode, str(options))
    tolerance = SINGLE.get(str(case), 1e-9)
    for seed in SEEDS:
        e, y, other, index, weights = draw(case, np.random.default_rng(seed), mode)
        with jax.enable_x64(True):
            got = run(e, y, other, index, weights)
            got = jax.tree.map(np.asarray, got)
        loss = make_pml(case, options, weights)
        want = run_pml(case, loss, mode, e, y, other, index)
        np.testing.assert_allclose(got[0], want[0], rtol=tolerance, atol=tolerance)
        for g, w in zip(got[1], want[1], strict=True) if str(case) not in NO_GRADIENT else ():
            np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * max(1, abs(w).max()))
        assert want[0] != 0 or str(case) in ("smooth_ap",)


@pytest.mark.optimized
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [c for c in CASES if c.pml], ids=str)
def test_defaults_in_single_precision(case):
    e, y, other, index, weights = draw(case, np.random.default_rng(7), "self")
    e, weights = e.astype(np.float32), [w.astype(np.float32) for w in weights]
    got = ours(case, "self", "{}")(e, y, (e, y), index, weights)
    want = run_pml(case, make_pml(case, {}, weights), "self", e, y, other, index)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for g, w in zip(got[1], want[1], strict=True) if str(case) not in NO_GRADIENT else ():
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * max(1, abs(w).max()))
