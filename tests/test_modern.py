"""Worked numbers of objectives that PyTorch Metric Learning 2.9 does not have, in float64.

They come from implementations of the formulas that share nothing with this library.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import metricjax as mj
from metricjax import losses, regularizers
from metricjax.losses.classes import _combined_margin, _elasticface
from metricjax.losses.rankings._steps import LateStep

X = np.array([[1, 0.2], [0.3, 1], [1, 1.1], [-1, 2]])
Z = np.array([[2, 1], [1, 2.2], [1, -1], [0.1, 1]])
V = np.array([[[1, 2.1]], [[2, -1]], [[-1, 1]], [[1, 1.3]]])
T = np.array([[1, 0, 0.5], [0, 1, 0], [1, 1.2, 0], [0.2, 1, 1]])
W = np.array([[1, 0.1], [0.2, 1], [-1, -0.8]])
F = np.array([0, 1, 1, 2])
Y = np.array([0, 0, 1, 1])
P = np.array([0.1, 0.5, 0.5, 0.9])
S = np.array([[3, 1], [2, 2], [1, 0], [0, 1.0]])
ALL, LALL = np.vstack([X, Z]), np.concatenate([Y, Y])
LEVELS = np.array([[0, 0], [0, 1], [1, 2], [1, 2]] * 2)
DIRECTIONS = np.array([[1, 0, 1], [0, 1, 1.0]])
LOG_U = np.array([-np.inf, -np.inf, np.log(50), np.log(5)])
ONE_WAY = {"directions": ("query_to_doc",), "temperature": 0.05}
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "temperature": 0.05}
FOUR = {
    "directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    "joint": True,
    "temperature": 0.05,
}
DEGREES = np.rad2deg
COSINE = mj.distances.CosineSimilarity()
CROPS, CENTER = np.stack([X, Z, X + Z]), np.array([0.1, -0.1])
WORKED = [  # what, the function of its first argument, that argument, value, norm of the gradient
    ("infonce", lambda x: losses.infonce(x, Z, **ONE_WAY), X, 5.2897159, 3.60711),
    ("infonce", lambda x: losses.infonce(x, Z, V, **ONE_WAY), X, 6.2550371, 4.12021),
    ("infonce", lambda x: losses.infonce(x, Z, V, **FOUR), X, 7.1502873, 3.88725),
    ("infonce", lambda x: losses.infonce(x, Z, V, **BOTH), X, 5.0852346, 4.49624),
    (
        "infonce",
        lambda x: losses.infonce(x, Z, V, **ONE_WAY, hardness="all", strength=5),
        *(X, 10.032043, 4.55241),
    ),
    (
        "infonce",
        lambda x: losses.infonce(x, Z, V, **ONE_WAY, hardness="own", strength=5),
        *(X, 6.2580733, 4.11934),
    ),
    (
        "infonce",
        lambda x: losses.infonce(x, Z, V, **ONE_WAY, margin=0.1),
        *(X, 0.017603308, 0.0957112),
    ),
    (
        "infonce",
        lambda x: losses.infonce(
            x, Z, **ONE_WAY, margin=0.2, relative=True, guide=(T, T[[1, 0, 3, 2]])
        ),
        *(X, 0.0032840328, 0.00709838),
    ),
    ("cosent", lambda x: losses.cosent(x, Z, P), X, 20.246579, 14.3949),
    ("angle", lambda x: losses.angle(x, Z, P), X, 0.013334266, 0.214111),
    ("cosine_mse", lambda x: losses.cosine_mse(x, Z, P), X, 0.32289427, 0.217558),
    ("margin_mse", lambda x: losses.margin_mse(x, Z, V, S), X, 3.2571, 5.26447),
    (
        "margin_mse",  # the same margins
        lambda x: losses.margin_mse(x, Z, V, S[:, :1] - S[:, 1:]),
        *(X, 3.2571, 5.26447),
    ),
    (
        "distill_kl",
        lambda x: losses.distill_kl(x, np.concatenate([Z[:, None], V], 1), S, temperature=2.0),
        *(X, 0.37757413, 0.573849),
    ),
    ("embedding_match", lambda x: losses.embedding_match(x, Z), X, 0.31160852, 0.192309),
    ("embedding_match", lambda x: losses.embedding_match(x, Z, "mse"), X, 1.27375, 0.798044),
    ("embedding_match", lambda x: losses.embedding_match(x, Z, "l2"), X, 1.564119, 0.5),
    ("global_orthogonal", lambda x: gor(x, "mean"), X, 0.25040666, 0.462755),
    ("global_orthogonal", lambda x: gor(x, "second"), X + 1, 0.1992009, 0.226051),
    (
        "arcface",
        lambda x: losses.arcface(x, F, W, margin=mj.dynamic_margins(np.array([1, 10, 100]))),
        *(X, 17.057077, 15.1772),
    ),
    (
        "cosface",
        lambda x: losses.cosface(
            x, F, W, margin=mj.ldam_margins(np.array([1, 10, 100])), scale=30.0
        ),
        *(X, 9.9378405, 7.9854),
    ),
    (
        "combined_margin",
        lambda x: losses.combined_margin(x, F, W, m1=0.9, m2=DEGREES(0.4), m3=0.15),
        *(X, 25.913595, 17.9216),
    ),
    (
        "combined_margin",
        lambda x: losses.combined_margin(x, F, W, m1=1.0, m2=0.0, m3=0.4, filter_above=0.5),
        *(X, 9.752466, 6.99658),
    ),
    ("adaface", lambda x: losses.adaface(x, F, W, state=(20, 100))[0], X, 26.752831, 17.2342),
    ("adaface", lambda x: losses.adaface(x, F, W, state=(1.5, 0.5))[0], X, 26.94817, 17.2189),
    ("magface", lambda x: part(losses.magface(x, F, W), "loss"), 20 * X, 20.040298, 1.00736),
    (
        "magface",
        lambda x: part(losses.magface(x, F, W), "magnitude_loss"),
        *(20 * X, 1.4216925, 0.029737),
    ),
    ("curricularface", lambda x: losses.curricularface(x, F, W), X, 21.321056, 22.9321),
    (
        "curricularface",
        lambda x: losses.curricularface(x, F, W, state=0.5)[0],
        *(X, 33.447618, 27.7318),
    ),
    ("adacos", lambda x: losses.adacos(x, F, W), X, 0.82671325, 0.194041),
    ("adacos", lambda x: losses.adacos(x, F, W, state=2.0)[0], X, 0.80937178, 0.259041),
    ("dcl", lambda x: losses.dcl(x, Z), X, 2.206762, 1.85495),
    ("dclw", lambda x: losses.dclw(x, Z), X, 4.2974794, 2.94516),
    ("negative_cosine", lambda x: losses.negative_cosine(x, Z), X, -0.68839148, 0.192309),
    (
        "dino",
        lambda x: losses.dino(x, np.stack([Z, X]), center=CENTER)[0],
        CROPS,
        *(1.2065463, 0.914693),
    ),
    ("swav", lambda x: losses.swav(cosines([x, Z])), X, 5.5924232, 0.061586),
    (
        "swav",
        lambda x: losses.swav(cosines(x), queue=cosines(x[::-1])),
        np.stack([X, Z]),
        5.352573834,
        None,
    ),
    ("koleo", lambda x: regularizers.koleo(x), X, 0.60119137, 0.980572),
    ("alignment", lambda x: losses.alignment(x, Z), X, 0.62321704, 0.384618),
    ("uniformity", lambda x: regularizers.uniformity(x), X, -1.276135, 1.04137),
    ("sigreg", lambda x: regularizers.sigreg(x, directions=DIRECTIONS), X, 2.5281701, 1.88609),
    ("w_mse", lambda x: losses.w_mse(jnp.stack([x, jnp.asarray(Z)])), X, 2.2206458, 0.483686),
    (
        "w_mse",
        lambda x: losses.w_mse(jnp.stack([x, jnp.asarray(Z)]), eps=0.1),
        X,
        2.122476,
        0.686223,
    ),
    ("debiased_contrastive", lambda x: losses.debiased_contrastive(x, Z), X, 1.7002414, 0.379451),
    (
        "hard_negative_contrastive",
        lambda x: losses.hard_negative_contrastive(x, Z),
        *(X, 2.00105, 0.394432),
    ),
    (
        "hard_negative_contrastive",
        lambda x: losses.hard_negative_contrastive(x, Z, beta=0.0),
        *(X, 1.7002414, 0.379451),
    ),
    ("rince", lambda x: losses.rince(x, Z, temperature=0.5), X, -2.8777125, 0.35939),
    ("rince", lambda x: losses.rince(x, Z, temperature=0.5, q=1.0), X, -4.8681579, 1.18037),
    (
        "sogclr",
        lambda x: losses.sogclr(x, Z, np.arange(4), state=LOG_U)[0],
        *(X, 0.34103022, 0.377543),
    ),
    (
        "isogclr",  # at first, all temperatures are alike
        lambda x: losses.isogclr(x, Z, np.arange(4), state=first_isogclr())[0],
        *(X, 0.34103022, 0.377543),
    ),
    (
        "recall_at_k",
        lambda x: losses.recall_at_k(x, LALL, ks=(1, 2, 4)),
        *(ALL, 0.59939021, 0.17015),
    ),
    (
        "recall_at_k",
        lambda x: losses.recall_at_k(x, Y, refs=mj.Refs(Z, Y), ks=(1, 2)),
        *(X, 0.5349038, 0.410917),
    ),
    ("sup_ap", lambda x: losses.sup_ap(x, LALL), ALL, 0.56756479, 0.294891),
    ("sup_ap", lambda x: losses.sup_ap(x, Y, refs=mj.Refs(Z, Y)), X, 0.51377527, 0.678827),
    (
        "contrastive",  # the calibration of ROADMAP
        lambda x: losses.contrastive(x, LALL, distance=COSINE, pos_margin=0.9, neg_margin=0.6),
        *(ALL, 0.86999929, 0.297734),
    ),
    ("hap", lambda x: losses.hap(x, LEVELS), ALL, 0.49616602, 0.340977),
    ("hap", lambda x: losses.hap(x, LEVELS, alpha=0.5), ALL, 0.53081452, 0.318368),
    ("hap", lambda x: losses.hap(x, LALL[:, None]), ALL, 0.56756479, 0.294891),  # as sup_ap
    ("rkd_distance", lambda x: losses.rkd_distance(x, T), X, 0.077344203, 0.151109),
    ("rkd_angle", lambda x: losses.rkd_angle(x, T), X, 0.068416495, 0.0781758),
    ("pkt", lambda x: losses.pkt(x, T), X, 0.0067048239, 0.0137625),
    (
        "similarity_preserving",
        lambda x: losses.similarity_preserving(x, T),
        *(X, 0.062256786, 0.119434),
    ),
    ("spherical", lambda x: regularizers.spherical(x), X, 0.24226931, 0.492209),
    (
        "spherical",
        lambda x: regularizers.spherical(x, state=2.0, momentum=0.1)[0],
        *(X, 0.49030855, 0.70022),
    ),
    (
        "selectively_contrastive",
        lambda x: losses.selectively_contrastive(x, LALL),
        *(ALL, 0.80361091, 0.328739),
    ),
]


def part(terms, name):
    return {name: terms[name]}


def cosines(views):
    return jnp.stack([COSINE(jnp.asarray(x), jnp.asarray(W)) for x in views])


def first_isogclr():
    return losses.ISogCLRState(LOG_U, np.full(4, 0.1), np.zeros(4))


def gor(x, name):
    return part(regularizers.global_orthogonal(x), f"global_orthogonal_reg_{name}")


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # numbers here are NumPy's
        yield


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_worked_numbers(every):
    """In one program, for each is small; by default the last value of each function."""
    rows = WORKED if every else list({row[0]: row for row in WORKED}.values())
    with jax.enable_x64(True):
        totals = [lambda x, f=f: mj.reduce(f(x))[0] for _, f, *_ in rows]
        firsts = [jnp.asarray(x) for _, _, x, *_ in rows]
        of = jax.value_and_grad if every else lambda f: lambda x: (f(x), None)
        run = lambda xs: [of(f)(x) for f, x in zip(totals, xs, strict=True)]
        results = jax.jit(run)(firsts)
    for (name, *_, value, norm), (got, grad) in zip(rows, results, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6, err_msg=name)
        if every and norm is not None:
            np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=1e-5, err_msg=name)


def test_rows_and_states():
    values = lambda terms: terms["loss"].values
    log_slope = lambda t: mj.reduce(
        losses.infonce(X, Z, directions=("query_to_doc",), temperature=jnp.exp(t))
    )[0]
    folded = lambda phi: _combined_margin._folded(jnp.cos(1.0), phi, 0.0)

    @jax.jit
    def rows():
        return (
            values(losses.infonce(X, Z, **ONE_WAY)),
            values(losses.dcl(X, Z)),
            values(losses.selectively_contrastive(ALL, LALL)),
            jax.grad(log_slope)(jnp.log(0.05)),
            mj.ldam_margins([1, 10, 100]),
            jnp.deg2rad(mj.dynamic_margins([1, 10, 100])),
            jnp.deg2rad(mj.dynamic_margins([7, 7])),
            [folded(phi) for phi in (3.0, 3.5, 7.0)],
            losses.recall_at_k(X, Y, refs=mj.Refs(Z, Y), ks=(1, 2))["recall_loss"].values,
            losses.sup_ap(X, Y, refs=mj.Refs(Z, Y))["ap_loss"].values,
            mj.sinkhorn(COSINE(jnp.asarray(X), jnp.asarray(W)))[2],
            LateStep(0.01, 100.0, 0.05, 0.5, None)(jnp.array([-0.02, 0, 0.001, 0.05, 0.06])),
        )

    @jax.jit
    def states():
        return (
            losses.adaface(X, F, W, state=(20, 100))[1],
            losses.adaface(X, F, W, state=(1.5, 0.5))[1],
            losses.curricularface(X, F, W, state=0.0)[1],
            losses.curricularface(X, F, W, state=0.5)[1],
            losses.adacos(X, F, W, state=2.0)[1],
            regularizers.spherical(X, state=2.0, momentum=0.1)[1],
            losses.dino(CROPS, np.stack([Z, X]), center=CENTER)[1],
            jnp.exp(losses.sogclr(X, Z, np.arange(4), state=LOG_U)[1]),
            losses.isogclr(X, Z, np.arange(4), state=first_isogclr())[1][1:],
        )

    want_rows = (
        [0.000771338, 0.606463, 20.5385, 0.0131362],
        [-0.718687, 0.382759, 8.5835, 0.579479],
        [0.804724, 0.981665, 0.951971, 0.269624, 0.932568, 0.951971, 0.5547, 0.981665],
        -4.89931281,
        [0.5, 0.281171, 0.158114],
        [0.5, 0.211971, 0.05],
        0.5,
        [-0.9899925, -1.0635433, -3.2460978],
        [0.315627, 0.490617, 0.819649, 0.513722],
        [0.0120154, 0.575242, 0.971882, 0.495962],
        [0.2329019, 0.7670898, 8.29471e-06],
        [0.119203, 0.5, 1.024979, 1.493307, 2.493307],
    )
    want_states = (
        *((19.81446627, 99.00568354), (1.499466274, 0.5006835353)),
        *(0.00659692966, 0.50159693, 1.298243094, 1.944662735),
        (0.1575, 0.00375),
        (1552.667723, 4914.084688, 2977.790831, 2748.627273),
        (
            (0.10693, 0.104532, 0.110339, 0.115223),
            (-0.693018, -0.453166, -1.033927, -1.522319),
        ),
    )
    with jax.enable_x64(True):
        for got, want in zip(rows(), want_rows, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)
        for got, want in zip(states(), want_states, strict=True):
            digits = 1e-5 if np.ndim(want) > 1 else 1e-8  # as they are known
            np.testing.assert_allclose(got, want, rtol=digits)


@pytest.mark.parametrize(
    "scores, value", [((0.9, 0.1, 0.5), 0.00067081275), ((0.1, 0.9, 0.5), 16.00067081)]
)
def test_cosent_of_scores(scores, value):
    """In the order of the targets, and against it."""
    x, s = np.array([[1.0, 0.0]] * 3), np.array(scores)
    with jax.enable_x64(True):
        r = np.stack([s, np.sqrt(1 - s**2)], 1)
        got = mj.reduce(losses.cosent(x, r, np.array([1, 0.2, 0.5])))[0]
    np.testing.assert_allclose(got, value, rtol=1e-7)


@pytest.mark.slow
def test_the_sorted_sum_is_that_of_all_pairs_of_pairs():
    rng = np.random.default_rng(0)
    n = 50
    x, r = rng.normal(size=(2, n, 4))
    t, w = rng.integers(0, 6, n), rng.integers(0, 3, n) / 2
    t = t.astype(float)

    def all_pairs(x):
        unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
        s = jnp.sum(unit(x) * unit(r), 1)
        pairs = (t[:, None] < t[None, :]) * w[:, None] * w[None, :]
        return jnp.log(1 + jnp.sum(pairs * jnp.exp(20 * (s[:, None] - s[None, :]))))

    with jax.enable_x64(True):
        ours = lambda x: mj.reduce(losses.cosent(x, r, t, where=w))[0]
        for got, want in zip(
            *(jax.jit(jax.value_and_grad(f))(jnp.asarray(x)) for f in (ours, all_pairs)),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, rtol=1e-10)


DRAWS = np.array([0.5, 0.45, 0.55, 0.4])


@pytest.mark.parametrize(
    "options, value, norm",
    [
        ({}, 26.303413, 19.6379),
        ({"plus": True}, 27.458697, 19.0662),
        ({"variant": "cos", "plus": True}, 30.949603, 17.0899),
    ],
)
def test_random_margins(options, value, norm, monkeypatch):
    """The draws are given: mean 0, deviation 1, times the deviation 1."""
    scale = 1 if "variant" in options else DEGREES(1)
    draws = lambda key, shape, dtype: jnp.asarray(DRAWS * scale, dtype)
    monkeypatch.setattr(_elasticface.jax.random, "normal", draws)
    with jax.enable_x64(True):
        total = lambda x: mj.reduce(
            losses.elasticface(x, F, W, key=jax.random.key(0), margin=0.0, deviation=1.0, **options)
        )[0]
        got, grad = jax.jit(jax.value_and_grad(total))(jnp.asarray(X))
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=1e-5)


def test_the_largest_margin_goes_to_the_farthest_sample_that_is_there():
    cosines = jnp.array([0.9952285, 0.9955795, 0.8574929, -0.2095291, -0.9])
    margins = jnp.array([*DRAWS, 9.0])
    there = jnp.array([1, 1, 0.5, 1, 0])
    got = _elasticface.by_distance(margins, cosines, there)
    np.testing.assert_allclose(got, [0.45, 0.4, 0.5, 0.55, 0], rtol=1e-6)


@pytest.mark.slow
def test_margins_are_drawn_for_the_whole_batch():
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(8, 4)), "f4"), jnp.asarray(rng.normal(size=(5, 4)), "f4")
    y, key = jnp.arange(8) % 5, jax.random.key(3)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    recipe = mj.objective(losses.elasticface, axis_name="data", plus=True)
    local = lambda x, y: recipe(x, y, w, key=key)[0]
    run = jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P())
    whole = jax.jit(lambda key: mj.reduce(losses.elasticface(x, y, w, key=key, plus=True))[0])
    want, other = whole(key), whole(jax.random.key(4))
    np.testing.assert_allclose(jax.jit(run)(x, y), want, rtol=1e-5)
    assert abs(other - want) > 1e-3


@pytest.mark.slow
def test_selectively_contrastive_of_triplets():
    """Each one that is given counts: nothing is chosen among them."""
    triplets = np.array([[0, 1, 2], [0, 1, 3], [2, 3, 0], [2, 3, 1], [0, 1, 2]])
    temperature = np.array([0.1, 1.0, 0.5, 1.0])
    s = np.asarray(X) @ np.asarray(X).T / np.outer(*[np.linalg.norm(X, axis=1)] * 2)
    ap, an = (s[triplets[:, 0], triplets[:, i]] for i in (1, 2))
    easy = np.log1p(np.exp((an - ap) / temperature[triplets[:, 0]]))
    want = np.mean(np.where((an > ap) | (an > 0.8), 2 * an, easy))
    listed = mj.tuples.from_triplets(*triplets.T)

    def loss(mined):
        options = {"temperature": temperature, "lam": 2.0}
        return mj.reduce(losses.selectively_contrastive(jnp.asarray(X), mined=mined, **options))[0]

    np.testing.assert_allclose(jax.jit(loss)(listed), want, rtol=1e-5)
    rule = mj.miners.triplet_margin(jnp.asarray(X), np.array(Y), margin=9.0)
    every, _ = mj.tuples.as_triplets(rule, 16)
    np.testing.assert_allclose(*jax.jit(lambda: (loss(rule), loss(every)))(), rtol=1e-5)


# --- infonce ----------------------------------------------------------------------------------


RNG = np.random.default_rng(0)
Q, DOCS = (jnp.asarray(RNG.normal(size=(12, 6)), "f4") for _ in range(2))
HARD = jnp.asarray(RNG.normal(size=(12, 3, 6)), "f4")
GUIDE = tuple(jnp.asarray(RNG.normal(size=(12, *h, 5)), "f4") for h in ((), (), (3,)))
WHERE = jnp.arange(12) % 5 / 2
KINDS = [
    {"directions": ("query_to_doc", "doc_to_query")},
    {**FOUR, "temperature": 0.2, "guide": GUIDE, "margin": 0.05, "relative": True},
    {**FOUR, "temperature": 0.2, "hardness": "in_batch", "strength": 2.0, "margin": 0.1},
]


def value_and_gradients(fn):
    return jax.jit(jax.value_and_grad(fn, (0, 1, 2)))(Q, DOCS, HARD)


def close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS)
def test_infonce_in_blocks_and_over_devices(options):
    guide = options.get("guide", ())
    rest = {name: x for name, x in options.items() if name != "guide"}

    def total(q, d, v, guide=guide, where=WHERE, loss=losses.infonce, **how):
        its = {"guide": guide} if guide else {}
        return mj.reduce(loss(q, d, v, where=where, **rest, **its), **how)[0]

    want = value_and_gradients(total)
    assert want[0] > 0.1
    close(value_and_gradients(functools.partial(total, loss=mj.chunked(losses.infonce, 5))), want)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def local(q, d, v, guide, where):
        return mj.objective(losses.infonce, axis_name="data", **rest)(
            q, d, v, where=where, **({"guide": guide} if guide else {})
        )[0]

    spread = jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P())
    close(value_and_gradients(lambda q, d, v: spread(q, d, v, guide, WHERE)), want)


@pytest.mark.slow
def test_infonce_pads_with_anything():
    real = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 11])
    junk = lambda x: jnp.full_like(x, jnp.nan).at[real].set(x[real])
    where = jnp.zeros(12).at[real].set(1)
    options = {**FOUR, "temperature": 0.2, "margin": 0.1}
    total = lambda q, d, v, w: mj.reduce(losses.infonce(q, d, v, where=w, **options))[0]
    want = jax.jit(total)(Q[real], DOCS[real], HARD[real], jnp.ones(len(real)))
    grad = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    got, grads = grad(*map(junk, (Q, DOCS, HARD)), where)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.slow
def test_infonce_of_degenerate_batches():
    zero = jnp.zeros((4, 2))
    total = lambda terms: mj.reduce(terms)[0]
    got = jax.jit(
        lambda: [
            total(losses.infonce(zero, zero, **ONE_WAY)),
            total(losses.infonce(zero, zero, zero[:, None], **ONE_WAY)),
            total(losses.infonce(zero, zero, zero[:, None], **FOUR)),
            total(losses.dcl(zero, zero)),
            total(losses.infonce(Q[:1], DOCS[:1])),
            total(losses.dcl(Q[:1], DOCS[:1])),
        ]
    )()
    want = [np.log(4), np.log(8), 3.0445, np.log(6), 0, 0]
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.optimized
@pytest.mark.slow
def test_memory_of_a_large_batch_with_hard_negatives():
    n, h, d = 16_384, 4, 64
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (n, d), (n, h, d))]
    total = lambda *args: mj.reduce(losses.infonce(*args, **ONE_WAY))[0]
    program = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 256 * 2**20
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((65_536, d), (65_536, d), (65_536,))]
    total = lambda *args: mj.reduce(losses.cosent(*args))[0]
    program = jax.jit(jax.value_and_grad(total)).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 64 * 2**20


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.dcl, losses.dclw])
def test_all_pairs_of_two_views_are_never_held(loss):
    n = 4096
    shapes = [jax.ShapeDtypeStruct((n, 64), jnp.float32)] * 2
    total = lambda *args: mj.reduce(loss(*args))[0]
    program = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * n * n  # of 4 n * n pairs


MISTAKES = {
    r"`directions` must be one of .*got 'doc_to_docs'": {"directions": ("doc_to_docs",)},
    "`directions` must hold 'query_to_doc'": {"directions": ("doc_to_query",)},
    "`joint` must be true with query_to_query": {"directions": ("query_to_doc", "query_to_query")},
    "`hardness` must be one of": {"hardness": "hard"},
    "`guide` must be of queries, documents, negatives, got 2": {"guide": GUIDE[:2]},
    r"`negatives` must have shape \[12, K, 6\]": {"negatives": HARD[:4]},
    "`chunk_size` must be an integer >= 1": {"chunk_size": 0},
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_named(words):
    options = {"negatives": HARD} | MISTAKES[words]
    with pytest.raises(ValueError, match=f"losses.infonce: {words}"):
        losses.infonce(Q, DOCS, **options)


# --- states, margins, scores ------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        mj.nn.AdaFace,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (mj.nn.CurricularFace, mj.nn.AdaCos)),
    ],
)
def test_modules_keep_the_state(module):
    head = module(3, 2, rngs=nnx.Rngs(0))
    w, x = head.weights[...], jnp.asarray(X, jnp.float32)
    state = jax.tree.map(jnp.float32, module.first_state(3))

    @nnx.jit
    def step(head):
        return nnx.value_and_grad(lambda head: mj.reduce(head(x, F))[0])(head)[0]

    @jax.jit
    def pure(state):
        terms, new = module.loss(x, F, w, state=state)
        return mj.reduce(terms)[0], new

    for _ in range(2):
        want, state = pure(state)
        close((step(head), head.state.get_value()), (want, state))


@pytest.mark.parametrize(
    "loss",
    [
        losses.adaface,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (losses.curricularface, losses.adacos)),
    ],
)
def test_states_are_those_of_all_devices(loss):
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(8, 4)), "f4"), jnp.asarray(rng.normal(size=(5, 4)), "f4")
    y, where = jnp.arange(8) % 5, jnp.arange(8) % 3 / 2
    state = (1.5, 0.5) if loss is losses.adaface else 0.5
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def local(x, y, where):
        terms, new = loss(x, y, w, where=where, state=state, axis_name="data")
        return mj.reduce(terms, axis_name="data")[0], jax.lax.pmean(new, "data")

    run = jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P())

    @jax.jit
    def whole(where):
        terms, new = loss(x, y, w, where=where, state=state)
        return mj.reduce(terms)[0], new

    close(jax.jit(run)(x, y, where), whole(where))
    close(whole(jnp.zeros(8))[1], state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [losses.arcface, functools.partial(losses.subcenter_arcface, sub_centers=1)],
    ids=["arcface", "subcenter_arcface"],
)
def test_a_margin_for_each_class(loss):
    margin = np.array([10.0, 20.0, 30.0])
    values = jax.jit(lambda margin: loss(X, F, W, margin=margin)["loss"].values)
    want = [values(margin[F[i]])[i] for i in range(4)]
    np.testing.assert_allclose(values(margin), want, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`margin` must be one number or have shape \[3\]"):
        losses.arcface(X, F, W, margin=np.ones(4) * 20)


@pytest.mark.parametrize("loss", [losses.arcface, losses.curricularface])
def test_radians_are_warned_of(loss):
    with pytest.warns(UserWarning, match=r"`margin` is in degrees, got 0.5.*numpy.rad2deg"):
        jax.eval_shape(lambda x: loss(x, F, W, margin=0.5), jnp.asarray(X))


def test_sup_con_of_label_sets_divides_by_their_number():
    rng = np.random.default_rng(1)
    x, sets = rng.normal(size=(10, 4)), rng.random((10, 6)) < 0.4
    sets[:, 0] |= ~sets.any(1)  # none is empty
    both = (sets[:, None] & sets[None]).sum(-1)
    jaccard = both / (sets[:, None] | sets[None]).sum(-1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    logits = unit @ unit.T / 0.1
    others = ~np.eye(10, dtype=bool)
    for threshold in (0.0, 0.3):
        positive = others & (jaccard >= threshold)
        log_p = logits - np.log((np.exp(logits) * others).sum(1, keepdims=True))
        want = -(positive * jaccard * log_p).sum(1) / np.maximum(positive.sum(1), 1)
        loss = functools.partial(losses.sup_con, match=mj.relations.overlap, threshold=threshold)
        with jax.enable_x64(True):
            terms = jax.jit(lambda x, loss=loss: loss(x, sets))(x)
        np.testing.assert_allclose(terms["loss"].values, want, rtol=1e-6)  # overlaps are float32


def test_ge2e_is_its_definition():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 4)), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)

    def row(i, variant):
        cos = lambda c: unit[i] @ c / np.linalg.norm(c)
        own = [j for j in range(9) if y[j] == y[i] and j != i]
        s_own = 10 * cos(unit[own].mean(0)) - 5
        s = np.array([10 * cos(unit[y == k].mean(0)) - 5 for k in range(4) if k != y[i]])
        if variant == "softmax":
            return -s_own + np.log(np.exp(s_own) + np.exp(s).sum())
        sigmoid = lambda v: 1 / (1 + np.exp(-v))
        return 1 - sigmoid(s_own) + sigmoid(s).max()

    for variant in ("softmax", "contrast"):
        with jax.enable_x64(True):
            term = jax.jit(lambda x, v=variant: losses.ge2e(x, y, variant=v)["loss"])(x)
        want = [*(row(i, variant) for i in range(8)), 0]  # a class of one has no term
        np.testing.assert_allclose(term.values, want, rtol=1e-8)
        np.testing.assert_array_equal(term.weights, [1] * 8 + [0])


@pytest.mark.slow
def test_spread_out_rows_by_either_product():
    rng = np.random.default_rng(1)
    for k, d in ((7, 3), (3, 7)):
        x, w = rng.normal(size=(k, d)), rng.integers(0, 3, k) / 2 + 0.5 * (np.arange(k) < 2)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        s, pairs = unit @ unit.T, w[:, None] * w[None, :] * ~np.eye(k, dtype=bool)
        mean = lambda values, pairs=pairs: (pairs * values).sum() / pairs.sum()
        with jax.enable_x64(True):
            terms = jax.jit(lambda x, w: regularizers.global_orthogonal(x, where=w))(x, w)
        got = [term.values for term in terms.values()]
        np.testing.assert_allclose(got, [mean(s) ** 2, max(mean(s**2) - 1 / d, 0)], rtol=1e-8)
    alone = regularizers.global_orthogonal(jnp.ones((1, 3)))
    assert all(term.values == 0 for term in alone.values())
