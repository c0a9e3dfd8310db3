"""Whatever a public function is given: the result is right, or an error names what was wrong."""

import re

import cases
import jax
import jax.numpy as jnp
import miner_cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metricjax as mj

KEY = jax.random.key(0)
INTEGERS = ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64"]
ANYTHING = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def some(values, size, dtype):
    lists = st.lists(st.sampled_from(values), min_size=size, max_size=size)
    return lists.map(lambda x: np.array(x, dtype))


def some_labels(size):
    values = [0, 1, 1, 2, -1, 2**31 - 1, -(2**31), 2**40, 2**63 - 1]
    # as one of the types, which may cut them off: then they are labels, too
    return st.tuples(some(values, size, np.int64), st.sampled_from(INTEGERS)).map(
        lambda both: both[0].astype(both[1])
    )


def some_rows(size, d):
    return some([-2, 0, 1, 0.5, 2.0], size * d, np.float32).map(lambda x: x.reshape(size, d))


def some_weights(size):
    return some([0, 1, 0.5, 2, np.nan, -1], size, np.float32)


def finite_or_refused(name, call):
    """What `call` returns is finite, or its error names the function and an argument."""
    try:
        out = call()
    except (ValueError, TypeError) as error:
        assert re.search(rf"{name}(\.\w+)?: .*`\w", str(error)) or "`match`" in str(error), str(
            error
        )
        return
    for leaf in jax.tree.leaves(out):
        leaf = np.asarray(leaf)
        assert leaf.dtype.kind not in "fc" or np.isfinite(leaf).all(), (name, leaf)


# --- losses and miners -------------------------------------------------------------------------


def _cases():
    yield from ((f"losses.{case}", case) for case in cases.CASES)
    yield from ((f"miners.{case}", case) for case in miner_cases.CASES)


CASES = dict(_cases())


@st.composite
def batches(draw):
    """A loss or a miner, and arguments that it may or may not take."""
    n, d = draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([1, 3]))
    m = draw(st.sampled_from([None, 0, 1, 4]))
    data = {"where": draw(some_weights(n))} if draw(st.booleans()) else {}
    name = draw(st.sampled_from(sorted(CASES)))
    takes = CASES[name].takes
    if m is not None and takes("refs"):
        own = draw(some(range(-2, 7), n, int)) if draw(st.booleans()) else None
        ids = getattr(CASES[name], "ids", lambda y: y)
        data["refs"] = mj.Refs(draw(some_rows(m, d)), ids(draw(some_labels(m))), own)
    if takes("mined") and draw(st.booleans()):
        shape = draw(st.sampled_from([(n, n if m is None else m), (n + 1, 2)]))
        data["mined"] = mj.Pairs(np.ones(shape, np.float32), np.ones(shape, np.float32))
    return name, draw(some_rows(n, d)), draw(some_labels(n)), data


def compare(batch):
    name, x, y, data = batch
    case = CASES[name]

    def loss(x):
        p = (jnp.ones((3 * case.centers, x.shape[1])),) if case.centers else ()
        terms = case.fn(x, y, *p, **data)
        return mj.reduce(terms[0] if isinstance(terms, tuple) else terms)[0]

    mine = lambda x: case(x, y, key=KEY, **data)[:2]
    fn = jax.value_and_grad(loss) if name.startswith("losses") else mine
    finite_or_refused(name, lambda: jax.jit(fn)(jnp.asarray(x)))


@settings(max_examples=8, **ANYTHING)
@given(batches())
def test_losses_and_miners_are_right_or_refuse(batch):
    compare(batch)


@pytest.mark.slow
@settings(max_examples=80, **ANYTHING)
@given(batches())
def test_losses_and_miners_are_right_or_refuse_very_much(batch):
    compare(batch)


# --- everything else ---------------------------------------------------------------------------

