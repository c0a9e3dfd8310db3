"""Verification, open sets and correlations: by definition, by scikit-learn and SciPy, by hand."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics
from sklearn.model_selection import KFold

from metricjax import evaluation, inference
from metricjax._core.tuning import CPU
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance
from metricjax.evaluation import _identification, _verification

DOT = DotProductSimilarity(normalize_embeddings=False)
EUCLIDEAN = LpDistance(normalize_embeddings=False)
quick = settings(derandomize=True, deadline=None, database=None, max_examples=40)


@pytest.fixture
def small_blocks(monkeypatch):
    sizes = dataclasses.replace(CPU, ref_chunk=(7, 5), search=(4, 6))
    for module in (_verification, _identification):
        monkeypatch.setattr(module, "block_sizes", lambda: sizes)


def drawn(n, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def whole(n, d=2, seed=0):
    """Whole numbers: products are exact, and many distances are equal."""
    return np.random.default_rng(seed).integers(-3, 4, (n, d)).astype(np.float32)


def all_pairs(x, labels, reference=None, ref_labels=None, *, distance):
    """All distances, and whether the labels are equal."""
    y, ref_labels = (x, labels) if reference is None else (reference, ref_labels)
    mat = np.asarray(jax.jit(_verification.rounded("test", distance))(x, y))
    kept = np.triu(np.ones(mat.shape, bool), 1) if reference is None else np.ones(mat.shape, bool)
    return mat[kept], (np.asarray(labels)[:, None] == np.asarray(ref_labels)[None, :])[kept]


# The examples of the specification.

MATCHES, IMPOSTORS = (0.9, 0.8, 0.5, 0.3), (0.7, 0.5, 0.5, 0.2, 0.1, 0.1, 0, 0, 0, 0)
LISTED = np.array(MATCHES + IMPOSTORS, np.float32), np.arange(14) < 4
FOLDS = np.arange(1, 9) / 10, np.array([1, 1, 0, 1, 1, 0, 0, 0])


def test_tar_by_hand():
    score, is_match = LISTED
    one = np.ones((1, 1), np.float32)
    pairs = (one, [1], score[:, None], is_match.astype(int))
    result = evaluation.tar_at_far(*pairs, far=(0, 0.1, 0.2, 0.3), distance=DOT)
    np.testing.assert_array_equal(result.tar, [0.5, 0.5, 0.5, 1])
    np.testing.assert_allclose(result.threshold, [0.7, 0.5, 0.5, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(result.far, [0, 0.1, 0.1, 0.3])
    assert (result.matches, result.impostors) == (4, 10)
    bars = np.array([0.7, 0.5, 0.5, 0.2], np.float32)
    assert (result.threshold > bars).all()  # they are impostors, and rejected
    for far, tar in zip((0, 0.1, 0.2, 0.3), result.tar, strict=True):
        assert inference.threshold_at_fmr(*LISTED, fmr=far, distance=DOT).tmr == tar
    assert inference.roc_auc(*LISTED, distance=DOT) == 0.875


def test_dir_by_hand():
    scores = np.array(
        [[0.9, 0.2, 0.3], [0.4, 0.6, 0.5], [0.2, 0.3, 0.45], [0.1, 0.55, 0.2], [0.5, 0.1, 0.2]],
        np.float32,
    )
    who = scores, [0, 1, 1, 7, 8], np.eye(3, dtype=np.float32), [0, 1, 1]
    result = evaluation.dir_at_fpir(*who, fpir=(0, 0.5, 1), ranks=(1, 2), distance=DOT)
    np.testing.assert_allclose(result.dir, [[2 / 3, 2 / 3], [2 / 3, 2 / 3], [1, 1]], rtol=1e-12)
    np.testing.assert_allclose(result.threshold, [0.55, 0.5, -np.inf], rtol=1e-6)
    np.testing.assert_array_equal(result.fpir, [0, 0.5, 1])
    assert (result.known, result.unknown) == (3, 2)


def test_folds_by_hand():
    result = inference.verification_accuracy(*FOLDS, folds=4, distance=EUCLIDEAN)
    np.testing.assert_array_equal(result.accuracies, [1, 0.5, 0.5, 1])
    assert (result.mean, result.std) == (0.75, 0.25)
    np.testing.assert_allclose(result.thresholds, [0.55, 0.55, 0.25, 0.55], rtol=1e-12)


@pytest.mark.parametrize(
    ("by", "threshold", "name", "value"),
    [
        ("accuracy", 0.55, "accuracy", 0.875),
        ("balanced_accuracy", 0.55, "balanced_accuracy", 0.875),
        ("f1", 0.55, "f1", 8 / 9),
        (("precision", 1), 0.25, "tmr", 0.5),
        (("precision", 0.8), 0.55, "tmr", 1),
        (("precision", 0.75), 0.55, "tmr", 1),
        (("fmr", 0), 0.25, "tmr", 0.5),
        (["fmr", 0.25], 0.55, "tmr", 1),
    ],
)
def test_thresholds_by_hand(by, threshold, name, value):
    for distances, is_match, distance in (
        (*FOLDS, EUCLIDEAN),
        (1 - FOLDS[0], FOLDS[1], DOT),
    ):
        point = inference.threshold(distances, is_match, by=by, distance=distance)
        want = 1 - threshold if distance is DOT else threshold
        assert point.threshold == pytest.approx(want, rel=1e-12)
        assert getattr(point, name) == pytest.approx(value, rel=1e-12)


def test_correlations_by_hand():
    scores, targets = (1, 2, 2, 4), (0.1, 0.3, 0.2, 0.2)
    assert evaluation.spearman(scores, targets) == pytest.approx(0.5, rel=1e-12)
    assert evaluation.pearson(scores, targets) == pytest.approx(0.3244428423, rel=1e-9)


# TAR at FAR

RATES = (0.0, 1e-3, 0.01, 0.05, 0.29, 0.5, 1.0)


@pytest.mark.parametrize(
    ("distance", "make", "apart"),
    [
        (DOT, whole, False),
        (EUCLIDEAN, whole, True),
        *(
            pytest.param(*setting, apart, marks=pytest.mark.slow)
            for setting in ((CosineSimilarity(), drawn), (LpDistance(), drawn), (DOT, whole))
            for apart in (False, True)
        ),
        pytest.param(SNRDistance(), drawn, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:evaluation.tar_at_far. `far` of 0.001 needs")
def test_tar_equals_the_curve_of_all_pairs(distance, make, apart, small_blocks):
    x, labels = make(33), np.random.default_rng(1).integers(0, 6, 33)
    args = (x, labels)
    if apart:
        args += make(24, seed=2), np.random.default_rng(3).integers(0, 6, 24)
    d, is_match = all_pairs(*args, distance=distance)
    result = evaluation.tar_at_far(*args, far=RATES, distance=distance)
    assert (result.matches, result.impostors) == (is_match.sum(), (~is_match).sum())
    score = d if distance.is_similarity else -d
    fmr, tmr, _ = metrics.roc_curve(is_match, score, drop_intermediate=False)
    for f, far in enumerate(RATES):
        assert result.tar[f] == tmr[fmr <= far].max()
        point = inference.threshold_at_fmr(d, is_match, fmr=far, distance=distance)
        assert point.tmr == result.tar[f]
        assert point.fmr <= result.far[f] <= far  # which may accept more impostors, but no match
        accepted = np.asarray(inference._pairs.within(d, result.threshold[f], distance))
        assert accepted[is_match].mean() == pytest.approx(result.tar[f], rel=1e-12)
        assert accepted[~is_match].mean() == pytest.approx(result.far[f], rel=1e-12)


def test_labels_of_any_kind_and_a_single_rate():
    x, labels = drawn(20), np.arange(20) % 4
    want = evaluation.tar_at_far(x, labels, far=0.1)
    names = [f"person {i}" for i in labels]
    for others in (names, labels.tolist(), labels + 2**40, jnp.asarray(labels), labels * 1.0):
        np.testing.assert_array_equal(evaluation.tar_at_far(x, others, far=[0.1]).tar, want.tar)
    reference = evaluation.tar_at_far(x[:9], names[:9], x[9:], names[9:], far=0.1)
    coded = evaluation.tar_at_far(x[:9], labels[:9], x[9:], labels[9:], far=0.1)
    assert reference.tar == coded.tar and reference.matches == coded.matches > 0


def test_tar_says_when_impostors_are_few():
    x, labels = drawn(20), np.arange(20) % 4
    with pytest.warns(
        UserWarning, match="`far` of 1e-06 needs at least 1000000 impostors, got 150"
    ):
        few = evaluation.tar_at_far(x, labels, far=(1e-6, 1e-3, 0.5))
    none = evaluation.tar_at_far(x, labels, far=0)
    assert few.tar[0] == few.tar[1] == none.tar[0] and few.far[0] == 0
    with warnings.catch_warnings(action="error"):
        evaluation.tar_at_far(x, labels, far=1 / 150)


@pytest.mark.parametrize(
    "distance", [CosineSimilarity(), pytest.param(LpDistance(), marks=pytest.mark.slow)]
)
def test_equal_samples_of_two_classes_are_accepted_by_no_threshold(distance, small_blocks):
    """Cosines of equal vectors are from 0.9999995 to 1.0000006, and count as 1."""
    x = np.repeat(drawn(10, 300), 2, 0) * np.linspace(0.1, 9, 20, dtype=np.float32)[:, None]
    labels = np.arange(20) // 4  # one copy in each of two pairs of classes
    labels[1] = 9
    result = evaluation.tar_at_far(x, labels, far=0, distance=distance)
    assert result.tar == 0 and result.impostors == 190 - result.matches
    d, _ = all_pairs(x, labels, distance=distance)
    assert not inference._pairs.within(d, result.threshold[0], distance).any()


@pytest.mark.parametrize("bar", [0.0, -np.finfo(np.float32).tiny, 1e-30, -1.0])
def test_thresholds_are_no_subnormal_numbers(bar):
    for similar in (True, False):
        (above,) = _verification.threshold_above(np.float32([bar]), np.array([False]), similar)
        above = above if similar else -above
        assert above > bar and (above == 0 or abs(above) >= np.finfo(np.float32).tiny)
        assert above <= max(0, np.nextafter(np.float32(bar), np.float32(1))) + 2e-38


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
def test_tar_of_millions_of_pairs(x64):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 300, 3000)
    x = rng.normal(size=(300, 16))[labels] + rng.normal(size=(3000, 16))
    with jax.enable_x64(x64):
        x = x.astype(float if x64 else np.float32)
        result = evaluation.tar_at_far(x, labels, far=(1e-6, 1e-4, 1e-2))
        assert result.threshold.dtype == x.dtype
        pairs = inference.pair_distances(x, labels, distance=CosineSimilarity(), max_pairs=10**7)
    impostors = np.sort(pairs.distances[~pairs.is_match])[::-1]
    for f, far in enumerate((1e-6, 1e-4, 1e-2)):
        bar = impostors[int(far * len(impostors))]
        np.testing.assert_allclose(result.threshold[f], bar, atol=1e-6)
        tmr = inference.threshold_at_fmr(*pairs, fmr=far).tmr
        assert result.tar[f] == pytest.approx(tmr, abs=1e-4)  # rounding of other products


keys_of = jax.jit(_verification._keys)
floats = hnp.arrays(
    np.float32,
    30,
    elements=st.floats(width=32, allow_nan=False, allow_subnormal=False),
)


@quick
@given(floats)
def test_keys_have_the_order_of_the_scores(x):
    keys = np.asarray(keys_of(x))
    assert keys.dtype == np.uint32 and keys.min() > 0
    np.testing.assert_array_equal(x[:, None] < x[None], keys[:, None] < keys[None])
    np.testing.assert_array_equal(_verification._from_keys(keys), x)
    assert (np.asarray(keys_of(x * np.float32(np.nan))) == 0).all()


@given(st.integers(1, 10**12), st.floats(0, 1))
@settings(derandomize=True, deadline=None, database=None)
def test_the_most_within_a_rate(count, rate):
    k = _verification.most_within(rate, count)
    assert k / count <= rate and (k == count or (k + 1) / count > rate)


def test_tiles_are_as_large_as_memory_allows_and_not_as_all_pairs():
    """The program of one tile holds tiles: 1,024 x 4,096 on a CPU, whatever the number of rows."""
    n = 2**17
    side = jax.ShapeDtypeStruct((n, 8), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    start, prefixes = (
        jax.ShapeDtypeStruct((2,), jnp.int32),
        jax.ShapeDtypeStruct((3,), jnp.uint32),
    )
    lowered = _verification._bins.lower(
        side, side, start, prefixes, jax.ShapeDtypeStruct((), jnp.uint32),
        shape=(n, n), sizes=CPU.ref_chunk, itself=True, distance=DOT,
    )  # fmt: skip
    tile = 4 * CPU.ref_chunk[0] * CPU.ref_chunk[1]
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 20 * tile


def test_tar_of_sharded_rows_is_that_of_one_device():
    x, labels = drawn(40), np.arange(40) % 5
    mesh = jax.make_mesh((8,), ("data",))
    sharded = jax.device_put((x, labels), jax.sharding.NamedSharding(mesh, jax.P("data")))
    apart = evaluation.tar_at_far(x[:15], labels[:15], x, labels, far=0.1)
    itself = evaluation.tar_at_far(x, labels, far=0.1)
    for got, want in (
        (evaluation.tar_at_far(x[:15], labels[:15], *sharded, far=0.1), apart),
        (evaluation.tar_at_far(*sharded, far=0.1), itself),
    ):
        np.testing.assert_equal(tuple(got), tuple(want))


# Open-set identification


def dir_by_loops(probe, ids, gallery, gallery_ids, fpir, ranks, distance):
    mat = np.asarray(jax.jit(_verification.rounded("test", distance))(probe, gallery))
    score = mat if distance.is_similarity else -mat
    subjects = sorted(set(gallery_ids))
    best = np.stack([score[:, gallery_ids == s].max(1) for s in subjects], 1)
    strangers = [best[i].max() for i in range(len(probe)) if ids[i] not in subjects]
    bars = sorted(strangers, reverse=True)
    result = np.zeros((len(fpir), len(ranks)))
    for f, rate in enumerate(fpir):
        bar = min(b for b in [*bars, -np.inf] if sum(s > b for s in strangers) <= rate * len(bars))
        for r, most in enumerate(ranks):
            hits = []
            for i in range(len(probe)):
                if ids[i] in subjects:
                    own = best[i, subjects.index(ids[i])]
                    rank = 1 + sum(best[i, j] >= own for j, s in enumerate(subjects) if s != ids[i])
                    hits.append(own > bar and rank <= most)
            result[f, r] = np.mean(hits)
    return result


@pytest.mark.parametrize(
    ("distance", "strangers"),
    [
        (DOT, True),
        (EUCLIDEAN, False),
        *(
            pytest.param(distance, strangers, marks=pytest.mark.slow)
            for distance in (EUCLIDEAN, CosineSimilarity())
            for strangers in (True, False)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:evaluation.dir_at_fpir. `fpir` of 0.01 needs")
def test_dir_equals_the_definition(distance, strangers, small_blocks):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        gallery, gallery_ids = whole(23, 3, seed), rng.integers(0, 8, 23)
        probe = whole(19, 3, seed + 10)
        ids = rng.integers(0, 11, 19) if strangers else rng.choice(gallery_ids, 19)
        if strangers:
            ids[:3] = 10, 9, gallery_ids[0]
        options = dict(fpir=(0, 0.01, 0.3, 0.5, 1), ranks=(1, 2, 8), distance=distance)
        want = dir_by_loops(probe, ids, gallery, gallery_ids, **options)
        result = evaluation.dir_at_fpir(probe, ids, gallery, gallery_ids, **options)
        np.testing.assert_allclose(result.dir, want, rtol=1e-12)
        assert result.known + result.unknown == 19 and (result.unknown > 0) == strangers
        assert (result.fpir <= options["fpir"]).all()
        names = [f"person {i}" for i in ids], [f"person {i}" for i in gallery_ids]
        again = evaluation.dir_at_fpir(probe, names[0], gallery, names[1], **options)
        np.testing.assert_array_equal(again.dir, result.dir)


def test_dir_without_strangers_is_the_closed_set():
    gallery, ids = drawn(10), np.arange(10)
    probe = gallery + 0.6 * drawn(10, seed=1)
    with warnings.catch_warnings(action="error"):
        result = evaluation.dir_at_fpir(probe, ids, gallery, ids, fpir=0.01, ranks=(1, 10))
    _, nearest = evaluation.knn(probe, gallery, 1, distance=CosineSimilarity())
    assert result.dir[0, 0] == pytest.approx(np.mean(nearest[:, 0] == ids)) and 0 < result.dir[0, 0]
    assert result.dir[0, 1] == 1 and result.threshold == -np.inf and result.unknown == 0


def test_dir_says_when_strangers_are_few():
    gallery, ids = drawn(4), np.arange(4)
    with pytest.warns(UserWarning, match="`fpir` of 0.01 needs at least 100 unknown probes, got 1"):
        evaluation.dir_at_fpir(drawn(3), [0, 1, 7], gallery, ids)


# Templates


def test_templates_are_unit_means():
    x, ids = drawn(30), np.random.default_rng(1).integers(0, 5, 30)
    quality = np.random.default_rng(2).random(30).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for weights, used in ((None, np.ones(30)), (quality, quality)):
        got = evaluation.templates(x, [f"id {i}" for i in ids], weights)
        want = np.stack([(unit * used[:, None])[ids == i].sum(0) for i in range(5)])
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        np.testing.assert_allclose(got.embeddings, want, rtol=1e-5, atol=1e-6)
        assert got.ids.tolist() == [f"id {i}" for i in range(5)]
    of_norms = evaluation.templates(x, ids, np.linalg.norm(x, axis=1)).embeddings
    means = np.stack([x[ids == i].mean(0) for i in range(5)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(of_norms, means, rtol=1e-5, atol=1e-6)


def test_rows_of_weight_0_make_no_template():
    x = drawn(5)
    x[1] = np.nan
    got = evaluation.templates(x, [3, 1, 3, 2, 2], [1, 0, 0, 0.5, 2])
    assert got.ids.tolist() == [2, 3]
    np.testing.assert_allclose(got.embeddings[1], x[0] / np.linalg.norm(x[0]), rtol=1e-6)
    assert evaluation.templates(drawn(0), []).embeddings.shape == (0, 4)


# Thresholds

distances_of_pairs = hnp.arrays(
    np.float32, st.integers(2, 12), elements=st.sampled_from([0, 0.1, 0.2, 0.3, 0.4, np.inf])
)


@quick
@given(distances_of_pairs, st.data())
def test_every_criterion_by_trying_every_threshold(d, data):
    is_match = np.array(data.draw(st.permutations([True, False] * len(d)))[: len(d)])
    is_match[:2] = True, False
    tried = [-np.inf, *np.unique(d)]
    accepted = [d <= t for t in tried]
    tp, fp = np.array([(sum(a & is_match), sum(a & ~is_match)) for a in accepted]).T
    recall, fmr = tp / is_match.sum(), fp / (~is_match).sum()
    precision = np.where(tp + fp, tp / np.maximum(tp + fp, 1), 1)
    accuracy, balanced = (tp + (~is_match).sum() - fp) / len(d), (recall + 1 - fmr) / 2
    f1 = 2 * tp / (tp + fp + is_match.sum())
    for by, value, score in (
        ("accuracy", "accuracy", accuracy),
        ("balanced_accuracy", "balanced_accuracy", balanced),
        ("f1", "f1", f1),
        (("precision", 0.6), "tmr", np.where(precision >= 0.6, recall, -1)),
        (("precision", 1.0), "tmr", np.where(precision >= 1, recall, -1)),
        (("fmr", 0.3), "tmr", np.where(fmr <= 0.3, recall, -1)),
    ):
        point = inference.threshold(d, is_match, by=by, distance=EUCLIDEAN)
        assert getattr(point, value) == pytest.approx(score.max(), rel=1e-12)
        strictest = int(np.argmax(score > score.max() - 1e-9))
        assert sum(d <= np.float32(point.threshold)) == sum(accepted[strictest])
        for name, rate in (("accuracy", accuracy), ("balanced_accuracy", balanced), ("fmr", fmr)):
            assert getattr(point, name) == pytest.approx(rate[strictest], rel=1e-12)


def test_old_thresholds_are_criteria():
    pairs = inference.pair_distances(drawn(30), np.arange(30) % 3)
    assert inference.best_threshold(*pairs) == inference.threshold(*pairs)
    at = inference.threshold_at_fmr(*pairs, fmr=0.1)
    assert at == inference.threshold(*pairs, by=("fmr", 0.1))
    assert inference.operating_point(*pairs, threshold=at.threshold) == at


def test_det_curve_is_the_roc_curve_upside_down():
    pairs = inference.pair_distances(drawn(30), np.arange(30) % 3)
    det, roc = inference.det_curve(*pairs), inference.roc_curve(*pairs)
    np.testing.assert_array_equal(det.fmr, roc.fmr)
    np.testing.assert_array_equal(det.thresholds, roc.thresholds)
    fmr, fnmr, _ = metrics.det_curve(pairs.is_match, -pairs.distances)
    ours = {(round(a, 9), round(b, 9)) for a, b in zip(det.fmr, det.fnmr, strict=True)}
    assert {(round(a, 9), round(b, 9)) for a, b in zip(fmr, fnmr, strict=True)} <= ours


# Folds


def lfw(distances, is_match, grid, folds):
    """The protocol as the authors of benchmarks write it."""
    accuracies, chosen = [], []
    for train, test in KFold(folds, shuffle=False).split(distances):
        right = [np.mean((distances[train] < t) == is_match[train]) for t in grid]
        chosen.append(grid[np.argmax(right)])
        accuracies.append(np.mean((distances[test] < chosen[-1]) == is_match[test]))
    return np.array(accuracies), chosen


@pytest.mark.parametrize(("n", "folds"), [(600, 10), (103, 10), (7, 3)])
def test_folds_with_a_grid(n, folds):
    rng = np.random.default_rng(n)
    is_match = np.arange(n) % 2 == 0
    d = np.round(rng.random(n) * 2 + ~is_match, 2)  # often exactly on the grid
    grid = np.arange(0, 4, 0.01)
    accuracies, chosen = lfw(d, is_match, grid, folds)
    how = dict(folds=folds, thresholds=grid)
    result = inference.verification_accuracy(d, is_match, distance=EUCLIDEAN, **how)
    np.testing.assert_array_equal(result.thresholds, chosen)
    np.testing.assert_allclose(result.accuracies, accuracies, rtol=1e-12)
    assert result.mean == pytest.approx(accuracies.mean())
    assert result.std == pytest.approx(accuracies.std())
    how["thresholds"] = -grid[::-1]
    similar = inference.verification_accuracy(-d, is_match, distance=DOT, **how)
    np.testing.assert_array_equal(similar.thresholds, -np.array(chosen))
    np.testing.assert_array_equal(similar.accuracies, result.accuracies)


@pytest.mark.parametrize("distance", [EUCLIDEAN, DOT])
def test_folds_with_every_threshold(distance):
    rng = np.random.default_rng(0)
    is_match, weights = rng.random(50) < 0.5, rng.integers(0, 3, 50).astype(float)
    d = (rng.random(50) + ~is_match).astype(np.float32)
    d = d if distance is EUCLIDEAN else -d
    result = inference.verification_accuracy(d, is_match, weights, folds=7, distance=distance)
    for fold, (train, test) in enumerate(KFold(7).split(d)):
        best = inference.threshold(
            d[train], is_match[train], weights[train], by="accuracy", distance=distance
        )
        assert result.thresholds[fold] == best.threshold
        accepted = d[test] <= best.threshold if distance is EUCLIDEAN else d[test] >= best.threshold
        right = np.average(accepted == is_match[test], weights=weights[test])
        assert result.accuracies[fold] == pytest.approx(right, rel=1e-12)


# Correlations


@pytest.mark.parametrize("seed", range(4))
def test_correlations_equal_scipy(seed):
    rng = np.random.default_rng(seed)
    scores, targets = rng.normal(size=50).round(seed % 2 + 1), rng.integers(0, 6, 50)
    for ours, theirs in (
        (evaluation.pearson, stats.pearsonr),
        (evaluation.spearman, stats.spearmanr),
    ):
        for t in (targets, scores + 0.5 * targets, scores, -scores * 1e200):
            assert ours(scores, t) == pytest.approx(theirs(scores, t).statistic, abs=1e-12)
        assert ours(jnp.asarray(scores, jnp.float32), targets) == pytest.approx(
            theirs(np.float32(scores).astype(float), targets).statistic, abs=1e-9
        )
        counts = rng.integers(0, 3, 50)
        repeated = theirs(np.repeat(scores, counts), np.repeat(targets, counts)).statistic
        assert ours(scores, targets, counts) == pytest.approx(repeated, abs=1e-12)
        assert ours(scores, targets, 0.1 * counts) == pytest.approx(repeated, abs=1e-12)


def test_a_constant_side_has_correlation_0():
    for function in (evaluation.pearson, evaluation.spearman):
        assert function([0.1] * 3, [1, 2, 3]) == function([1, 2, 3], [0.1] * 3) == 0
        assert function([0.1, 0.1, np.nan], [1, 2, 3], [1, 1, 0]) == 0


# Errors

X, Y = drawn(4), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda: evaluation.tar_at_far(X, Y, X), ValueError, "`reference_labels` must be given"),
        (
            lambda: evaluation.tar_at_far(X, Y, reference_labels=Y),
            ValueError,
            "`reference` must be given",
        ),
        (lambda: evaluation.tar_at_far(X, Y[:3]), ValueError, r"`labels` must have shape \[4\]"),
        (lambda: evaluation.tar_at_far(X, Y, X[:, :2], Y), ValueError, "must have 4 features"),
        (lambda: evaluation.tar_at_far(X, [0] * 4), ValueError, "6 matches and 0 impostors"),
        (lambda: evaluation.tar_at_far(X, [0, 1, 2, 3]), ValueError, "0 matches and 6 impostors"),
        (lambda: evaluation.tar_at_far(X[:0], []), ValueError, "0 matches and 0 impostors"),
        (lambda: evaluation.tar_at_far(X, Y, far=1.5), ValueError, "from 0 to 1, got 1.5"),
        (lambda: evaluation.tar_at_far(X, Y, far=np.nan), ValueError, "from 0 to 1, got nan"),
        (lambda: evaluation.tar_at_far(X, Y, far=[]), ValueError, r"shape \[F\]"),
        (lambda: evaluation.tar_at_far(X, Y, far="1"), TypeError, "`far` must be numbers"),
        (
            lambda: evaluation.tar_at_far(X, Y, X, list("aabb")),
            TypeError,
            "of the kind of `labels`",
        ),
        (lambda: evaluation.tar_at_far(X, Y, distance=LpDistance), TypeError, "`distance` must be"),
        (lambda: evaluation.tar_at_far(X.astype(int), Y), TypeError, "must be floating"),
        (lambda: evaluation.tar_at_far(X * np.nan, Y, far=0), ValueError, "no NaN distance, got 6"),
        (
            lambda: evaluation.dir_at_fpir(X, Y, X, [5, 6, 7, 8]),
            ValueError,
            "must have ids that are in `gallery_ids`, got none",
        ),
        (
            lambda: evaluation.dir_at_fpir(X, Y, X, list("aabb")),
            TypeError,
            "`gallery_ids` must be of the kind of `probe_ids`",
        ),
        (lambda: evaluation.dir_at_fpir(X, Y, X[:, :2], Y), ValueError, "`gallery` must have 4 fe"),
        (
            lambda: evaluation.dir_at_fpir(X, Y, X, Y, ranks=0),
            ValueError,
            "`ranks` must be an integer >= 1",
        ),
        (lambda: evaluation.dir_at_fpir(X, Y, X, Y, fpir=-1), ValueError, "`fpir` must be from 0"),
        (
            lambda: evaluation.dir_at_fpir(X, Y, X * np.nan, Y),
            ValueError,
            "no NaN distance, got some for 4 of 4",
        ),
        (lambda: evaluation.templates(X, Y, [1, 1, 1]), ValueError, r"`weights` must have shape"),
        (lambda: evaluation.templates(X, Y, [1, 1, 1, -1]), ValueError, "negative ones"),
        (lambda: evaluation.templates(X, Y, X), ValueError, r"got shape \(4, 4\)"),
        (lambda: evaluation.templates(X, Y[:3]), ValueError, r"`ids` must have shape \[4\]"),
        (
            lambda: inference.threshold(*FOLDS, by="recall", distance=EUCLIDEAN),
            ValueError,
            "`by` must be 'accuracy'.*got 'recall'",
        ),
        (
            lambda: inference.threshold(*FOLDS, by=("precision", 2), distance=EUCLIDEAN),
            ValueError,
            "`by` must have a precision from 0 to 1, got 2",
        ),
        (
            lambda: inference.threshold(*FOLDS, by=("fmr", "1"), distance=EUCLIDEAN),
            TypeError,
            "`by` must be one number",
        ),
        (
            lambda: inference.verification_accuracy(*FOLDS, distance=EUCLIDEAN),
            ValueError,
            "`folds` must be an integer from 2 to the 8 pairs, got 10",
        ),
        (
            lambda: inference.verification_accuracy(
                *FOLDS, np.arange(8) < 6, folds=4, distance=EUCLIDEAN
            ),
            ValueError,
            "only 0 in fold 3",
        ),
        (
            lambda: inference.verification_accuracy(
                *FOLDS, folds=4, thresholds=[np.nan], distance=EUCLIDEAN
            ),
            ValueError,
            r"`thresholds` must be \[T\] numbers",
        ),
        (lambda: evaluation.pearson([1], [1]), ValueError, "at least 2 pairs, got 1"),
        (lambda: evaluation.pearson([1, 2], [1]), ValueError, r"`targets` must have shape \[2\]"),
        (lambda: evaluation.pearson([[1, 2]], [1]), ValueError, r"`scores` must have shape \[P\]"),
        (lambda: evaluation.pearson([1, np.inf], [1, 2]), ValueError, "`scores` must be finite"),
        (lambda: evaluation.spearman([1, 2], [1, 2], [1, -1]), ValueError, "got -1"),
        (lambda: evaluation.spearman(["1", "2"], [1, 2]), TypeError, "`scores` must be numbers"),
    ],
)
def test_errors(call, error, complaint):
    with pytest.raises(error, match=complaint) as caught:
        call()
    assert len(str(caught.value)) < 400
