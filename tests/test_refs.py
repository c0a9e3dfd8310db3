"""References and label relations: the other side of every pair."""

import chex
import jax
import jax.numpy as jnp
import pytest

import metricjax as mj

X = jax.random.normal(jax.random.key(0), (10, 6))
Y = jnp.arange(10) % 3
LOSSES = [
    mj.losses.contrastive,
    mj.losses.multi_similarity,
    mj.losses.ntxent,
    mj.losses.triplet_margin,
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)


def value(loss, *args, **kwargs):
    return jax.jit(lambda: mj.reduce(loss(*args, **kwargs))[0])()


@every_loss
def test_the_batch_as_references_is_self_mode_when_its_place_is_told(loss):
    refs = mj.Refs(X, Y, jnp.arange(10))
    chex.assert_trees_all_close(value(loss, X, Y, refs=refs), value(loss, X, Y))
    mean = lambda **kwargs: mj.reduce(loss(X, Y, **kwargs), mj.reducers.mean)[0]
    assert abs(mean(refs=mj.Refs(X, Y)) - mean()) > 1e-4  # each anchor then meets its own copy


@every_loss
def test_references_may_be_anywhere_in_a_larger_set(loss):
    extra = jax.random.normal(jax.random.key(1), (4, 6))
    refs = mj.Refs(
        jnp.concatenate([extra, X]),
        jnp.concatenate([jnp.zeros(4, Y.dtype), Y]),
        jnp.arange(10) + 4,
        jnp.concatenate([jnp.zeros(4), jnp.ones(10)]),
    )
    chex.assert_trees_all_close(value(loss, X, Y, refs=refs), value(loss, X, Y), rtol=1e-5)


@every_loss
def test_equality_is_one_relation_among_others(loss):
    equal = lambda a, b: a[:, None] == b[None, :]
    chex.assert_trees_all_close(value(loss, X, Y, match=equal), value(loss, X, Y))
    tags = {"one": jax.nn.one_hot(Y, 3), "many": jnp.ones((10, 2))}
    overlap = lambda a, b: jnp.einsum("nc,mc->nm", a["one"], b["one"]) > 0
    chex.assert_trees_all_close(value(loss, X, tags, match=overlap), value(loss, X, Y))


@every_loss
def test_a_relation_may_be_soft(loss):
    soft = lambda a, b: jnp.where(a[:, None] == b[None, :], 1.0, 0.25)
    got = value(loss, X, Y, match=soft)
    assert jnp.isfinite(got) and abs(got - value(loss, X, Y)) > 1e-4


@every_loss
def test_labels_may_be_left_out_when_tuples_are_given(loss):
    mined = mj.tuples.all_pairs(Y)
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
    split = lambda x: x.reshape(5, 2, *x.shape[1:])
    where = jnp.arange(10.0)
    gather = lambda x, y, w: mj.gather_refs(x, y, "d", where=w)
    refs = jax.vmap(gather, axis_name="d")(split(X), split(Y), split(where))
    for i in range(5):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, i=i: x[i], refs),
            mj.Refs(X, Y, jnp.arange(2) + 2 * i, where),
        )
