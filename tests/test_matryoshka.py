"""Losses of the first features: worked numbers, all that is cut, layouts, weights, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import metricjax as mj

X = np.array([[1, 0.2], [0.3, 1], [1, 1.1], [-1, 2]])
Z = np.array([[2, 1], [1, 2.2], [1, -1], [0.1, 1]])
XZ, ZX = np.hstack([X, Z]), np.hstack([Z, X])
W = np.array([[1, 0.1], [0.2, 1], [-1, -0.8]])
W4 = np.hstack([W, W[::-1]])
F = jnp.array([0, 1, 1, 2])
rng = np.random.default_rng(0)
E, LABELS = jnp.asarray(rng.normal(size=(12, 8)), jnp.float32), np.arange(12) % 4


def value_and_norm(loss, x, *args, **options):
    with jax.enable_x64(True):
        x, *args = (jnp.asarray(a) for a in (x, *args))
        total = lambda x: mj.reduce(loss(x, *args, **options))[0]
        value, grad = jax.jit(jax.value_and_grad(total))(x)
        return float(value), float(jnp.linalg.norm(grad))


@pytest.mark.parametrize(
    "loss, args, weights, want",
    [
        (
            functools.partial(
                mj.losses.infonce, temperature=0.05, directions=("query_to_doc",)
            ),
            (XZ, ZX), (1, 0.5), (7.721552, 4.24105),
        ),
        (functools.partial(mj.losses.cosface, scale=10.0), (XZ, F, W4), None, (11.54921, 4.67061)),
    ],
)  # fmt: skip
def test_worked_numbers(loss, args, weights, want):
    got = value_and_norm(mj.matryoshka(loss, (2, 4), weights), *args)
    np.testing.assert_allclose(got, want, rtol=2e-6)


def total(loss, *args, **options):
    return mj.reduce(loss(*args, **options))[0]


def cut(x, d):
    return x[..., :d]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "triplet_margin", "sup_con"])
def test_references_are_cut_and_streams_stay_streams(name):
    loss = getattr(mj.losses, name)
    refs = mj.Refs(E[::-1], jnp.asarray(LABELS[::-1]))
    weights = jnp.array([2.0, 0.5])

    def want(e):
        parts = [
            total(loss, cut(e, d), LABELS, refs=mj.Refs(cut(refs[0], d), refs[1])) for d in (3, 8)
        ]
        return 2 * parts[0] + 0.5 * parts[1]

    for made in (loss, mj.chunked(loss, 5)):
        fn = lambda e, made=made: total(mj.matryoshka(made, (3, 8), weights), e, LABELS, refs=refs)
        for got, expected in zip(
            jax.jit(jax.value_and_grad(fn))(E), jax.jit(jax.value_and_grad(want))(E), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_module_has_its_class_weights_cut():
    head = mj.nn.CosFace(4, 8, margin=0.2, rngs=nnx.Rngs(0))
    w = head.weights[...]
    part = lambda d: total(mj.losses.cosface, cut(E, d), LABELS, cut(w, d), margin=0.2)
    both = lambda: (total(mj.matryoshka(head, (4, 8)), E, LABELS), part(4) + part(8))
    got, want = jax.jit(both)()
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.slow
def test_rows_may_be_normalized_after_they_are_cut():
    raw = mj.distances.DotProductSimilarity(normalize_embeddings=False)
    loss = mj.matryoshka(functools.partial(mj.losses.ntxent, distance=raw), (8, 3), normalize=True)
    want = sum(total(mj.losses.ntxent, cut(E, d), LABELS, distance=mj.distances.CosineSimilarity())
               for d in (3, 8))  # fmt: skip
    np.testing.assert_allclose(total(loss, E, LABELS), want, rtol=1e-5)


@pytest.mark.slow
def test_a_recipe_mines_whole_embeddings_and_spreads_over_devices():
    loss = mj.matryoshka(mj.losses.multi_similarity, (4, 8))
    recipe = mj.objective(loss, miner=mj.miners.multi_similarity)
    mined = mj.miners.multi_similarity(E, LABELS)
    value, parts = recipe(E, LABELS)
    assert sorted(parts) == ["loss_4", "loss_8"]
    np.testing.assert_allclose(value, total(loss, E, LABELS, mined=mined), rtol=1e-6)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    spread = mj.objective(mj.matryoshka(mj.losses.ntxent, (4, 8)), axis_name="batch")
    run = jax.shard_map(lambda *args: spread(*args)[0], mesh=mesh,
                        in_specs=jax.P("batch"), out_specs=jax.P())  # fmt: skip
    want = total(mj.matryoshka(mj.losses.ntxent, (4, 8)), E, LABELS)
    np.testing.assert_allclose(jax.jit(run)(E, jnp.asarray(LABELS)), want, rtol=1e-5)


@pytest.mark.parametrize(
    "dims, weights, complaint",
    [
        ((), None, "`dims` must be one or more"),
        ((4, 4), None, "`dims` must be one or more, each once"),
        ((0, 4), None, "`dims` must be an integer >= 1, got 0"),
        ((4, 9), None, "`dims` must be at most 8, the features of `embeddings`"),
        ((4, 8), (1.0,), "`weights` must be 2, one for each of `dims`, got 1"),
    ],
)
def test_wrong_arguments_are_named(dims, weights, complaint):
    with pytest.raises(ValueError, match=f"matryoshka: {complaint}"):
        mj.matryoshka(mj.losses.ntxent, dims, weights)(E, LABELS)
