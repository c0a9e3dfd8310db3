"""Pairs that searches and metrics leave out, and the metrics of re-identification."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from metricjax import samplers
from metricjax.distances import DotProductSimilarity
from metricjax.evaluation import (
    AccuracyCalculator,
    Ignore,
    cmc,
    knn,
    listed,
    match_ranks,
    mean_average_precision_of_ranks,
    mean_inverse_negative_penalty,
    retrieval_metrics,
)

DOT = DotProductSimilarity(normalize_embeddings=False)
RNG = np.random.default_rng(0)
# Products of small integers are exact, and many are equal.
QUERY, REFERENCE = (RNG.integers(-2, 3, (n, 4)).astype(np.float32) for n in (24, 64))
PERSON, PERSONS = (RNG.integers(0, 5, n) for n in (24, 64))
CAMERA, CAMERAS = (RNG.integers(0, 3, n) for n in (24, 64))
PERSON[0], CAMERAS[PERSONS == PERSON[1]] = 7, CAMERA[1]  # without any match; with none left
JUNK = (PERSON[:, None] == PERSONS) & (CAMERA[:, None] == CAMERAS)
CAMERA_PAIR = CAMERA, CAMERAS
SAME_CAMERA = Ignore((PERSON, CAMERA), (PERSONS, CAMERAS))


def order_of(i, left_out, query=QUERY):
    """The references of query i that are left, nearest first, the lower index first in a tie."""
    order = np.argsort(-(REFERENCE @ query[i]), kind="stable")
    return order[~left_out[i, order]]


def expected_neighbors(left_out, k):
    rows = [order_of(i, left_out)[:k] for i in range(len(QUERY))]
    return np.array([[*row, *[-1] * (k - len(row))] for row in rows])


@functools.partial(jax.jit, static_argnames=("block_size", "ref_block_size"))
def eight_nearest(ignore, **sizes):
    return knn(QUERY, REFERENCE, 8, distance=DOT, ignore=ignore, **sizes)


def test_knn_leaves_out_pairs_of_equal_values():
    found = eight_nearest(SAME_CAMERA, block_size=7, ref_block_size=1)  # two blocks of references
    np.testing.assert_array_equal(found.indices, expected_neighbors(JUNK, 8))
    columns = Ignore(np.stack([PERSON, CAMERA], 1), np.stack([PERSONS, CAMERAS], 1))
    np.testing.assert_array_equal(eight_nearest(columns).indices, found.indices)


def test_knn_leaves_out_lists_and_may_have_too_few_left():
    most = np.tile(np.arange(60), (24, 1))  # 4 of 64 are left, and 5 where one is not listed
    most[::2, 7] = -1
    left_out = np.zeros(JUNK.shape, bool)
    left_out[:, :60] = True
    left_out[::2, 7] = False
    found = eight_nearest(Ignore(most, np.arange(64), listed), block_size=7, ref_block_size=1)
    np.testing.assert_array_equal(found.indices, expected_neighbors(left_out, 8))
    np.testing.assert_array_equal(np.isneginf(found.distances), found.indices < 0)


def average_precision(matches, count):
    ranks = np.flatnonzero(matches) + 1
    return np.sum(np.arange(1, len(ranks) + 1) / ranks) / count


def expected_metrics(left_out):
    """Means of the metrics by their definitions, over the queries that have a match left."""
    scores = []
    for i in range(len(QUERY)):
        matches = PERSONS[order_of(i, left_out)] == PERSON[i]
        if r := matches.sum():
            scores.append(
                {
                    "precision_at_1": matches[0],
                    "precision_at_k": matches.mean(),
                    "recall_at_3": matches[:3].any(),
                    "r_precision": matches[:r].mean(),
                    "mean_average_precision": average_precision(matches, r),
                    "mean_average_precision_at_r": average_precision(matches[:r], r),
                    "inverse_negative_penalty": r / (np.flatnonzero(matches)[-1] + 1),
                }
                | {f"cmc_{k}": matches[:k].any() for k in range(1, 65)}
            )
    return {name: np.mean([score[name] for score in scores]) for name in scores[0]}, len(scores)


EXPECTED, KEPT = expected_metrics(JUNK)


def test_retrieval_metrics_ignore_pairs_in_the_neighbors_and_in_r():
    scores = retrieval_metrics(
        QUERY, PERSON, REFERENCE, PERSONS, distance=DOT, ignore=SAME_CAMERA, block_size=7
    )
    for name, score in scores.items():
        np.testing.assert_allclose(score, EXPECTED[name], rtol=1e-6, err_msg=name)


def same(labels, others):
    return labels[:, None] == others[None, :]


@pytest.mark.parametrize("match", [None, pytest.param(same, marks=pytest.mark.slow)])
def test_the_calculator_ignores_pairs_in_the_neighbors_and_in_r(match):
    names = tuple(name for name in EXPECTED if name.startswith(("prec", "rec", "r_", "mean")))
    calculator = AccuracyCalculator(names, distance=DOT, match=match, block_size=7)
    accuracies = calculator.get_accuracy(QUERY, PERSON, REFERENCE, PERSONS, ignore=SAME_CAMERA)
    for name in names:
        np.testing.assert_allclose(accuracies[name], EXPECTED[name], rtol=1e-6, err_msg=name)
    assert accuracies.num_queries == KEPT < 23 and accuracies.num_lone == 24 - KEPT
    assert accuracies.k == 64 - JUNK.sum(1).min()


@pytest.mark.slow
def test_ndcg_does_not_expect_pairs_that_are_left_out():
    def grades(labels, others):
        return (labels[:, None] == others[None, :]).astype(int) * (1 + others[None, :] % 2)

    calculator = AccuracyCalculator(("ndcg_at_5",), distance=DOT, match=grades)
    accuracies = calculator.get_accuracy(QUERY, PERSON, REFERENCE, PERSONS, ignore=SAME_CAMERA)
    discount, scores = 1 / np.log2(np.arange(2, 7)), []
    for i in range(len(QUERY)):
        ranked = grades(PERSON, PERSONS)[i, order_of(i, JUNK)]
        if ranked.any():
            scores.append(discount @ ranked[:5] / (discount @ np.sort(ranked)[::-1][:5]))
    np.testing.assert_allclose(accuracies["ndcg_at_5"], np.mean(scores), rtol=1e-6)


@pytest.mark.parametrize("margin", [None, pytest.param(1.0, marks=pytest.mark.slow)])
def test_hard_negatives_ignore_pairs(margin):
    cameras = Ignore(CAMERA, CAMERAS)
    table = samplers.hard_negatives(
        QUERY, PERSON, REFERENCE, PERSONS, k=6, margin=margin, distance=DOT, ignore=cameras
    )
    same_camera = CAMERA[:, None] == CAMERAS
    expected = np.full((24, 6), -1)
    for i in range(24):
        order = order_of(i, same_camera)
        score, positive = REFERENCE[order] @ QUERY[i], PERSONS[order] == PERSON[i]
        near = score.max() if margin is None or not positive.any() else score[positive].min() - 1
        row = order[~positive & (score <= near)][:6]
        expected[i, : len(row)] = row
    np.testing.assert_array_equal(table, expected)


# The worked example of the reference: two queries, five references, distances as given.
DISTANCES = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.1, 0.4, 0.2, 0.3]], np.float32)
IDS, GALLERY_IDS = np.array([1, 2]), np.array([1, 2, 1, 3, 2])
WITH_CAMERA = Ignore((IDS, np.zeros(2, int)), (GALLERY_IDS, np.array([0, 0, 1, 1, 1])))


@pytest.mark.parametrize(
    ("ignore", "curve", "precision", "penalty"),
    [
        (WITH_CAMERA, [0, 1, 1], 0.5, 0.5),
        (None, [1, 1, 1], 5 / 6, 2 / 3),
    ],
)
def test_reidentification_by_hand(ignore, curve, precision, penalty):
    query, gallery = np.eye(2, dtype=np.float32), -DISTANCES.T  # the similarity is -distance
    ranks = match_ranks(query, IDS, gallery, GALLERY_IDS, ignore=ignore, distance=DOT)
    assert cmc(ranks, 3).tolist() == curve
    assert mean_average_precision_of_ranks(ranks) == pytest.approx(precision)
    assert mean_inverse_negative_penalty(ranks) == pytest.approx(penalty)


def test_reidentification_follows_its_definition(monkeypatch):
    """In blocks of 16 references: a match has to be counted against all of them."""
    sizes = {"block_size": 7, "ref_block_size": 16}
    monkeypatch.setattr("metricjax.evaluation._knn._sizes", lambda *_: sizes)
    ranks = match_ranks(QUERY, PERSON, REFERENCE, PERSONS, ignore=SAME_CAMERA, distance=DOT)
    for i, row in enumerate(ranks):
        expected = np.flatnonzero(PERSONS[order_of(i, JUNK)] == PERSON[i]) + 1
        np.testing.assert_array_equal(row[row > 0], expected)
        assert (row[len(expected) :] == 0).all()
    assert (ranks[:, 0] > 0).sum() == KEPT
    np.testing.assert_allclose(cmc(ranks, 64), [EXPECTED[f"cmc_{k}"] for k in range(1, 65)])
    precision, penalty = (
        mean_average_precision_of_ranks(ranks),
        mean_inverse_negative_penalty(ranks),
    )
    np.testing.assert_allclose(precision, EXPECTED["mean_average_precision"])
    np.testing.assert_allclose(penalty, EXPECTED["inverse_negative_penalty"])


@pytest.mark.slow
def test_queries_among_themselves_do_not_find_themselves():
    ranks = match_ranks(REFERENCE, PERSONS, distance=DOT)
    for i, row in enumerate(ranks):
        order = order_of(i, np.eye(64, dtype=bool), REFERENCE)
        expected = np.flatnonzero(PERSONS[order] == PERSONS[i]) + 1
        np.testing.assert_array_equal(row[row > 0], expected)


def test_without_any_match_the_metrics_are_nan():
    ranks = match_ranks(QUERY, PERSON, REFERENCE, PERSONS + 10)
    assert ranks.shape == (24, 1) and not ranks.any()
    assert np.isnan(cmc(ranks)).all() and len(cmc(ranks)) == 10
    assert np.isnan(mean_average_precision_of_ranks(ranks))
    assert np.isnan(mean_inverse_negative_penalty(ranks))


NAN = np.where(np.arange(64)[:, None] == 3, np.nan, REFERENCE)
SIDES = QUERY, PERSON, REFERENCE, PERSONS


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: knn(QUERY, REFERENCE, 1, ignore=Ignore(PERSON[:3], PERSONS)),
            ValueError,
            r"knn: `ignore.query` must have shape \[24\] to match `query`, got \(3,\)",
        ),
        (
            lambda: knn(QUERY, REFERENCE, 1, ignore=Ignore(PERSON)),
            ValueError,
            r"knn: `ignore.reference` must have shape \[64\] to match `reference`, got \(24,\)",
        ),
        (
            lambda: knn(QUERY, REFERENCE, 1, ignore=JUNK),
            TypeError,
            "knn: `ignore` must be an `evaluation.Ignore`, got ndarray",
        ),
        (
            lambda: knn(
                QUERY, REFERENCE, 1, ignore=Ignore(PERSON, PERSONS, lambda x, y: x[:, None])
            ),
            ValueError,
            r"knn: `ignore.relation` must return \[24, 64\], .* got \[24, 1\]",
        ),
        (
            lambda: knn(QUERY, REFERENCE, 1, ignore=Ignore((PERSON, CAMERA), PERSONS)),
            ValueError,
            "Ignore: `reference` must have 2 values for each row to match `query`, got 1",
        ),
        (
            lambda: retrieval_metrics(*SIDES, ignore=Ignore(PERSON)),
            ValueError,
            "retrieval_metrics: `ignore.reference` must be given with `reference`",
        ),
        (
            lambda: AccuracyCalculator(search=knn).get_accuracy(*SIDES, ignore=SAME_CAMERA),
            ValueError,
            "get_accuracy: `ignore` must be None with a `search` of your own",
        ),
        (
            lambda: samplers.hard_negatives(*SIDES, k=1, ignore=Ignore(PERSON[:3], PERSONS)),
            ValueError,
            r"hard_negatives: `ignore.query` must have shape \[24\] to match `embeddings`",
        ),
        (
            lambda: match_ranks(QUERY, PERSON, REFERENCE),
            ValueError,
            "match_ranks: give both `reference` and `reference_labels`",
        ),
        (
            lambda: match_ranks(QUERY, PERSON, NAN, PERSONS, distance=DOT),
            ValueError,
            "match_ranks: `query` must have no NaN distance to a match, got some for",
        ),
        (
            lambda: jax.jit(lambda x: match_ranks(x, PERSON))(QUERY),
            TypeError,
            "match_ranks: `query` must have known values",
        ),
        (
            lambda: match_ranks(QUERY, PERSON, REFERENCE, PERSONS, ignore=Ignore(CAMERA)),
            ValueError,
            "match_ranks: `ignore.reference` must be given",
        ),
        (lambda: knn(QUERY, REFERENCE, 1, ignore=Ignore(())), ValueError, "`ignore.query` must"),
        (
            lambda: knn(
                QUERY, REFERENCE, 1, ignore=Ignore(CAMERA.astype(str), CAMERAS.astype(str))
            ),
            TypeError,
            "knn: `ignore` must have numbers, got strings. Code both sides together",
        ),
        (
            lambda: knn(QUERY, REFERENCE, 1, ignore=Ignore({"a": CAMERA}, {"b": CAMERAS})),
            ValueError,
            r"`reference` must have the keys \['a'\] of `query`, got \['b'\]",
        ),
        (
            lambda: cmc(np.ones((2, 2))),
            ValueError,
            r"cmc: `ranks` must be integers \[Q, R\], .* float",
        ),
        (
            lambda: cmc(np.ones((2, 2), int), 0),
            ValueError,
            "cmc: `max_rank` must be an integer >= 1",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("sides", ["reference", "both"])
def test_sharded_references_give_the_numbers_of_one_device(sides, kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    spread = lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, jax.P("data")))
    query, reference = (QUERY if sides == "reference" else spread(QUERY)), spread(REFERENCE)
    sets = query, PERSON, reference, PERSONS

    found = knn(query, reference, 8, distance=DOT, ignore=SAME_CAMERA)
    np.testing.assert_array_equal(found.indices, expected_neighbors(JUNK, 8))
    scores = retrieval_metrics(*sets, distance=DOT, ignore=SAME_CAMERA)
    names = "mean_average_precision", "precision_at_1", "r_precision", "recall_at_3"
    calculator = AccuracyCalculator(names, distance=DOT)
    scores |= calculator.get_accuracy(*sets, ignore=SAME_CAMERA)
    for name, score in scores.items():
        np.testing.assert_allclose(score, EXPECTED[name], rtol=1e-6, err_msg=name)
    ranks = match_ranks(*sets, distance=DOT, ignore=SAME_CAMERA)
    np.testing.assert_array_equal(
        ranks, match_ranks(QUERY, PERSON, REFERENCE, PERSONS, distance=DOT, ignore=SAME_CAMERA)
    )
