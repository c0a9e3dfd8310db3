"""Self-supervision, rankings and distillation: states, devices, memory, edges, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import metricjax as mj
from metricjax import losses, regularizers

RNG = np.random.default_rng(0)
N, D, S = 16, 4, 20
X, R = (jnp.asarray(RNG.normal(size=(N, D)), "f4") for _ in range(2))
WHERE = jnp.arange(N) % 5 / 2
INDEX = jnp.asarray(RNG.permutation(S)[:N])
LOG_U = jnp.asarray(np.where(np.arange(S) % 3, RNG.normal(size=S), -np.inf), "f4")
ISOGCLR = losses.ISogCLRState(
    LOG_U, jnp.linspace(0.1, 0.4, S), jnp.asarray(RNG.normal(size=S), "f4")
)
CENTER = jnp.linspace(-1, 1, D)


def close(got, want, rtol=1e-5, atol=1e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def on_devices(fn, out=jax.P(), checked=True):
    """A function of this device's rows, over four devices."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": jax.P("data"), "out_specs": out}
    return jax.shard_map(fn, mesh=mesh, check_vma=checked, **specs)


def of_both(terms, axis_name=None):
    terms, state = terms
    return mj.reduce(terms, axis_name=axis_name)[0], state


# --- states -----------------------------------------------------------------------------------


def crops(x, r):
    return jnp.stack([x, r, x + r]), jnp.stack([r, x])


STATEFUL = {  # of rows of two views, their numbers and weights: a loss and its new state
    "dino": lambda x, r, i, w, **how: losses.dino(*crops(x, r), center=CENTER, where=w, **how),
    "sogclr": lambda x, r, i, w, **how: losses.sogclr(x, r, i, state=LOG_U, where=w, **how),
    "isogclr": lambda x, r, i, w, **how: losses.isogclr(x, r, i, state=ISOGCLR, where=w, **how),
}
BY = jax.P("data")


