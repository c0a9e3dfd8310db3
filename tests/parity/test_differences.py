"""Where metricjax differs from PyTorch Metric Learning on purpose: what each of them gives.

One test for each row of `docs/differences.md` that leaves cells out of the other parity tests.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning as pml
import pytorch_metric_learning.losses
import torch

import metricjax as mj
from metricjax import losses

N, M, D = 9, 7, 5
RNG = np.random.default_rng(0)
E, R = RNG.normal(size=(N, D)), RNG.normal(size=(M, D))
Y, Z = np.repeat(np.arange(3), 3), np.array([0, 1, 2, 0, 1, 2, 0])
LP = mj.distances.LpDistance()


def ours(fn, *args):
    """Value and gradient with respect to the first argument, in double precision."""
    with jax.enable_x64(True):
        args = [jnp.asarray(x) for x in args]
        value, grad = jax.jit(jax.value_and_grad(lambda *x: mj.reduce(fn(*x))[0]))(*args)
        return float(value), np.asarray(grad)


def theirs(loss, *args, **more):
    e, *rest = (None if x is None else torch.tensor(x) for x in args)
    return loss(e.requires_grad_(), *rest, **more)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def distances(x, y):
    return np.linalg.norm(unit(x)[:, None] - unit(y)[None], axis=-1)


def test_angular_normalizes_the_negatives():
    loss = pml.losses.AngularLoss()
    want = theirs(loss, unit(E), Y).item()
    assert theirs(loss, 3 * E, Y).item() != pytest.approx(theirs(loss, E, Y).item(), rel=1e-3)
    for scale in (1, 3):
        value, _ = ours(lambda e: losses.angular(e, Y), scale * E)
        assert value == pytest.approx(want, rel=1e-9)


def test_swap_looks_up_reference_to_reference_distances():
    value, _ = ours(lambda e: losses.triplet_margin(e, Y, refs=mj.Refs(R, Z), swap=True), E)
    an, pn = distances(E, R), distances(R, R)
    t = [
        an[a, p] - min(an[a, n], pn[p, n]) + 0.05
        for a in range(N)
        for p in range(M)
        for n in range(M)
        if Z[p] == Y[a] and Z[n] != Y[a]
    ]
    t = np.maximum(t, 0)
    assert value == pytest.approx(t.sum() / (t > 0).sum(), rel=1e-9)
    big = theirs(
        pml.losses.TripletMarginLoss(swap=True), E, Y, None, R[::-1].copy(), Z[::-1].copy()
    )
    assert big.item() != pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("mined", [False, True])
def test_lifted_structure_knows_the_negatives_of_references(mined):
    refs = mj.Refs(R, Z)
    given = {"mined": mj.tuples.all_pairs(jnp.asarray(Y), refs)} if mined else {}
    value, _ = ours(lambda e: losses.lifted_structure(e, Y, refs=refs, **given), E)
    d, among = distances(E, R), distances(R, R)
    want = []
    for a in range(N):
        for p in range(M):
            if Z[p] == Y[a]:
                total = np.exp(1 - d[a, Z != Y[a]]).sum()
                total += 0 if mined else np.exp(1 - among[p, Z != Z[p]]).sum()
                want.append(max(0, np.log(total) + d[a, p]) ** 2 / 2)
    assert value == pytest.approx(np.mean(want), rel=1e-9)


def test_threshold_consistent_margin_reads_its_references():
    loss = pml.losses.ThresholdConsistentMarginLoss()
    same = theirs(loss, E, Y, None, R.repeat(2, 0)[:N], Y.copy())
    assert same.item() == theirs(loss, E, Y, None, E[::-1].copy(), Y.copy()).item()  # never read
    value, _ = ours(lambda e: losses.threshold_consistent_margin(e, Y, refs=mj.Refs(R, Z)), E)
    s, match = unit(E) @ unit(R).T, Y[:, None] == Z[None]
    pos, neg = 0.9 - s[match & (s <= 0.9)], s[~match & (s >= 0.5)] - 0.5
    assert value == pytest.approx(pos.mean() + (neg.mean() if neg.size else 0), rel=1e-9)


def test_nca_leaves_out_anchors_without_positives_only():
    y = np.arange(N)
    assert np.isnan(theirs(pml.losses.NCALoss(), E, y).item())
    value, grad = ours(lambda e: losses.nca(e, y), E)
    assert value == 0 and not grad.any()
    # rows whose probability underflows stay
    hard = np.array([[1.0, 0], [-1, 0], [0.99, 0.1], [-0.99, 0.1]]).astype(np.float32)
    y = np.array([0, 0, 1, 1])
    value = mj.reduce(losses.nca(jnp.asarray(hard), y, softmax_scale=200.0))[0]
    assert 700 < float(value) < 900


def test_nca_never_meets_itself_in_a_memory():
    memory = pml.losses.CrossBatchMemory(pml.losses.NCALoss(), D, memory_size=16)
    met, _ = ours(lambda e: losses.nca(e, Y, refs=mj.Refs(E, Y)), E)
    assert theirs(memory, E, Y).item() == pytest.approx(met, rel=1e-5)
    alone, _ = ours(lambda e: losses.nca(e, Y), E)
    terms = mj.nn.CrossBatchMemory(losses.nca, 16, D)(jnp.asarray(E, jnp.float32), jnp.asarray(Y))
    assert float(mj.reduce(terms)[0]) == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx(met, rel=1e-2)


def test_one_pair_of_a_kind_is_enough():
    e, r = np.array([[1.0, 0]]), np.array([[0.0, 1], [1, 0]])
    assert theirs(pml.losses.ContrastiveLoss(), e, np.array([0]), None, r, np.array([0, 1])) == 0
    value, _ = ours(
        lambda e: losses.contrastive(e, np.array([0]), refs=mj.Refs(r, np.array([0, 1]))), e
    )
    assert value == pytest.approx(2**0.5 + 1, rel=1e-9)


def test_ntxent_has_no_cap():
    e = np.array([[1.0, 0], [-1, 1e-3], [1, 1e-3]], np.float32)
    y = np.array([0, 0, 1])
    capped = theirs(pml.losses.NTXentLoss(temperature=0.01), e, y).item()
    value = float(mj.reduce(losses.ntxent(jnp.asarray(e), y, temperature=0.01))[0])
    assert capped < 88 < 100 < value
    grad = jax.grad(lambda e: mj.reduce(losses.ntxent(e, y, temperature=0.01))[0])(e)
    assert np.abs(grad).max() > 1e-3


def test_histogram_takes_duplicates():
    e = np.repeat(E[:4], 2, 0)
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    value, grad = ours(lambda e: losses.histogram(e, y), e)
    assert 0 <= value <= 1 and np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["tuplet_margin", "arcface"])
def test_gradients_are_finite_at_a_cosine_of_one(name):
    e, y = np.repeat(unit(E[:4]), 2, 0).astype(np.float32), np.repeat(np.arange(4), 2)
    weights = [jnp.asarray(unit(E[:4]), jnp.float32)] if name == "arcface" else []
    loss = getattr(losses, name)
    value, grad = jax.value_and_grad(lambda e: mj.reduce(loss(e, y, *weights))[0])(e)
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_terms_have_one_axis_for_each_side():
    """PML's [n, 1] values fail under its PerAnchorReducer."""
    reducer = pml.reducers.PerAnchorReducer()
    with pytest.raises(Exception):  # noqa: B017
        theirs(pml.losses.TupletMarginLoss(reducer=reducer), E, Y)
    terms = losses.tuplet_margin(jnp.asarray(E, jnp.float32), Y)
    assert terms["loss"].values.shape == (N, N)
    value = mj.reduce(terms, mj.reducers.per_anchor())[0]
    values, weights = np.asarray(terms["loss"].values), np.asarray(terms["loss"].weights)
    assert value == pytest.approx((values * weights).sum(1).mean() / 2, rel=1e-5)


