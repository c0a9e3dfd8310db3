"""`reduce`, `merge` and `objective`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metricjax as mj
from metricjax.distances import CosineSimilarity

random = lambda seed, *shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)
X = jnp.array(random(0, 12, 6))
Y = jnp.array(np.arange(12) % 4)
W = jnp.array(random(1, 4, 6))


def test_reduce_adds_up_its_parts():
    loss, parts = jax.jit(lambda: mj.reduce(mj.losses.contrastive(X, Y)))()
    assert sorted(parts) == ["neg_loss", "pos_loss"]
    chex.assert_trees_all_close(loss, parts["neg_loss"] + parts["pos_loss"])


def test_reduce_takes_a_reducer_for_each_term():
    terms = mj.losses.contrastive(X, Y)
    mixed = mj.reduce(terms, {"pos_loss": mj.reducers.sum})[1]
    chex.assert_trees_all_close(mixed["pos_loss"], mj.reduce(terms, mj.reducers.sum)[1]["pos_loss"])
    chex.assert_trees_all_close(mixed["neg_loss"], mj.reduce(terms)[1]["neg_loss"])
    with pytest.raises(ValueError, match=r"reducers for \['pos'\], but the terms are"):
        mj.reduce(terms, {"pos": mj.reducers.sum})
    with pytest.raises(ValueError, match="no terms"):
        mj.reduce({})


def test_merge_refuses_to_overwrite():
    terms = mj.losses.contrastive(X, Y)
    assert list(mj.merge(terms, mj.regularizers.lp(X))) == [*terms, "lp_reg"]
    with pytest.raises(ValueError, match=r"merge: terms \['neg_loss', 'pos_loss'\] appear twice"):
        mj.merge(terms, terms)


def test_objective_is_the_lines_it_stands_for():
    distance, reducer = CosineSimilarity(), mj.reducers.threshold(high=0.3)
    where = jnp.arange(12) > 1
    recipe = mj.objective(
        mj.losses.triplet_margin,
        miner=functools.partial(mj.miners.triplet_margin, type_of_triplets="semihard"),
        reducer=reducer,
        embedding_regularizer=mj.regularizers.lp,
        distance=distance,
        margin=0.1,
    )

    def by_hand(x):
        mined = mj.miners.triplet_margin(x, Y, where=where, type_of_triplets="semihard")
        terms = mj.losses.triplet_margin(
            x, Y, mined=mined, where=where, distance=distance, margin=0.1
        ) | {"embedding_reg_loss": mj.regularizers.lp(x, where=where)["lp_reg"]}
        return mj.reduce(terms, reducer)

    got = jax.jit(lambda x: recipe(x, Y, where=where))(X)
    chex.assert_trees_all_close(got, jax.jit(by_hand)(X))


@pytest.mark.slow
def test_objective_regularizes_class_weights():
    recipe = mj.objective(mj.losses.arcface, weight_regularizer=mj.regularizers.regular_face)
    _, parts = jax.jit(recipe)(X, Y, W)
    want = jax.jit(lambda w: mj.reduce(mj.regularizers.regular_face(w))[0])(W)
    chex.assert_trees_all_close(parts["weight_reg_loss"], want)
    with pytest.raises(ValueError, match="needs class weights"):
        mj.objective(mj.losses.ntxent, weight_regularizer=mj.regularizers.lp)(X, Y)


def test_objective_lets_the_call_override_and_trace_options():
    recipe = mj.objective(mj.losses.ntxent, temperature=0.1)
    run = lambda t: recipe(X, Y, temperature=t)[0]
    got = jax.jit(jax.vmap(run))(np.float32([0.1, 0.5]))
    by_hand = lambda t: mj.reduce(mj.losses.ntxent(X, Y, temperature=t))[0]
    want = jax.jit(lambda: [by_hand(t) for t in (0.1, 0.5)])()
    chex.assert_trees_all_close(got, np.stack(want), rtol=1e-5)


def test_objective_checks_names_when_built_and_when_called():
    says = "objective: ntxent has no option 'temprature'; it has refs, mined, where, match, temp"
    with pytest.raises(TypeError, match=says):
        mj.objective(mj.losses.ntxent, temprature=0.1)
    with pytest.raises(TypeError, match=says):
        mj.objective(mj.losses.ntxent)(X, Y, temprature=0.1)
    mined = mj.miners.multi_similarity(X, Y)
    with pytest.raises(ValueError, match="either `miner` or `mined`"):
        mj.objective(mj.losses.ntxent, miner=mj.miners.multi_similarity)(X, Y, mined=mined)


def test_objective_hands_a_key_to_the_miner():
    def miner(x, y, *, key):
        return mj.tuples.random_triplets(key, y, 2)

    recipe = mj.objective(mj.losses.triplet_margin, miner=miner)

    @jax.jit
    def both(key):
        mined = mj.tuples.random_triplets(key, Y, 2)
        by_hand = mj.losses.triplet_margin(X, Y, mined=mined)
        return recipe(X, Y, key=key)[0], mj.reduce(by_hand)[0]

    chex.assert_trees_all_close(*both(jax.random.key(3)))


def test_a_miner_sees_the_gathered_references():
    recipe = mj.objective(
        mj.losses.triplet_margin, miner=mj.miners.triplet_margin, axis_name="batch", margin=0.3
    )
    alone = mj.objective(mj.losses.triplet_margin, miner=mj.miners.triplet_margin, margin=0.3)
    split = lambda x: np.reshape(x, (4, 3, *x.shape[1:]))
    run = jax.vmap(lambda x, y: recipe(x, y)[0], axis_name="batch")
    want, _ = jax.jit(alone)(X, Y)
    chex.assert_trees_all_close(jax.jit(run)(split(X), split(Y)), np.full(4, want), rtol=1e-5)


def test_chunked_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1"):
        mj.chunked(mj.losses.ntxent, 0)
    by_class = lambda e, y, w, where=None: mj.losses.proxy_anchor(e, y, w, where=where)
    with pytest.raises(ValueError, match="4 rows for 3 anchors"):
        jax.eval_shape(mj.chunked(by_class, 3), X, Y, W)


@pytest.mark.parametrize(
    "module",
    [mj.nn.ArcFace, pytest.param(mj.nn.ProxyAnchor, marks=pytest.mark.slow)],
    ids=lambda m: m.__name__,
)
def test_objective_takes_a_module_alone_and_on_parts_of_the_batch(module):
    head = module(4, 6, rngs=nnx.Rngs(0))
    want = jax.jit(lambda x, y: mj.reduce(head(x, y, margin=2.0))[0])(X, Y)
    alone, _ = jax.jit(mj.objective(head, margin=2.0))(X, Y)
    chex.assert_trees_all_close(alone, want)
    recipe = mj.objective(head, margin=2.0, axis_name="batch")
    split = lambda x: np.reshape(x, (4, 3, *x.shape[1:]))
    run = jax.vmap(lambda x, y: recipe(x, y)[0], axis_name="batch")
    chex.assert_trees_all_close(jax.jit(run)(split(X), split(Y)), np.full(4, want), rtol=1e-5)
    with pytest.raises(TypeError, match=f"objective: {module.loss.__name__} has no option 'refs'"):
        mj.objective(head, refs=None)


def test_several_losses_are_named_and_weighed():
    losses = mj.losses.tuplet_margin, mj.losses.intra_pair_variance
    a, b = jax.jit(lambda x, y: [loss(x, y) for loss in losses])(X, Y)
    both = mj.merge(tuplet=a, variance=b)
    assert sorted(both) == ["tuplet_loss", "variance_neg_loss", "variance_pos_loss"]

    @jax.jit
    @jax.value_and_grad
    def total(w):
        weights = {"variance_pos_loss": w, "variance_neg_loss": w}
        return mj.reduce(both, weights=weights)[0]

    value, grad = total(0.5)
    of_a, of_b = jax.jit(lambda: [mj.reduce(terms)[0] for terms in (a, b)])()
    assert np.allclose(value, of_a + 0.5 * of_b)
    assert np.allclose(grad, of_b)
    with pytest.raises(ValueError, match="reduce: weights for .'loss'., but the terms are"):
        mj.reduce(both, weights={"loss": 1.0})


def test_a_module_brings_the_weights_to_regularize():
    head = mj.nn.CosFace(4, 6, rngs=nnx.Rngs(0))
    of_module = mj.objective(head, weight_regularizer=mj.regularizers.lp)
    pure = mj.objective(mj.losses.cosface, weight_regularizer=mj.regularizers.lp)
    _, parts = jax.jit(of_module)(X, Y)
    _, want = jax.jit(pure)(X, Y, head.weights[...])
    assert np.allclose(parts["weight_reg_loss"], want["weight_reg_loss"])


def test_views_are_checked():
    x = jnp.eye(3)
    with pytest.raises(TypeError, match="self_supervised: arcface does not compare"):
        mj.self_supervised(mj.losses.arcface)
    with pytest.raises(ValueError, match="self_supervised: there must be two or more views"):
        mj.self_supervised(mj.losses.ntxent)(x)
    with pytest.raises(ValueError, match=r"got \(3, 3\), \(2, 3\)"):
        mj.self_supervised(mj.losses.ntxent)(x, x[:2])


def test_more_than_two_views():
    views, ids = random(0, 3, 4, 5), np.arange(4)
    sup_con = mj.losses.sup_con
    got = jax.jit(lambda: mj.reduce(mj.self_supervised(sup_con)(*views))[0])()
    want = jax.jit(lambda: mj.reduce(sup_con(views.reshape(12, 5), np.tile(ids, 3)))[0])()
    assert np.allclose(got, want)
    one_way = mj.self_supervised(sup_con, symmetric=False)
    refs = mj.Refs(views[1:].reshape(8, 5), np.tile(ids, 2))
    got = jax.jit(lambda: mj.reduce(one_way(*views))[0])()
    want = jax.jit(lambda: mj.reduce(sup_con(views[0], ids, refs=refs))[0])()
    assert np.allclose(got, want)
