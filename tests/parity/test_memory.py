"""Cross-batch memory against PyTorch Metric Learning: the same losses, batch after batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch_metric_learning.losses as theirs
import pytorch_metric_learning.miners as their_miners
import torch
from flax import nnx

import metricjax as mj

N, D, Q, STEPS = 6, 4, 16, 6  # the ring closes in the third step, and again in the sixth
MINERS = {
    None: (None, None),
    "pairs": (mj.miners.multi_similarity, their_miners.MultiSimilarityMiner()),
    "triplets": (mj.miners.triplet_margin, their_miners.TripletMarginMiner()),
}
MAIN = {
    "contrastive": theirs.ContrastiveLoss(),
    "triplet_margin": theirs.TripletMarginLoss(),
    "ntxent": theirs.NTXentLoss(),
    "multi_similarity": theirs.MultiSimilarityLoss(),
}
OTHERS = {  # not NCA, lifted structure and swap, where PML looks up wrong rows
    "angular": theirs.AngularLoss(),
    "circle": theirs.CircleLoss(),
    "generalized_lifted_structure": theirs.GeneralizedLiftedStructureLoss(),
    "intra_pair_variance": theirs.IntraPairVarianceLoss(),
    "margin": theirs.MarginLoss(),
    "signal_to_noise_ratio_contrastive": theirs.SignalToNoiseRatioContrastiveLoss(),
    "sup_con": theirs.SupConLoss(),
    "tuplet_margin": theirs.TupletMarginLoss(),
}
CELLS = [(name, miner, False) for name in MAIN for miner in MINERS]
CELLS += [(name, miner, True) for name in MAIN for miner in (None, "pairs")]
CELLS += [(name, None, False) for name in OTHERS]


def batches(masks):
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        x = rng.normal(size=(N, D))
        x /= np.linalg.norm(x, axis=1, keepdims=True)  # PML's angular takes negatives as they are
        yield x, np.array([0, 0, 1, 1, 2, 2]), rng.permutation(N) < 3 if masks else None


@pytest.mark.parametrize("name, miner, masks", CELLS)
def test_value_and_gradient_batch_after_batch(name, miner, masks):
    our_miner, their_miner = MINERS[miner]
    loss = (MAIN | OTHERS)[name]
    wanted = theirs.CrossBatchMemory(loss, D, memory_size=Q, miner=their_miner)

    @nnx.jit
    def step(memory, x, y, mask):
        def total(memory, x, y, mask):
            return mj.reduce(memory(x, y, enqueue_mask=mask))[0]

        return nnx.value_and_grad(total, argnums=1)(memory, x, y, mask)

    with jax.enable_x64(True):
        memory = mj.nn.CrossBatchMemory(
            getattr(mj.losses, name), Q, D, miner=our_miner, dtype=jnp.float64
        )
        seen = []
        for x, y, mask in batches(masks):
            inputs = torch.tensor(x, requires_grad=True)
            more = {} if mask is None else {"enqueue_mask": torch.tensor(mask)}
            want = wanted(inputs, torch.tensor(y), **more)
            (want_grad,) = torch.autograd.grad(want, [inputs], materialize_grads=True)
            value, grad = step(memory, jnp.asarray(x), jnp.asarray(y, jnp.int32), mask)
            single = 1e-6 if name == "margin" else 1e-9  # PML computes it in float32
            np.testing.assert_allclose(value, want.item(), rtol=single, atol=1e-12)
            np.testing.assert_allclose(grad, want_grad.numpy(), rtol=single, atol=single)
            seen.append(float(value))
        assert len(set(seen)) > STEPS // 2
        bank = memory.bank.get_value()
        np.testing.assert_allclose(bank.embeddings, wanted.embedding_memory.numpy(), rtol=1e-12)
        assert bank.position == wanted.queue_idx and bank.where.all() == wanted.has_been_filled


# --- what PML does otherwise: the reasons are in docs/differences.md ---------------------------


def value(memory, x, y, **options):
    return float(mj.reduce(memory(jnp.asarray(x), jnp.asarray(y), **options))[0])


def test_a_batch_of_one_does_not_meet_itself():
    loss = theirs.ContrastiveLoss(pos_margin=-1.0, neg_margin=3.0)
    pml = theirs.CrossBatchMemory(loss, D, memory_size=Q)
    ours = mj.nn.CrossBatchMemory(mj.losses.contrastive, Q, D)
    for rows, labels in ((np.eye(2, D), np.ones(2, int)), (np.ones((1, D)), np.zeros(1, int))):
        rows = rows.astype(np.float32)
        want = pml(torch.tensor(rows), torch.tensor(labels)).item()
        got = value(ours, rows, labels, pos_margin=-1.0, neg_margin=3.0)
    assert want == pytest.approx(got + 1, abs=1e-3)  # the distance to itself, less the margin


def test_a_mask_of_nobody_leaves_the_memory_empty():
    x, y = np.eye(N, D, dtype=np.float32), np.zeros(N, int)
    pml = theirs.CrossBatchMemory(theirs.ContrastiveLoss(), D, memory_size=Q)
    ours = mj.nn.CrossBatchMemory(mj.losses.contrastive, Q, D)
    nobody = np.zeros(N, bool)
    assert pml(torch.tensor(x), torch.tensor(y), enqueue_mask=torch.tensor(nobody)).item() > 0
    assert value(ours, x, y, enqueue_mask=nobody) == 0


def test_tuples_of_the_second_batch_are_of_the_second_batch():
    rng = np.random.default_rng(0)
    first, x = (rng.normal(size=(N, D)).astype(np.float32) for _ in range(2))
    y, a, p, n = np.arange(N), np.array([0]), np.array([1]), np.array([2])
    none = lambda *_, **__: mj.tuples.from_pairs(a[:0], p[:0], a[:0], n[:0], shape=(N, Q))
    pml = theirs.CrossBatchMemory(
        theirs.TripletMarginLoss(margin=3.0),
        D,
        memory_size=Q,
        miner=lambda *_: (torch.zeros(0).long(),) * 3,
    )
    ours = mj.nn.CrossBatchMemory(mj.losses.triplet_margin, Q, D, miner=none)
    pml(torch.tensor(first), torch.tensor(y))
    got = pml(torch.tensor(x), torch.tensor(y), tuple(map(torch.tensor, (a, p, n)))).item()
    gap = lambda refs: 3 + float((d := mj.distances.LpDistance()(x, refs))[0, 1] - d[0, 2])
    assert got == pytest.approx(gap(first), rel=1e-5)  # the oldest rows
    value(ours, first, y)
    mined = mj.tuples.from_triplets(a, p, n)
    assert value(ours, x, y, mined=mined, margin=3.0) == pytest.approx(gap(x), rel=1e-5)


def test_a_restored_memory_is_not_empty():
    x, y = np.eye(N, D, dtype=np.float32), np.array([0, 0, 1, 1, 2, 2])
    pml = [theirs.CrossBatchMemory(theirs.ContrastiveLoss(), D, memory_size=Q) for _ in "ab"]
    ours = [mj.nn.CrossBatchMemory(mj.losses.contrastive, Q, D) for _ in "ab"]
    pml[0](torch.tensor(x), torch.tensor(y))
    pml[1].load_state_dict(pml[0].state_dict())
    assert pml[0].queue_idx == N and pml[1].queue_idx == 0
    value(ours[0], x, y)
    nnx.update(ours[1], nnx.state(ours[0]))
    assert value(ours[0], x, y) == value(ours[1], x, y)
