"""Embedding a data set, and evaluating its splits."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metricjax.evaluation import (
    AccuracyCalculator,
    embed,
    evaluate_splits,
    evaluate_two_streams,
    evaluate_within_parents,
    mean_over_parents,
)


def batches(sizes, labels=True):
    start = 0
    for size in sizes:
        x = np.arange(start, start + size, dtype=np.float32)[:, None] * np.ones(3, np.float32)
        yield (x, x[:, 0].astype(int)) if labels else x
        start += size


@pytest.mark.parametrize("sizes", [(4, 4, 2), (4,), (3, 4, 1)])
def test_embeds_in_order_and_cuts_the_padding(sizes):
    shapes = []

    def apply(x):
        shapes.append(x.shape)
        return x[:, :2] + 1

    embeddings, labels = embed(apply, batches(sizes))
    n = sum(sizes)
    assert isinstance(embeddings, np.ndarray)
    np.testing.assert_array_equal(embeddings, np.arange(1, n + 1)[:, None] * np.ones((1, 2)))
    np.testing.assert_array_equal(labels, np.arange(n))
    assert len(shapes) == len({*np.maximum.accumulate(sizes)})  # compiled once per larger size
    embeddings, labels = embed(apply, batches(sizes, labels=False))
    assert embeddings.shape == (n, 2) and labels is None


def test_trees_of_inputs_and_labels():
    batch = {"a": np.ones((3, 2)), "b": np.ones((3, 1))}, {"fine": np.arange(3), "all": np.ones(3)}
    embeddings, labels = embed(lambda x: x["a"] + x["b"], [batch, batch])
    assert embeddings.shape == (6, 2) and labels["fine"].tolist() == [0, 1, 2, 0, 1, 2]


def test_arrays_of_a_pytree_are_arguments():
    traces = []

    def apply(params, x):
        traces.append(isinstance(params, jax.core.Tracer))
        return x * params

    for scale in (1.0, 2.0):
        partial = jax.tree_util.Partial(apply, jnp.float32(scale))
        embeddings, _ = embed(partial, batches((2, 1)))
        np.testing.assert_array_equal(embeddings[:, 0], scale * np.arange(3))
    assert traces == [True]

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    embeddings, _ = embed(model, batches((2, 1)))
    x = np.concatenate(list(batches((2, 1), labels=False)))
    np.testing.assert_allclose(embeddings, model(x), rtol=1e-6)


def test_progress(capsys, monkeypatch):
    embed(lambda x: x, list(batches((2, 1))), progress=True)
    assert "embedding" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="`progress` needs tqdm. `pip install tqdm`"):
        embed(lambda x: x, batches((2, 1)), progress=True)


def test_embed_errors():
    with pytest.raises(ValueError, match="`batches` must have at least one batch, got none"):
        embed(lambda x: x, [])
    with pytest.raises(ValueError, match=r"`batches` must have shape \[2\]"):
        embed(lambda x: x, [(np.ones((2, 1)), np.ones(3))])


def test_batches_of_a_data_loader_are_lists():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for labels in ([[3, 4], [5]], [("b", "a"), ("c",)]):
        batches = [[x[:2], labels[0]], [x[2:], labels[1]]]
        embeddings, y = embed(lambda x: x + 1, batches)
        np.testing.assert_array_equal(embeddings, x + 1)
        assert y.tolist() == [*labels[0], *labels[1]]


@pytest.mark.parametrize("batches", [np.ones((3, 2)), jnp.ones((3, 2)), {"image": np.ones(3)}])
def test_one_array_is_no_iterable_of_batches(batches):
    with pytest.raises(TypeError, match=r"`batches` must be an iterable of batches, .* `\[x\]`"):
        embed(lambda x: x, batches)


# Splits.

CALCULATOR = AccuracyCalculator(exclude=("AMI", "NMI"))


def split(seed, n=30):
    rng = np.random.default_rng(seed)
    parents = rng.integers(3, size=n)
    labels = parents * 10 + rng.integers(3, size=n)
    return rng.normal(size=(n, 2)).astype(np.float32), np.stack([labels, parents], 1)


SPLITS = {"train": split(0), "test": split(1), "extra": split(2)}


@pytest.mark.slow
def test_splits_in_the_whole_space():
    pairs = [("test", ["train", "test"]), ("train", ["extra"]), ("test", ["train", "extra"])]
    before = [(query, list(references)) for query, references in pairs]
    results = evaluate_splits(CALCULATOR, SPLITS, pairs, level=0)
    assert pairs == before
    assert {query: set(found) for query, found in results.items()} == {
        "test": {"train+test", "train+extra"},
        "train": {"extra"},
    }
    x, y = (np.concatenate(z) for z in zip(SPLITS["test"], SPLITS["train"], strict=True))
    expected = CALCULATOR.get_accuracy(x[:30], y[:30, 0], x, y[:, 0], ref_includes_query=True)
    assert results["test"]["train+test"] == expected
    itself = evaluate_splits(CALCULATOR, {"test": (x, y[:, 1])})["test"]["test"]
    assert itself == CALCULATOR.get_accuracy(x, y[:, 1])


@pytest.mark.filterwarnings("ignore:.*is less than")
@pytest.mark.parametrize(
    "k", [None, *(pytest.param(k, marks=pytest.mark.slow) for k in ("max_bin_count", 3))]
)
@pytest.mark.parametrize(
    "pair", [("test", ["test"]), pytest.param(("test", ["train"]), marks=pytest.mark.slow)]
)
def test_within_parents_equals_the_parents_one_by_one(pair, k):
    calculator = AccuracyCalculator(k=k, bootstrap=3)
    query, (reference,) = pair
    (x, y), (ref, ref_y) = SPLITS[query], SPLITS[reference]
    x, y = np.concatenate([x, x[:2] + 9]), np.concatenate([y, [[70, 7], [71, 7]]])  # all lone
    splits = SPLITS | {query: (x, y)}
    if query == reference:
        ref, ref_y = x, y
    found = evaluate_within_parents(calculator, splits, [pair])[query][reference]
    assert list(found) == [0, 1, 2, 7]
    for parent in range(3):
        mine, theirs = y[:, 1] == parent, ref_y[:, 1] == parent
        expected = calculator.get_accuracy(
            x[mine], y[mine, 0], ref[theirs], ref_y[theirs, 0],
            ref_includes_query=query == reference,
        )  # fmt: skip
        assert found[parent] == pytest.approx(expected, nan_ok=True)
        assert found[parent].num_queries == expected.num_queries
    assert found[7].num_queries == 0 and np.isnan(found[7]["precision_at_1"])
    mean = mean_over_parents(found)
    assert mean["precision_at_1"] == np.mean([found[p]["precision_at_1"] for p in range(3)])


def test_two_streams():
    x, y = SPLITS["test"]
    results = evaluate_two_streams(CALCULATOR, {"test": (x, x + 1, y)}, level=1)
    assert results["test"] == CALCULATOR.get_accuracy(x, y[:, 1], x + 1, y[:, 1])
    same = evaluate_two_streams(CALCULATOR, {"test": (x, x, y[:, 1])})
    assert same["test"]["precision_at_1"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate_splits(CALCULATOR, SPLITS, [("val", ["test"])]), "the splits train, te"),
        (lambda: evaluate_splits(CALCULATOR, SPLITS, [("test", [])]), r"got \('test', \[\]\)"),
        (lambda: evaluate_splits(CALCULATOR, SPLITS, [("test", "test")]), r"got \('test', 'test'"),
        (
            lambda: evaluate_within_parents(CALCULATOR, SPLITS, level=1),
            r"labels must have shape \[N, L\] with a column 2 for the parents, got \(30, 2\)",
        ),
    ],
)
def test_split_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
