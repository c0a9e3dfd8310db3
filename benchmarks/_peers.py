"""The contestants of `benchmarks.losses` beside metricjax: functions that run one step."""

import functools
import logging
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import bound, compiled

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS), str(TESTS / "parity")]

SAMPLES_PER_CLASS = 4
MEMORY_LIMIT = 14 * 2**30
"""Bytes. A peer is left out where the largest arrays it builds would take more."""
DIFFERENT = (("smooth_ap", "pml"), ("smooth_ap", "torch_compile"), ("triplet_margin", "optax"))
"""Peers with another value: see `docs/differences.md`; optax has another mean and distance."""
NO_PRODUCTS = (
    "angle", "barlow_twins", "center", "cosent", "cosine_mse", "distill_kl", "embedding_match",
    "manifold", "margin_mse", "vicreg",
)  # fmt: skip
"""Losses that do not compare all anchors with all references."""


class Skipped(Exception):
    """Why a peer does not take part."""


def pml_bytes(name, n, m):
    """What PML takes for N anchors and M references or classes, fitted to what was measured."""
    positives = n * (SAMPLES_PER_CLASS - 1)
    if name in ("ntxent", "lifted_structure", "tuplet_margin"):
        # every positive pair against every negative pair
        return (17 if name == "ntxent" else 31) * positives * n * m
    if name in ("smooth_ap", "pnp"):
        return 36 * n**3
    if name in ("triplet_margin", "margin", "dynamic_soft_margin", "histogram"):
        # a byte for each of N^3, if below 2^31, and lists of what exists
        return (n**3 if n**3 < 2**31 else 0) + 66 * positives * m
    if name == "manifold":
        return 1300 * n**2
    of_pair = {"signal_to_noise_ratio_contrastive": 1600, "threshold_consistent_margin": 2600}
    return of_pair.get(name, 90) * n * m


def pml(case, x, y, *weights, wrap=lambda value_of: value_of):
    """PyTorch Metric Learning, on the device that JAX uses if PyTorch has it."""
    if case.pml is None:
        return None
    import torch
    from pml_side import bind_pml, make_pml

    n, m = len(x), len(weights[0]) if weights else len(x)
    if (needed := pml_bytes(str(case), n, m)) > MEMORY_LIMIT:
        raise Skipped(f"needs {needed / 2**30:.0f} GiB")
    if str(case) == "dynamic_soft_margin" and n >= 2048:
        raise Skipped("loses counts in float32")  # see `docs/differences.md`
    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    loss = make_pml(case, {}, weights).to(device)
    x = torch.tensor(x, device=device, requires_grad=True)
    inputs = [x, *(getattr(loss, case.pml_weights) for _ in weights)]
    value_of = wrap(bind_pml(case, loss, y, device=device))

    def step():
        value = value_of(x)
        if str(case) == "dynamic_soft_margin":
            loss.hist_ = loss.hist_.detach()  # or the second step fails
        torch.autograd.grad(value, inputs)
        if cuda:
            torch.cuda.synchronize()
        return value.detach()

    return step, {}


def torch_compile(case, *batch):
    """The same, compiled; it needs a C++ compiler."""
    if case.pml is None:
        return None
    import torch

    torch.compiler.reset()
    torch.compiler.config.force_disable_caches = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    step, _ = pml(case, *batch, wrap=torch.compile)
    start = time.perf_counter()
    step(), step()  # the second one may compile again
    return step, {"compile_s": time.perf_counter() - start}


def optax(case, x, y, *weights):
    """The two losses of optax that have labels, or triplets made of them."""
    import optax

    if str(case) == "ntxent":
        total = optax.losses.ntxent
    elif str(case) == "triplet_margin":
        _check_bytes(len(x) ** 2 * (SAMPLES_PER_CLASS - 1) * x.shape[1] * 4 * 3)
        anchor, positive, negative = all_triplets(y)
        total = lambda x, y: optax.losses.triplet_margin_loss(
            x[anchor], x[positive], x[negative], margin=0.05
        ).mean()
    else:
        return None
    args = [jnp.asarray(x), jnp.asarray(y)]
    run, seconds, temporaries = compiled(jax.value_and_grad(total), *args)
    _check_bytes(temporaries)
    about = {"compile_s": seconds, "temp_mib": temporaries / 2**20}
    return lambda: bound(run, args)()[0], about


def _check_bytes(needed):
    if needed > MEMORY_LIMIT:
        raise Skipped(f"needs {needed / 2**30:.0f} GiB")


def all_triplets(y):
    """Every anchor, positive and negative of a batch, on the host."""
    same = y[:, None] == y
    pairs = np.argwhere(same & ~np.eye(len(y), dtype=bool))
    negatives = np.stack([np.flatnonzero(~same[a]) for a in pairs[:, 0]])
    anchor, positive = np.repeat(pairs, negatives.shape[1], axis=0).T
    return jnp.asarray(anchor), jnp.asarray(positive), jnp.asarray(negatives.ravel())


def floor(case, x, y, *weights):
    """The three matrix products that every implementation has: similarities, two gradients."""
    if str(case) in NO_PRODUCTS:
        return None

    dot = functools.partial(jnp.dot, precision="highest")  # as ours: no TF32 on a GPU

    def products(x, w):
        s = dot(x, w.T)
        return dot(s, w), dot(s.T, x)

    args = [jnp.asarray(x), jnp.asarray(weights[0] if weights else x)]
    run, seconds, temporaries = compiled(products, *args)
    return bound(run, args), {"compile_s": seconds, "temp_mib": temporaries / 2**20}


PEERS = {"floor": floor, "pml": pml, "torch_compile": torch_compile, "optax": optax}
"""``(case, *batch) -> (step, what to say about it)``; `None` where there is no such thing."""
