"""Micro-batches add up to the whole batch, or are refused."""

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj

X = jnp.array(np.random.default_rng(0).normal(size=(cases.N, cases.D)), jnp.float32)
Y = jnp.array(np.random.default_rng(1).integers(0, cases.C, cases.N))
WHERE = jnp.arange(cases.N) % 7 > 0  # of other numbers in each micro-batch
QUICK = ["contrastive", "p2s_grad"]  # values of pairs, and one number
REFUSED = """
    adacos adaface angle barlow_twins cosent curricularface dcl dclw debiased_contrastive
    dynamic_soft_margin elasticface ge2e hard_negative_contrastive histogram infonce
    intra_pair_variance isogclr lifted_structure manifold n_pairs proxy_anchor rince rkd_angle
    rkd_distance sogclr sup_con swav threshold_consistent_margin vicreg w_mse
""".split()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[] if str(case) in QUICK else [pytest.mark.slow])
        for case in cases.CASES
        if str(case) not in REFUSED
    ],
)
def test_micro_batches_give_the_value_and_gradient_of_the_batch(case):
    """Three of eight, which have other counts; a loss of references meets all rows in each."""
    params = case.params(jax.random.key(0))
    loss = mj.totals(case.loss)

    def parts(x, params, i):
        some = lambda rows: jax.lax.dynamic_slice_in_dim(rows, i, 8)
        data = {"where": some(WHERE)}
        if case.takes("refs"):
            ids = i + jnp.arange(8)
            data["refs"] = mj.Refs(x, case.ids(Y), self_index=ids, where=WHERE.astype(x.dtype))
        return loss(*case.data(some(x), some(Y)), *params, **data)

    def in_parts(x, params):
        terms = jax.lax.map(lambda i: parts(x, params, i), jnp.arange(0, cases.N, 8))
        return mj.reduce(jax.tree.map(lambda x: jnp.sum(x, 0), terms))[0]

    whole = lambda x, params: mj.reduce(case.fn(x, Y, *params, where=WHERE))[0]
    both = jax.jit(lambda *args: [jax.value_and_grad(f, (0, 1))(*args) for f in (in_parts, whole)])
    got, want = both(X, params)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_losses_that_do_not_add_up_are_refused():
    refused = []
    for case in cases.CASES:
        try:
            mj.totals(case.loss)
        except ValueError as error:
            assert "Use `embed_in_chunks`" in str(error) and len(str(error)) <= 400
            refused.append(str(case))
    assert sorted(refused) == sorted(REFUSED)


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (mj.losses.contrastive, r"`refs` of losses.contrastive must be .* got None"),
        (lambda x, y: (x, {"loss": y}), "must return its terms, got tuple"),
        (
            lambda x, y: {"a": mj.LossTerm(jnp.mean(x), jnp.ones(()))},
            "values or a divisor, got 'a'",
        ),
        (mj.chunked(mj.losses.contrastive, 4), "`refs` of losses.contrastive"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(loss, complaint):
    with pytest.raises((ValueError, TypeError), match="totals: .*" + complaint):
        mj.totals(loss)(X, Y)
