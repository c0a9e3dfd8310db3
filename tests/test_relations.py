"""Relations of labels: what they give, and what losses make of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
TAGS = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]])
KINDS = np.array([[0, 0, 1], [0, 0, 2], [0, 1, 1], [1, 0, 1], [0, 0, 1]])


def test_multi_hot_labels_overlap():
    sets = [set(np.flatnonzero(row)) for row in np.asarray(TAGS)]
    want = [[len(a & b) / len(a | b) if a | b else 0 for b in sets] for a in sets]
    np.testing.assert_allclose(mj.relations.overlap(TAGS, TAGS), want, rtol=1e-6)
    shared = [[bool(a & b) for b in sets] for a in sets]
    np.testing.assert_array_equal(mj.relations.intersects(TAGS, TAGS), shared)
    assert mj.relations.overlap(TAGS, TAGS[:2]).shape == (5, 2)


def test_hierarchical_labels_match_from_the_coarsest_level_down():
    weights = 3.0, 2.0, 1.0
    got = np.asarray(jax.jit(mj.relations.hierarchical(weights))(KINDS, KINDS))
    for i, a in enumerate(np.asarray(KINDS)):
        for j, b in enumerate(np.asarray(KINDS)):
            agree = np.cumprod(a == b)
            assert got[i, j] == pytest.approx(np.dot(agree, weights) / 6)
    with pytest.raises(ValueError, match=r"relations.hierarchical: .* shape \[N, 2\]"):
        mj.relations.hierarchical((1.0, 1.0))(KINDS, KINDS)


def test_one_label_each_is_equality():
    y = np.array([0, 1, 0, 2, 1])
    one_hot = np.eye(3, dtype=np.float32)[y]

    @functools.partial(jax.jit, static_argnums=0)
    def run(loss, x):
        of = lambda *labels, **match: mj.reduce(loss(x, *labels, **match))[0]
        return of(y), (
            of(one_hot, match=mj.relations.overlap),
            of(one_hot, match=mj.relations.intersects),
            of(y[:, None], match=mj.relations.hierarchical((1.0,))),
        )

    for loss in (mj.losses.sup_con, mj.losses.contrastive, mj.losses.triplet_margin):
        want, every = run(loss, X)
        for got in every:
            assert got == pytest.approx(float(want), rel=1e-6)


def test_soft_matches_weigh_positives():
    m = np.array(jax.jit(mj.relations.overlap)(TAGS, TAGS))
    np.fill_diagonal(m, 0)
    s = np.asarray(jax.jit(mj.distances.CosineSimilarity())(X)) / 0.1
    off = ~np.eye(5, dtype=bool)
    everything = np.log(np.sum(np.where(off, np.exp(s), 0), 1))
    want = [everything[i] - m[i] @ s[i] / m[i].sum() for i in range(5) if m[i].sum()]
    run = lambda loss: jax.jit(lambda x: mj.reduce(loss(x, TAGS, match=mj.relations.overlap)))(X)
    got = run(mj.losses.sup_con)[0]
    assert got == pytest.approx(np.mean(want), rel=1e-5)

    d = np.asarray(jax.jit(mj.distances.LpDistance())(X))
    parts = run(mj.losses.contrastive)[1]
    assert parts["pos_loss"] == pytest.approx((m * d).sum() / m[d > 0].sum(), rel=1e-5)
    hinge, w = np.maximum(1 - d, 0), np.where(off, 1 - m, 0)
    assert parts["neg_loss"] == pytest.approx((w * hinge).sum() / w[hinge > 0].sum(), rel=1e-5)