def test_ranked_list_counts_negatives_at_distance_zero():
    e, y = np.array([[1.0, 0], [1, 0]]), np.array([0, 1])
    assert theirs(pml.losses.RankedListLoss(margin=0.4, Tn=2), e, y).item() == 0
    value, _ = ours(lambda e: losses.ranked_list(e, y, margin=0.4, Tn=2.0), e)
    assert value == pytest.approx(0.5 * 1.2, rel=1e-4)


def test_manifold_with_infinite_lambda_is_the_context_part():
    ids, proxies = np.arange(N) % 3, R[:3]
    part = lambda **o: ours(lambda e: losses.manifold(e, proxies, proxy_ids=ids, **o), E)[0]
    alone = part(lambdaC=float("inf"))
    assert alone == pytest.approx(part(lambdaC=2.0) - part(lambdaC=1.0), rel=1e-6)
    with pytest.raises(TypeError, match="losses.manifold: `distance` must be a similarity"):
        part(distance=LP)


def test_smooth_ap_goes_by_labels_of_any_order_and_size():
    def truth(y, temperature=0.1):
        s = unit(E) @ unit(E).T
        out = []
        for q in range(N):
            positives = np.flatnonzero(y == y[q])
            if len(positives) < 2:
                continue
            soft = lambda i, of, q=q: sum(
                1 / (1 + np.exp((s[q, i] - s[q, j]) / temperature)) for j in of if j != i
            )
            ranks = [(1 + soft(i, positives)) / (1 + soft(i, range(N))) for i in positives]
            out.append(1 - np.mean(ranks))
        return np.mean(out)

    for y in (Y, Y[RNG.permutation(N)], np.array([0, 0, 0, 0, 1, 1, 0, 2, 1])):
        value, _ = ours(lambda e, y=y: losses.smooth_ap(e, y, temperature=0.1), E)
        assert value == pytest.approx(truth(y), rel=1e-9)


