"""What `statistics` counts, against the dense terms and lists of pairs; devices, edges, errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj
from metricjax._core.refs import replicated
from metricjax._core.types import LossTerm

X = jnp.array(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
Y = jnp.array(np.arange(16) % 5)
UNIT = np.asarray(X) / np.linalg.norm(np.asarray(X), axis=1, keepdims=True)
MAT = np.linalg.norm(UNIT[:, None] - UNIT[None, :], axis=-1)
statistics = jax.jit(mj.statistics)


def same(got, expected):
    assert sorted(got) == sorted(expected)
    chex.assert_trees_all_close(got, {n: jnp.float32(x) for n, x in expected.items()}, rtol=1e-5)


def by_hand(**terms):
    out = {}
    for name, term in terms.items():
        values, weights = np.asarray(term.values), np.asarray(term.weights)
        out[f"{name}_count"] = weights.sum()
        out[f"{name}_non_zero"] = weights[values != 0].sum() / weights.sum()
    return out


def distances_by_hand(pairs, mat=MAT):
    out = {}
    for kind, weights in pairs._asdict().items():
        weights = np.asarray(weights)
        seen = np.asarray(mat)[weights > 0]
        out[f"{kind}_distance_min"] = seen.min()
        out[f"{kind}_distance_mean"] = np.average(seen, weights=weights[weights > 0])
        out[f"{kind}_distance_max"] = seen.max()
    return out


def test_terms_of_pairs_and_what_was_mined():
    lists = np.random.default_rng(1).integers(0, 16, (4, 40))
    pairs = mj.tuples.from_pairs(*lists, shape=(16, 16))
    assert pairs.positive.max() > 1
    options = {"mined": pairs, "pos_margin": 0.8, "neg_margin": 1.2}
    terms = jax.jit(lambda: mj.losses.contrastive(X, Y, **options))()
    expected = by_hand(**terms) | {"positive_pairs": 40, "negative_pairs": 40}
    assert 0 < expected["neg_loss_non_zero"] < expected["pos_loss_non_zero"] < 1
    same(mj.statistics(terms, pairs), expected)
    same(statistics(terms, pairs, MAT), expected | distances_by_hand(pairs))


@pytest.mark.slow
@pytest.mark.parametrize("mined", ["rule", "list"])
def test_streamed_terms_and_triplets(mined):
    if mined == "rule":
        mined = jax.jit(lambda: mj.miners.triplet_margin(X, Y, margin=0.3))()
    else:
        mined = jax.jit(lambda: mj.tuples.random_triplets(jax.random.key(0), Y, 4))()
    listed, left_out = jax.jit(lambda: mj.tuples.as_triplets(mined, 600))()
    count = float(listed.weights.sum())
    assert left_out == 0 and 30 < count < 600
    pairs = jax.jit(lambda: mj.tuples.as_pairs(mined, (16, 16)))()
    where = np.where(np.arange(16) == 3, np.float32(0.5), np.float32(1))
    loss = lambda: mj.losses.triplet_margin(X, mined=mined, where=where)
    expected = by_hand(loss=loss()["loss"].dense())
    assert 0 < expected["loss_non_zero"] < 1 and expected["loss_count"] < count
    expected |= {"triplets": count}
    same(jax.jit(lambda: mj.statistics(loss(), mined))(), expected)
    got = jax.jit(lambda: mj.statistics(loss(), mined, MAT))()
    same(got, expected | distances_by_hand(pairs))


def test_chunks_count_as_the_whole_does():
    chunked = mj.chunked(mj.losses.contrastive, 3)
    got, expected = (
        jax.jit(lambda loss=loss: mj.statistics(loss(X, Y)))()
        for loss in (chunked, mj.losses.contrastive)
    )
    same(got, expected)


def test_terms_that_are_one_number_are_not_counted():
    one = LossTerm(jnp.float32(3), jnp.float32(1), jnp.float32(1))
    loss = lambda x, y, **_: {"one": one, "rows": LossTerm(jnp.ones(len(x)), jnp.ones(len(x)))}
    for terms in (loss(X, Y), mj.chunked(loss, 4)(X, Y)):
        same(mj.statistics(terms), {"rows_count": 16, "rows_non_zero": 1})
    assert mj.statistics({}) == {}


def test_similarities_are_described_as_they_are():
    pairs, mat = mj.tuples.all_pairs(Y), mj.distances.CosineSimilarity()(X)
    got = mj.statistics({}, pairs, mat.astype(jnp.bfloat16))
    assert all(x.dtype == "float32" for x in got.values())
    expected = distances_by_hand(pairs, mat.astype(jnp.bfloat16).astype(jnp.float32))
    assert expected["positive_distance_min"] < 0
    same(got, {"positive_pairs": pairs.positive.sum(), "negative_pairs": 204} | expected)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], []])
def test_nothing_is_zero(labels):
    y = jnp.array(labels, int)
    x = X[: len(y)]

    @jax.jit
    def run(x, y):
        mat = mj.distances.LpDistance()(x)
        return mj.statistics(mj.losses.contrastive(x, y), mj.tuples.all_pairs(y), mat)

    got = run(x, y)
    assert all(np.isfinite(value) for value in got.values())
    for kind, name in (("positive", "pos_loss"), ("negative", "neg_loss")):
        if got[f"{kind}_pairs"] == 0:
            of_kind = [v for n, v in got.items() if n.startswith((kind, name))]
            assert len(of_kind) == 6 and not any(of_kind)
            assert not any(np.signbit(of_kind))


def test_a_nan_stays_visible_and_what_was_not_mined_does_not_show():
    x = X.at[0, 0].set(jnp.nan)

    @jax.jit
    def run(x, mat, where=None):
        pairs = mj.tuples.all_pairs(Y, where=where)
        return mj.statistics(mj.losses.contrastive(x, Y, where=where), pairs, mat)

    mat = jax.jit(mj.distances.LpDistance())(x)
    got = run(x, mat)
    assert all(np.isnan(v) for n, v in got.items() if "distance" in n)
    assert got["pos_loss_non_zero"] == 1
    where = (np.arange(16) > 0).astype(np.float32)
    same(run(x, mat, where), run(X, MAT, where))


def everything(x, y, axis_name=None, refs=None):
    distance = mj.distances.LpDistance()
    mined = mj.miners.multi_similarity(x, y, refs=refs)
    rule = mj.miners.triplet_margin(x, y, refs=refs, margin=0.3)
    terms = mj.merge(
        mj.losses.contrastive(x, y, refs=refs, mined=mined),
        mj.losses.triplet_margin(x, y, refs=refs, mined=rule),
    )
    mat = distance(x, replicated(x) if refs is None else refs.embeddings)
    return tuple(mj.statistics(terms, some, mat, axis_name=axis_name) for some in (mined, rule))


def per_device(x, y):
    return everything(x, y, "d", mj.gather_refs(x, y, "d"))


@pytest.mark.parametrize("how", ["shard_map", pytest.param("explicit", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_many_devices_give_what_one_gives(how):
    expected = jax.jit(everything)(X, Y)
    assert all(0 < value for some in expected for value in some.values())
    mesh = jax.make_mesh((8,), ("d",))
    sharded = jax.device_put((X, Y), jax.NamedSharding(mesh, jax.P("d")))
    if how == "shard_map":
        run = jax.shard_map(per_device, mesh=mesh, out_specs=jax.P())
    else:
        run = everything
    with jax.set_mesh(mesh):
        chex.assert_trees_all_close(jax.jit(run)(*sharded), expected, rtol=1e-5)


@pytest.mark.slow
def test_batches_of_batches():
    xs, ys = X.reshape(2, 8, 4), jnp.arange(16).reshape(2, 8) % 3
    got = jax.jit(jax.vmap(everything))(xs, ys)
    one = jax.jit(everything)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(one, xs, ys))
    chex.assert_trees_all_close(got, expected, rtol=1e-5)


@pytest.mark.slow
def test_no_gradient():
    def loss(x):
        return sum(value for some in everything(x, Y) for value in some.values())

    def of_weights(where):
        mined = mj.tuples.all_pairs(Y, where=where)
        terms = mj.losses.contrastive(X, Y, where=where)
        return sum(mj.statistics(terms, mined, MAT).values())

    assert not jax.jit(jax.grad(loss))(X).any()
    assert not jax.jit(jax.grad(of_weights))(jnp.full(16, 0.5)).any()
    mapped = jax.vmap(per_device, axis_name="d")
    of_devices = lambda x: sum(jnp.sum(v) for v in mapped(x, Y.reshape(2, 8))[1].values())
    assert not jax.jit(jax.grad(of_devices))(X.reshape(2, 8, 4)).any()


PAIRS = mj.tuples.all_pairs(Y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mj.statistics({}, None, MAT), ValueError, "statistics: `distances` need `mined`"),
        (lambda: mj.statistics({}, MAT), TypeError, "statistics: `mined` must be"),
        (
            lambda: mj.statistics({}, PAIRS, MAT[:4]),
            ValueError,
            r"statistics: `distances` must have shape \(16, 16\) .*got \(4, 16\)",
        ),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_norms_and_labels_of_no_class():
    norms = np.linalg.norm(X, axis=1)
    where = np.where(np.arange(16) == norms.argmax(), 0, np.arange(16) % 3 + 1)
    some = norms[where > 0]
    got = statistics({}, embeddings=X, labels=Y, num_classes=jnp.int32(3), where=where)
    mean = np.average(norms, weights=where)
    same(
        got,
        {"norm_min": some.min(), "norm_mean": mean, "norm_max": some.max()}
        | {"num_unknown": where[np.asarray(Y) >= 3].sum()},
    )
    same(mj.statistics({}, labels=[-1, 0, 2, 3], num_classes=3), {"num_unknown": 2})
    with pytest.raises(ValueError, match="statistics: `labels` and `num_classes` go together"):
        mj.statistics({}, labels=Y)
