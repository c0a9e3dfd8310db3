"""References and label relations: the other side of every pair."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj

X = jnp.array(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)
Y = jnp.array(np.arange(10) % 3)
LOSSES = [
    mj.losses.contrastive,
    mj.losses.multi_similarity,
    mj.losses.ntxent,
    mj.losses.triplet_margin,
]
QUICK = (mj.losses.triplet_margin,)
every_loss = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(x, id=x.__name__, marks=[] if x in QUICK else [pytest.mark.slow])
        for x in LOSSES
    ],
)


def value(loss, *args, reducer=None, **kwargs):
    return jax.jit(lambda: mj.reduce(loss(*args, **kwargs), reducer)[0])()


@every_loss
def test_the_batch_as_references_is_self_mode_when_its_place_is_told(loss):
    refs = mj.Refs(X, Y, jnp.arange(10))
    chex.assert_trees_all_close(value(loss, X, Y, refs=refs), value(loss, X, Y))
    mean = lambda **kwargs: value(loss, X, Y, reducer=mj.reducers.mean, **kwargs)
    assert abs(mean(refs=mj.Refs(X, Y)) - mean()) > 1e-4  # each anchor then meets its own copy


@every_loss
def test_references_may_be_anywhere_in_a_larger_set(loss):
    extra = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    refs = mj.Refs(
        np.concatenate([extra, X]),
        np.concatenate([np.zeros(4, Y.dtype), Y]),
        np.arange(10) + 4,
        np.repeat(np.float32([0, 1]), [4, 10]),
    )
    chex.assert_trees_all_close(value(loss, X, Y, refs=refs), value(loss, X, Y), rtol=1e-5)


@every_loss
def test_equality_is_one_relation_among_others(loss):
    equal = lambda a, b: a[:, None] == b[None, :]
    chex.assert_trees_all_close(value(loss, X, Y, match=equal), value(loss, X, Y))
    tags = {"one": np.eye(3, dtype=np.float32)[Y], "many": np.ones((10, 2))}
    overlap = lambda a, b: jnp.einsum("nc,mc->nm", a["one"], b["one"]) > 0
    chex.assert_trees_all_close(value(loss, X, tags, match=overlap), value(loss, X, Y))


@every_loss
def test_a_relation_may_be_soft(loss):
    soft = lambda a, b: jnp.where(a[:, None] == b[None, :], 1.0, 0.25)
    got = value(loss, X, Y, match=soft)
    assert jnp.isfinite(got) and abs(got - value(loss, X, Y)) > 1e-4


@every_loss
def test_labels_may_be_left_out_when_tuples_are_given(loss):
    mined = jax.jit(mj.tuples.all_pairs)(Y)
    chex.assert_trees_all_close(value(loss, X, mined=mined), value(loss, X, Y))


@every_loss
def test_wrong_references_say_so(loss):
    name = f"losses.{loss.__name__}"
    wrong = {
        r"`refs.embeddings` must have 6 features": mj.Refs(X[:, :4], Y),
        r"`refs.labels` must have shape": mj.Refs(X, Y[:4]),
        r"`refs.self_index` must have shape": mj.Refs(X, Y, jnp.arange(3)),
        r"`refs.where` must have shape": mj.Refs(X, Y, None, jnp.ones(3)),
        r"labels are needed": mj.Refs(X),
    }
    for says, refs in wrong.items():
        with pytest.raises(ValueError, match=f"{name}: .*{says}"):
            value(loss, X, Y, refs=refs)
    with pytest.raises(ValueError, match=rf"{name}: `match` must give shape \(10, 10\)"):
        value(loss, X, Y, match=lambda a, b: a == b)
    with pytest.raises(ValueError, match=rf"{name}: `mined` must have shape \(10, 10\)"):
        value(loss, X, Y, mined=mj.tuples.all_pairs(Y[:4]))


def test_gathered_references_keep_order_and_place():
    split = lambda x: np.reshape(x, (5, 2, *x.shape[1:]))
    where = np.arange(10, dtype=np.float32)
    gather = lambda x, y, w: mj.gather_refs(x, y, "d", where=w)
    run = jax.jit(jax.vmap(gather, axis_name="d"))
    refs = jax.device_get(run(split(X), split(Y), split(where)))
    for i in range(5):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, i=i: x[i], refs),
            mj.Refs(X, Y, np.arange(2) + 2 * i, where),
        )