def test_p2s_grad_mutates_nothing():
    weights = jnp.asarray(3 * R)
    before = np.asarray(weights).copy()
    mj.reduce(losses.p2s_grad(jnp.asarray(E, jnp.float32), Y, weights))
    np.testing.assert_array_equal(weights, before)
    once, thrice = (ours(lambda e, w=w: losses.p2s_grad(e, Y, w), E)[0] for w in (R, 3 * R))
    assert once == pytest.approx(thrice, rel=1e-12)


def test_labels_that_name_no_class_weigh_nothing():
    y = np.array([0, 1, 7, -1, 2])
    known = (y >= 0) & (y < 3)
    for name in ("arcface", "normalized_softmax", "proxy_nca", "p2s_grad"):
        loss = getattr(losses, name)
        value, grad = ours(lambda e, y, loss=loss: loss(e, y, R[:3]), E[:5], y)
        want, want_grad = ours(lambda e, loss=loss: loss(e, y[known], R[:3]), E[:5][known])
        assert value == pytest.approx(want, rel=1e-12)
        np.testing.assert_allclose(grad[known], want_grad, rtol=1e-9)
        assert not grad[~known].any()


def test_n_pairs_takes_the_first_pair_in_row_order():
    y = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    a, p = np.array([2, 1, 4]), np.array([0, 2, 3])
    mined = mj.tuples.from_pairs(a, p, a, p, shape=(N, N))
    value, _ = ours(lambda e: losses.n_pairs(e, y, mined=mined), E)
    s = unit(E)[[1, 4]] @ unit(E)[[2, 3]].T
    want = np.mean(np.log(np.exp(s).sum(1)) - np.diag(s))
    assert value == pytest.approx(want, rel=1e-9)


def test_the_margin_of_views_keeps_their_own_pairs():
    """PML drops the pairs (i, i) when both views have the same label object."""
    views = E, E + 0.1
    value, _ = ours(
        lambda e: mj.self_supervised(losses.ntxent, symmetric=False)(e, jnp.asarray(views[1])), E
    )
    loss = pml.losses.SelfSupervisedLoss(pml.losses.NTXentLoss(), symmetric=False)
    assert value == pytest.approx(theirs(loss, *views).item(), rel=1e-9)