ev, inf, samplers, tuples = mj.evaluation, mj.inference, mj.samplers, mj.tuples
sampled = dict(seed=0, step=0)
REST = {  # name: (rows, labels, weights, a small number) -> what it returns
    "sample_classes": lambda x, y, w, k: mj.sample_classes(KEY, y, 4, k / 4, where=w),
    "statistics": lambda x, y, w, k: mj.statistics(
        {}, embeddings=jnp.asarray(x), labels=y, num_classes=k, where=w
    ),
    "tuples.all_pairs": lambda x, y, w, k: tuples.all_pairs(y, where=w),
    "tuples.random_triplets": lambda x, y, w, k: tuples.random_triplets(KEY, y, k, where=w),
    "tuples.from_triplets": lambda x, y, w, k: mj.reduce(
        mj.losses.triplet_margin(jnp.asarray(x), mined=tuples.from_triplets(y, y, y, w))
    ),
    "tuples.from_pairs": lambda x, y, w, k: tuples.from_pairs(
        y, y, y, y, shape=(len(x), 3), where_positive=w, where_negative=w
    ),
    "tuples.sample_weights": lambda x, y, w, k: tuples.sample_weights(
        tuples.from_triplets(*[np.asarray(y, int)] * 3), k
    ),
    "evaluation.knn": lambda x, y, w, k: ev.knn(x, x, k, self_index=y, where=w).indices,
    "evaluation.retrieval_metrics": lambda x, y, w, k: ev.retrieval_metrics(x, y, k=k),
    "evaluation.AccuracyCalculator": lambda x, y, w, k: ev.AccuracyCalculator(
        ("precision_at_1", "AMI"), k=k
    ).get_accuracy(x, y),
    "evaluation.k_means": lambda x, y, w, k: ev.k_means(x, k),
    "evaluation.nmi": lambda x, y, w, k: ev.nmi(x, y) if len(x) else 0,  # NaN
    "evaluation.mean_average_precision": lambda x, y, w, k: ev.mean_average_precision(x, w),
    "evaluation.recall_at_k": lambda x, y, w, k: ev.recall_at_k(x > 0, w, k=k),
    "evaluation.ndcg_at_k": lambda x, y, w, k: ev.ndcg_at_k(x, w, k=k),
    "inference.Index": lambda x, y, w, k: inf.Index(x, labels=y, ids=y).nearest(x, k).distances,
    "inference.match": lambda x, y, w, k: inf.match(x, x, k),
    "inference.pair_distances": lambda x, y, w, k: inf.pair_distances(x, y, max_pairs=k)[:2],
    "inference.roc_auc": lambda x, y, w, k: inf.roc_auc(w, y),
    "inference.best_threshold": lambda x, y, w, k: inf.best_threshold(x[:, 0], y, w),
    "inference.threshold_at_fmr": lambda x, y, w, k: inf.threshold_at_fmr(x[:, 0], y, w, fmr=k),
    "samplers.by_weight": lambda x, y, w, k: samplers.by_weight(w, batch_size=k, **sampled),
    "samplers.fixed_triplets": lambda x, y, w, k: samplers.fixed_triplets(y, k, seed=0),
    "samplers.m_per_class": lambda x, y, w, k: samplers.m_per_class(y, k, batch_size=4, **sampled),
    "samplers.hierarchical": lambda x, y, w, k: samplers.hierarchical(
        np.stack([y, y], 1), batch_size=4, samples_per_class=k, **sampled
    ),
    "reducers.class_weighted": lambda x, y, w, k: mj.reduce(
        mj.losses.ntxent(jnp.asarray(x), np.arange(len(x)) // 2), mj.reducers.class_weighted(w)
    ),
    "regularizers.lp": lambda x, y, w, k: mj.reduce(mj.regularizers.lp(x, p=k, where=w)),
    "regularizers.center_invariant": lambda x, y, w, k: mj.reduce(
        mj.regularizers.center_invariant(x, where=w)
    ),
    "regularizers.regular_face": lambda x, y, w, k: mj.reduce(
        mj.regularizers.regular_face(x, where=w)
    ),
    "regularizers.sparse_centers": lambda x, y, w, k: mj.reduce(
        mj.regularizers.sparse_centers(x, centers_per_class=k, where=w)
    ),
    "regularizers.zero_mean": lambda x, y, w, k: mj.reduce(mj.regularizers.zero_mean(x, where=w)),
    "distances.row_distances": lambda x, y, w, k: mj.distances.row_distances(x, x[:k]),
    "MemoryBank": lambda x, y, w, k: (
        mj.memory.MemoryBank.create(4, 3).enqueue(jnp.asarray(x), y, where=w).embeddings
    ),
    "totals": lambda x, y, w, k: mj.totals(mj.losses.contrastive)(jnp.asarray(x), y, where=w),
}


@st.composite
def arguments(draw):
    n, d = draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([1, 3]))
    rows = draw(some_rows(n, d)), draw(some_labels(n)), draw(some_weights(n))
    return draw(st.sampled_from(sorted(REST))), *rows, draw(st.integers(-1, 6))


def use(arguments):
    name, *rest = arguments
    finite_or_refused(name, lambda: REST[name](*rest))


@settings(max_examples=20, **ANYTHING)
@given(arguments())
def test_everything_else_is_right_or_refuses(arguments):
    use(arguments)


@pytest.mark.slow
@settings(max_examples=400, **ANYTHING)
@given(arguments())
def test_everything_else_is_right_or_refuses_very_much(arguments):
    use(arguments)