@pytest.mark.parametrize("checked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_states_are_those_of_all_devices(checked):
    """Types say that the new state is the same on all devices: it leaves by ``P()``."""
    for name, loss in STATEFUL.items():
        both = lambda axis_name, loss=loss: (
            lambda *rows: of_both(
                loss(*rows, **({} if axis_name is None else {"axis_name": axis_name})), axis_name
            )
        )
        run = on_devices(both("data"), checked=checked)
        got, want = jax.jit(lambda *a, run=run, f=both(None): (run(*a), f(*a)))(X, R, INDEX, WHERE)
        close(got, want)
        assert jax.tree.leaves(got[1])[0].shape == jax.tree.leaves(want[1])[0].shape, name


@pytest.mark.slow
def test_states_in_blocks_are_those_at_once():
    for name in ("sogclr", "isogclr"):
        fn = lambda x, size, loss=STATEFUL[name]: of_both(loss(x, R, INDEX, WHERE, chunk_size=size))
        run = jax.jit(lambda x, f=fn: [jax.value_and_grad(f, has_aux=True)(x, s) for s in (5, N)])
        close(*run(X))


@pytest.mark.slow
def test_samples_without_weight_or_number_are_not_remembered():
    index = jnp.arange(N).at[3].set(-1).at[4].set(S)

    @jax.jit
    def run(index):
        terms, state = losses.sogclr(X, R, index, state=LOG_U, where=WHERE)
        alone = losses.sogclr(X[:1], R[:1], index[:1], state=LOG_U)[1]
        new = losses.sogclr(X, R, index, where=WHERE)
        return terms["loss"].values, new["loss"].values, state, alone

    values, new, state, alone = run(index)
    kept = np.flatnonzero((np.arange(S) >= N) | (np.arange(S) % 5 == 0) | (np.arange(S) == 3))
    np.testing.assert_array_equal(state[kept], LOG_U[kept])
    assert np.isfinite(state[np.setdiff1d(np.arange(S), [*kept, 3, 4])]).all()
    np.testing.assert_array_equal(alone, LOG_U)
    close(values[jnp.array([3, 4])], new[jnp.array([3, 4])])  # they count as new
    with pytest.raises(ValueError, match="sogclr: `index` must be from 0 to 19.*got -1"):
        losses.sogclr(X, R, index, state=LOG_U)


@pytest.mark.parametrize(
    "module, args, first",
    [
        (mj.nn.DINO(D), crops(X, R), {"center": jnp.zeros(D)}),
        pytest.param(
            mj.nn.SogCLR(S), (X, R, INDEX), {"state": jnp.full(S, -jnp.inf)},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            mj.nn.ISogCLR(S), (X, R, INDEX), {"state": losses.ISogCLRState.create(S)},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_modules_keep_the_state(module, args, first):
    name, state = next(iter(first.items()))

    @nnx.jit
    def step(module, x):
        loss = lambda module, x: mj.reduce(module(x, *args[1:]))[0]
        return nnx.value_and_grad(loss, argnums=1)(module, x)

    @jax.jit
    def pure(state, x):
        total = lambda x: of_both(module.loss(x, *args[1:], **{name: state}))
        return jax.value_and_grad(total, has_aux=True)(x)

    for _ in range(2):
        (value, state), grad = pure(state, args[0])
        close(step(module, args[0]), (value, grad))
        close(getattr(module, name).get_value(), state)


@pytest.mark.parametrize("module", [mj.nn.SogCLR(S), mj.nn.ISogCLR(S)])
def test_modules_have_a_value_for_each_sample(module):
    values = lambda module, x: module(x, R, INDEX, where=WHERE)["loss"].values
    assert nnx.eval_shape(values, module, X).shape == (N,)


# --- regularizers -----------------------------------------------------------------------------

KEY = jax.random.key(0)
REGULARIZERS = {
    "koleo": regularizers.koleo,
    "uniformity": regularizers.uniformity,
    "sigreg": functools.partial(regularizers.sigreg, key=KEY, directions=6),
    "spherical": regularizers.spherical,
    "global_orthogonal": regularizers.global_orthogonal,
}


def total(name, x, where, axis_name=None):
    how = {} if axis_name is None else {"axis_name": axis_name}
    return mj.reduce(REGULARIZERS[name](x, where=where, **how), axis_name=axis_name)[0]


@pytest.mark.slow
def test_regularizers_are_those_of_all_devices():
    def both(x):
        local = lambda x, where: {n: total(n, x, where, "data") for n in REGULARIZERS}
        return on_devices(local)(x, WHERE), {n: total(n, x, WHERE) for n in REGULARIZERS}

    jacobian = jax.jit(lambda x: (both(x), jax.jacrev(both)(x)))
    (got, want), (got_grad, want_grad) = jacobian(X)
    close(got, want)
    close(got_grad, want_grad)
    assert all(np.abs(g).max() > 1e-4 for g in want_grad.values())


@pytest.mark.slow
def test_regularizers_take_weights_as_copies_and_leave_padding_out():
    twice = jnp.concatenate([X, X[:3]])

    @jax.jit
    def run(x):
        weighed = jnp.ones(N).at[:3].set(2)
        padded, there = jnp.concatenate([X, jnp.full((3, D), jnp.nan)]), jnp.arange(N + 3) < N
        names = "sigreg", "spherical"  # of the others, a row and its copy would be a pair
        return (
            [(total(n, x, weighed), total(n, twice, None)) for n in names],
            [(total(n, padded, there), total(n, x, None)) for n in REGULARIZERS],
        )

    for pairs in run(X):
        for got, want in pairs:
            close(got, want, rtol=1e-4)


@pytest.mark.slow
def test_koleo_and_uniformity_in_blocks(monkeypatch):
    from metricjax.losses import _row_blocks

    run = lambda x: [jax.value_and_grad(lambda x, n=n: total(n, x, WHERE))(x) for n in (
        "koleo", "uniformity")]  # fmt: skip
    want = jax.jit(lambda x: run(x))(X)
    monkeypatch.setattr(_row_blocks, "pairs_at_once", lambda: 1)
    monkeypatch.setattr(_row_blocks, "block_rows", lambda n, m: 5)
    close(jax.jit(lambda x: run(x))(X), want)


def test_an_objective_passes_what_a_regularizer_takes():
    sigreg = functools.partial(regularizers.sigreg, directions=6)
    key = jax.random.fold_in(KEY, 1)
    for loss, regularizer, names in (
        (losses.ntxent, sigreg, ["embedding_reg_loss"]),
        (losses.ntxent, regularizers.koleo, ["embedding_reg_loss"]),
        (losses.vicreg, regularizers.koleo, ["embedding_reg_loss"]),  # which gathers the batch
        (
            losses.ntxent,
            regularizers.global_orthogonal,
            [f"embedding_reg_loss_global_orthogonal_reg_{x}" for x in ("mean", "second")],
        ),
    ):
        other = R if loss is losses.vicreg else jnp.arange(N) % 3
        recipe = mj.objective(loss, embedding_regularizer=regularizer, axis_name="data")
        run = on_devices(lambda x, y, f=recipe: f(x, y, key=KEY)[1])
        with_key = {"key": key} if regularizer is sigreg else {}
        want = lambda x, f=regularizer, k=with_key: mj.reduce(f(x, **k))[1]
        got, want = jax.jit(lambda x, y, run=run, f=want: (run(x, y), f(x)))(X, other)
        close([got[name] for name in names], list(want.values()))


# --- edges ------------------------------------------------------------------------------------


def test_sinkhorn():
    scores = jnp.asarray(RNG.normal(size=(N, 3)), "f4")
    there = jnp.arange(N) % 4 > 0

    @jax.jit
    def run(scores):
        local = lambda s, w: mj.sinkhorn(s, where=w, iterations=4, axis_name="data")
        return (
            mj.sinkhorn(scores, epsilon=0.5, iterations=20),
            mj.sinkhorn(scores, epsilon=0.001),
            on_devices(local, out=BY)(scores, WHERE),
            mj.sinkhorn(scores, where=WHERE, iterations=4),
            mj.sinkhorn(scores.at[::4].set(jnp.nan), where=there),
            mj.sinkhorn(scores[there]),
        )

    balanced, sharp, spread, whole, padded, shorter = run(scores)
    close(jnp.sum(balanced, 0), np.full(3, N / 3), rtol=1e-4)
    close(jnp.sum(sharp, 1), np.ones(N))
    close(spread, whole)
    close(padded, jnp.zeros((N, 3)).at[there].set(shorter))
    with pytest.raises(ValueError, match="sinkhorn: `epsilon` must be above 0, got 0"):
        mj.sinkhorn(scores, epsilon=0)


@pytest.mark.slow
def test_degenerate_batches_have_the_values_of_the_reference():
    zero, one = jnp.zeros((4, 2)), jnp.ones((1, 2))
    y, kinds = jnp.array([0, 0, 1, 1]), jnp.array([[0, 0], [0, 1], [1, 2], [1, 3]])
    of = lambda terms: mj.reduce(terms)[0]
    stack = lambda x: jnp.stack([x, x])

    @jax.jit
    def run():
        return [
            (of(regularizers.koleo(zero)), 18.4207),
            (of(losses.debiased_contrastive(zero, zero)), np.log(7)),
            (of(losses.hard_negative_contrastive(zero, zero)), np.log(7)),
            (of(losses.w_mse(stack(zero), eps=0.1)), 2),
            (of(losses.negative_cosine(zero, zero)), 0),
            (of(losses.rkd_distance(zero, zero)), 0),
            (of(losses.rkd_angle(zero, zero)), 0),
            (of(regularizers.uniformity(zero)), 0),
            (of(losses.sup_ap(jnp.ones((4, 2)), y)), 1 / 3),
            (of(losses.sup_ap(zero, jnp.zeros(4, int))), 0),
            (of(losses.hap(zero, jnp.zeros((4, 2), int))), 0),
            (of(losses.sup_ap(zero, jnp.arange(4))), 0),
            (of(losses.recall_at_k(zero, jnp.arange(4))), 0),
            *((of(f(one)), 0) for f in (regularizers.koleo, regularizers.uniformity)),
            (of(losses.w_mse(stack(one), eps=0.1)), 0),
            (of(losses.debiased_contrastive(one, one)), 0),
            (of(losses.sogclr(one, one, jnp.zeros(1, int))), 0),
            (of(losses.recall_at_k(one, y[:1])), 0),
            (of(losses.sup_ap(one, y[:1])), 0),
            (of(losses.hap(one, kinds[:1])), 0),
            (of(losses.rkd_distance(one, one)), 0),
            (of(losses.rkd_angle(one, one)), 0),
            (of(losses.pkt(one, one)), 0),
            (of(losses.similarity_preserving(one, one)), 0),
        ]

    for got, want in run():
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_extreme_options_are_finite():
    """Exponents far beyond float32, and limits of options."""
    near = jnp.concatenate([X, X * (1 + 1e-3)])
    cases = [
        lambda x, t: losses.hard_negative_contrastive(x, -x, temperature=t, beta=2.0),
        lambda x, t: losses.hard_negative_contrastive(x, x, temperature=t, prior=0.0),
        lambda x, t: losses.debiased_contrastive(x, x, temperature=t, prior=0.9),
        lambda x, t: losses.rince(x, x, temperature=t, q=0.0),
        lambda x, t: losses.rince(x, -x, temperature=t, q=0.1),
        lambda x, t: losses.sogclr(x, -x, jnp.arange(len(x)), temperature=t),
        lambda x, t: losses.swav(jnp.stack([x, -x]), epsilon=t / 100, temperature=t),
        lambda x, t: losses.dino(jnp.stack([x, -x]), jnp.stack([x, x]), teacher_temperature=t),
    ]
    run = jax.jit(
        lambda x, t: [
            jax.value_and_grad(lambda x, t, f=f: mj.reduce(f(x, t))[0], (0, 1))(x, t) for f in cases
        ]
    )
    for i, result in enumerate(run(near, jnp.float32(0.005))):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result)), i


def test_whitened_groups():
    """Each group is a batch of its own; a sample in two groups gets the mean."""
    views = jnp.stack([X, R])
    first, second = np.arange(12), np.arange(4, N)

    @jax.jit
    def run(views):
        values = lambda rows: losses.w_mse(views[:, rows], where=WHERE[rows])["loss"].values
        in_groups = losses.w_mse(views, groups=np.stack([first, second]), where=WHERE)
        some = losses.w_mse(views, groups=first[None])["loss"]
        return values(first), values(second), in_groups["loss"].values, some.weights

    a, b, got, weights = run(views)
    want = np.concatenate([a[:4], (a[4:] + b[:8]) / 2, b[8:]])
    close(got, want, rtol=1e-4)
    assert weights.tolist() == [1] * 12 + [0] * 4


@pytest.mark.slow
def test_a_teacher_in_the_memory():
    teacher = jnp.asarray(RNG.normal(size=(N, 3)), "f4")
    bank = mj.memory.MemoryBank.create(N, D, labels=teacher[:0])
    bank = bank.enqueue(X[8:], teacher[8:])
    for loss in (losses.rkd_distance, losses.pkt, losses.similarity_preserving):
        both = lambda x, f=loss: (
            mj.reduce(f(x[:8], teacher[:8], refs=bank.refs()))[0],
            mj.reduce(f(x[:8], teacher=teacher[:8], refs=mj.Refs(x[8:], teacher[8:])))[0],
        )
        close(*jax.jit(both)(X))


# --- memory -----------------------------------------------------------------------------------


def temporaries(fn, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    total = lambda *args: mj.reduce(fn(*args))[0]
    program = jax.jit(jax.value_and_grad(total)).lower(*shapes).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize(
    "fn, shapes, most",
    [
        (lambda x: losses.sup_ap(x, jnp.arange(4096) // 4), [(4096, 128)], 128 * 2**20),
        (lambda x: losses.recall_at_k(x, jnp.arange(4096) // 4), [(4096, 128)], 128 * 2**20),
        (lambda x: losses.hap(x, LEVELS), [(4096, 128)], 128 * 2**20),
        (losses.rkd_angle, [(512, 128), (512, 64)], 512**3),  # a quarter of an N^3 array
        (lambda x: regularizers.sigreg(x, KEY), [(8192, 128)], 128 * 2**20),
        (losses.dino, [(8, 16, 65_536), (2, 16, 65_536)], 3 * 8 * 16 * 65_536 * 4),  # of 16
        (losses.debiased_contrastive, [(4096, 64), (4096, 64)], 4 * 4096**2),
        (losses.rince, [(4096, 64), (4096, 64)], 4 * 4096**2),
        (
            lambda x, r: losses.sogclr(x, r, jnp.arange(4096)),
            *([(4096, 64), (4096, 64)], 4 * 4096**2),
        ),
        (regularizers.koleo, [(8192, 64)], 64 * 2**20),
        (regularizers.uniformity, [(8192, 64)], 64 * 2**20),
    ],
)
def test_memory(fn, shapes, most):
    assert temporaries(fn, *shapes) < most


LEVELS = np.stack([np.arange(4096) // 16, np.arange(4096) // 4], 1)


# --- mistakes ---------------------------------------------------------------------------------

VIEWS = jnp.stack([X, R])
MISTAKES = {
    lambda: losses.dino(X, VIEWS): r"losses.dino: `student` must have shape \[views, N, D\]",
    lambda: losses.dino(VIEWS, VIEWS[:, :4]): r"losses.dino: `teacher` .*\[T, 16, 4\].*\(2, 4, 4\)",
    lambda: losses.dino(VIEWS, VIEWS, center=jnp.zeros(3)): r"losses.dino: `center` .*\(4,\)",
    lambda: losses.swav(VIEWS[:1]): "losses.swav: `scores` must have at least 2 views",
    lambda: losses.swav(VIEWS, queue=X): r"losses.swav: `queue` must have shape \[2, M, 4\]",
    lambda: losses.swav(VIEWS, epsilon=0.0): r"losses.swav: `epsilon` must be in \(0, inf\)",
    lambda: losses.w_mse(VIEWS[:1]): "losses.w_mse: `views` must have at least 2 views",
    lambda: losses.w_mse(VIEWS[:, :4]): "losses.w_mse: `eps` must be above 0 for 4 rows of 4 feat",
    lambda: losses.w_mse(VIEWS.astype(int)): "losses.w_mse: `views` must be floating",
    lambda: losses.rince(X, R[:4]): r"losses.rince: `ref_embeddings` must have shape \(16, 4\)",
    lambda: losses.debiased_contrastive(X, R, prior=1.0): r"`prior` must be in \[0, 1\)",
    lambda: losses.sogclr(X, R, jnp.arange(4)): r"losses.sogclr: `index` must have shape \[16\]",
    lambda: losses.recall_at_k(X, INDEX, ks=5): "recall_at_k: `ks` must be a tuple of integers",
    lambda: losses.recall_at_k(X, INDEX, ks=(0, 1)): "recall_at_k: `ks` must be .*>= 1",
    lambda: losses.recall_at_k(X, INDEX, rank_temperature=jnp.ones(2)): r"must .* shape \(5,\)",
    lambda: losses.hap(X, INDEX): r"losses.hap: `labels` must be integers of shape \[N, levels\]",
    lambda: losses.rkd_distance(X, INDEX): r"losses.rkd_distance: `teacher` must be embeddings of",
    lambda: losses.pkt(X, R[:4]): r"losses.pkt: `teacher` must have shape \[16\]",
    lambda: losses.pkt(X, R, refs=mj.Refs(X, R[:, :2])): "pkt: `refs.labels` must have 4 features",
    lambda: losses.rkd_angle(X, INDEX): "losses.rkd_angle: `teacher` must be embeddings",
    lambda: regularizers.sigreg(X): "regularizers.sigreg: `key` must be given",
    lambda: regularizers.sigreg(X, KEY, directions=0): "sigreg: `directions` must be an integer",
    lambda: regularizers.sigreg(X, directions=X): r"sigreg: `directions` must have shape \[4, S\]",
    lambda: regularizers.sigreg(X, KEY, points=1): "sigreg: `points` must be an integer >= 2",
    lambda: mj.nn.SogCLR(0): "nn.SogCLR: `num_samples` must be an integer >= 1",
    lambda: mj.nn.DINO(4, center=1): "nn.DINO: no option 'center'",
}


@pytest.mark.parametrize("call, words", MISTAKES.items(), ids=range(len(MISTAKES)))
def test_mistakes_are_named(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_a_queue_that_is_the_same_on_all_devices_would_count_more_than_once():
    queue = jnp.ones((2, 3, D))
    run = on_devices(lambda x, r: losses.swav(jnp.stack([x, r]), queue=queue, axis_name="data"))
    with pytest.raises(ValueError, match="losses.swav: `queue` must be this device's part"):
        jax.eval_shape(run, X, R)
