"""The index against a rebuild by brute force, its file against damage, thresholds by definition."""

import json
import resource
import warnings
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from metricjax import inference
from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)

EUCLIDEAN = LpDistance(normalize_embeddings=False)
quick = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def drawn(n, d=4, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def same(index, other):
    assert index.embeddings.dtype == other.embeddings.dtype
    np.testing.assert_array_equal(index.embeddings, other.embeddings, strict=True)
    np.testing.assert_array_equal(index.ids, other.ids)
    np.testing.assert_array_equal(index.labels, other.labels)
    assert index.distance == other.distance
    return True


# Searching

points = st.tuples(*[st.integers(-3, 3)] * 2)
steps = st.lists(st.one_of(st.lists(points, max_size=3), st.floats(0, 1)), max_size=8)


@quick
@given(steps, st.sampled_from([1, 2, 3]))
def test_adding_and_removing_equals_a_rebuild(steps, k):
    index, kept, next_id = inference.Index(np.zeros((0, 2), np.float32), distance=EUCLIDEAN), {}, 0
    for step in steps:
        if isinstance(step, list):  # points to add
            new = dict(enumerate(step, start=next_id))
            next_id += len(new)
            x = np.array(list(new.values()), np.float32).reshape(-1, 2)
            index, kept = index.add(x, list(new)), kept | new
        elif kept:  # which to remove
            gone = list(kept)[int(step * (len(kept) - 1))]
            index = index.remove(gone)
            del kept[gone]
    assert index.ids.tolist() == list(kept)
    x = np.array(list(kept.values()), np.float32).reshape(-1, 2)
    same(index, inference.Index(x, list(kept), distance=EUCLIDEAN))
    query = np.array([[0, 0], [1, -2], [3, 3]], np.float32)
    squared = np.sum((query[:, None] - x[None]) ** 2, -1)
    np.testing.assert_array_equal(index.matches(query, 2.0), squared <= 4)
    if len(kept) < k:
        with pytest.raises(ValueError, match=f"index's size {len(kept)}, got {k}"):
            index.nearest(query, k)
    else:
        distances, ids = index.nearest(query, k)
        rows = np.argsort(squared, 1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ids, np.array(list(kept))[rows])
        np.testing.assert_allclose(distances**2, np.take_along_axis(squared, rows, 1), rtol=1e-6)


def test_searching_everything_never_repeats():
    x = np.repeat(drawn(3), 6, 0)  # with duplicates
    index = inference.Index(x, [f"image {i}" for i in range(18)])
    _, ids = index.nearest(x, 18)
    assert all(len(set(row)) == 18 for row in ids.tolist())


def test_growing_by_one_compiles_nothing():
    traces = []

    class Counted:
        is_similarity = False

        def __call__(self, x, y):
            traces.append(1)
            return EUCLIDEAN(x, y)

    index = inference.Index(drawn(33), distance=Counted())
    for _ in range(4):
        index.nearest(drawn(5), 2), index.matches(drawn(5), 1.0)
        index = index.add(drawn(4))
        traces.append("grown")
    assert traces.index("grown") == len(traces) - 4  # traced the first time only


def test_an_index_does_not_change():
    x = drawn(5)
    index = inference.Index(x)
    before = index.embeddings.copy()
    x[:] = 0
    index.add(drawn(2)), index.remove([0])
    np.testing.assert_array_equal(index.embeddings, before)
    with pytest.raises(ValueError, match="read-only"):
        index.embeddings[0] = 0
    with pytest.raises(AttributeError):
        index.distance = EUCLIDEAN
    assert len(index) == 5
    assert "5 embeddings of 4 float32 features" in repr(index)


def test_labels_go_along():
    index = inference.Index(drawn(3), ["a", "b", "c"], labels=[7, 8, 7])
    index = index.add(drawn(1, seed=1), ["d"], labels=[9]).remove("b")
    assert index.labels_of(index.ids).tolist() == [7, 7, 9]
    assert index.labels_of([["d", "a"]]).tolist() == [[9, 7]]
    _, ids = index.nearest(drawn(3), 1)
    assert index.labels_of(ids).tolist() == [[7], *index.labels_of(ids)[1:].tolist()]
    names = inference.Index(drawn(2), labels=["x", "longer"])
    assert names.labels_of([1, 0]).tolist() == ["longer", "x"]


def test_ids_continue_from_the_largest():
    index = inference.Index(drawn(3), [5, 2, 9]).add(drawn(2))
    assert index.ids.tolist() == [5, 2, 9, 10, 11]
    assert inference.Index(drawn(0)).add(drawn(2)).ids.tolist() == [0, 1]
    last = 2**63 - 1
    assert inference.Index(drawn(1), [last - 2]).add(drawn(2)).ids.tolist()[1:] == [last - 1, last]
    assert len(inference.Index(drawn(1), [last]).add(drawn(0))) == 1
    for start, n in ((last, 1), (last - 2, 3)):
        with pytest.raises(ValueError, match=f"`ids` must be given, .* the largest, {start}"):
            inference.Index(drawn(1), [start]).add(drawn(n))
    assert inference.Index(drawn(0)).add(drawn(1), ["a"]).ids.tolist() == ["a"]
    assert inference.Index(drawn(1), ["a"]).remove(["a"]).remove([]).ids.tolist() == []


def test_an_empty_index_matches_nothing():
    assert inference.Index(drawn(0)).matches(drawn(3), 9.0).shape == (3, 0)
    assert inference.Index(drawn(3)).matches(drawn(0), 9.0).shape == (0, 3)
    assert inference.Index(drawn(3)).nearest(drawn(0), 2).ids.shape == (0, 2)


@pytest.mark.parametrize(
    ("distance", "threshold"),
    [
        (CosineSimilarity(), 0.3),
        pytest.param(DotProductSimilarity(normalize_embeddings=False), 0.5, marks=pytest.mark.slow),
        pytest.param(LpDistance(), 1.1, marks=pytest.mark.slow),
        (LpDistance(p=1, power=2, normalize_embeddings=False), 9.0),
        pytest.param(SNRDistance(), 1.5, marks=pytest.mark.slow),
    ],
)
def test_matches_agree_row_by_row_with_the_matrix(distance, threshold):
    x, y = drawn(7), drawn(7, seed=1)
    index = inference.Index(y, distance=distance)
    whole = index.matches(x, threshold)
    mat = np.asarray(jax.jit(distance)(x, y))
    assert np.abs(mat - threshold).min() > 1e-3  # no matter of rounding
    np.testing.assert_array_equal(
        whole, mat >= threshold if distance.is_similarity else mat <= threshold
    )
    np.testing.assert_array_equal(index.match(x, y, threshold), np.diag(whole))
    assert 0 < whole.mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("distance", [CosineSimilarity(), DotProductSimilarity()])
def test_equal_vectors_match_at_a_cosine_of_one(distance):
    """In float32 their cosines are from 0.9999995 to 1.0000006."""
    x = drawn(200, 700)
    scaled = x * np.random.default_rng(1).uniform(0.01, 100, (200, 1)).astype(np.float32)
    raw = np.diag(np.asarray(distance(jnp.asarray(x), jnp.asarray(scaled))))
    assert raw.min() < 1 < raw.max()
    index = inference.Index(x, distance=distance)
    np.testing.assert_array_equal(index.matches(scaled, 1.0), np.eye(200))
    assert index.match(x, scaled, 1.0).all() and not index.match(x, scaled, 1.001).any()
    assert index.match(x, -scaled, -1.0).all() and not index.match(x, -scaled, -0.99).any()
    assert (index.nearest(scaled, 1).distances == 1).all()
    faiss = inference.Index(x, distance=distance, backend="faiss")
    assert (faiss.nearest(scaled, 1).distances == 1).all()
    pairs = inference.pair_distances(
        np.concatenate([x, scaled]), np.arange(400) % 200, distance=distance
    )
    assert (pairs.distances[pairs.is_match] == 1).all()
    assert pairs.distances[~pairs.is_match].max() < 0.5
    apart = np.float32([[1, 0], [np.cos(0.003), np.sin(0.003)]])  # equal to nobody else
    assert inference.Index(apart, distance=distance).nearest(apart, 2).distances[:, 1].max() < 1


@pytest.mark.slow
def test_match_normalizes():
    """PML's `is_match` says no here, and its `get_matching_pairs` yes."""
    x, y = jnp.array([[2.0, 0.0]]), jnp.array([[0.1, 0.0]])
    assert inference.match(x, y, 0.9, distance=CosineSimilarity())
    assert inference.Index(y, distance=CosineSimilarity()).matches(x, 0.9)


def test_match_is_a_pure_function():
    x, y = jnp.asarray(drawn(5)), jnp.asarray(drawn(5, seed=1))
    calls = []

    @jax.jit
    def jitted(x, y, threshold):
        calls.append(1)
        return inference.match(x, y, threshold)

    for threshold in (0.5, 1.0, 1.5):
        want = inference.match(x, y, threshold)
        np.testing.assert_array_equal(jitted(x, y, threshold), want)
    assert len(calls) == 1
    batched = jax.jit(jax.vmap(inference.match, (None, None, 0)))(x, y, jnp.array([0.5, 1.5]))
    np.testing.assert_array_equal(batched[1], want)
    assert not inference.match(x.at[0].set(jnp.nan), y, 9.0)[0]
    assert inference.match(x.astype(jnp.bfloat16), y, 9.0).all()


def test_nan_and_infinity_stay_visible():
    x = drawn(4)
    x[1] = np.nan
    distances, ids = inference.Index(x).nearest(drawn(2), 4)
    assert (ids[:, -1] == 1).all() and np.isnan(distances[:, -1]).all()
    assert np.isfinite(distances[:, :-1]).all()
    far = inference.Index(np.full((2, 4), 1e30, np.float32), distance=EUCLIDEAN)
    distances, ids = far.nearest(drawn(1), 2)
    assert np.isinf(distances).all() and sorted(ids[0]) == [0, 1]
    with pytest.raises(ValueError, match="must be finite"):
        inference.Index(drawn(4), backend="faiss").nearest(x, 1)


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda i: inference.Index(drawn(2)[0]), ValueError, r"must have shape \[N, D\]"),
        (lambda i: inference.Index(np.ones((2, 2), int)), TypeError, "must be floating"),
        (lambda i: inference.Index(drawn(2), [1]), ValueError, r"`ids` must have shape \[2\]"),
        (lambda i: inference.Index(drawn(2), [1, 1]), ValueError, "got 1 twice"),
        (lambda i: inference.Index(drawn(2), ["a", "a"]), ValueError, "got 'a' twice"),
        (lambda i: inference.Index(drawn(2), [1, "a"]), TypeError, "integers or strings"),
        (lambda i: inference.Index(drawn(2), [0.5, 1.5]), TypeError, "integers or strings"),
        (lambda i: inference.Index(drawn(2), [None, "a"]), TypeError, "integers or strings"),
        (lambda i: inference.Index(drawn(1), np.array([2**64 - 1])), ValueError, "to 2"),
        (lambda i: inference.Index(drawn(2), labels=[1]), ValueError, "`labels` must have shape"),
        (lambda i: inference.Index(drawn(2), [[1], [2]]), ValueError, r"shape \[2\] to match"),
        (lambda i: inference.Index(drawn(2), labels=[[1], [2]]), ValueError, "one integer or str"),
        (lambda i: inference.Index(drawn(2), [[1], [2, 3]]), TypeError, "of unequal lengths"),
        (lambda i: inference.Index(drawn(2), ["a\0", "a"]), ValueError, "end in a zero character"),
        (
            lambda i: inference.Index(drawn(2), np.array(["a\0", "a"], object)),
            ValueError,
            "end in a zero character",
        ),
        (lambda i: i.add(drawn(1), ["a\0"]), ValueError, "end in a zero character"),
        (lambda i: i.remove("a\0"), ValueError, "end in a zero character"),
        (lambda i: i.remove([["a", 1]]), TypeError, "got int and str"),
        (lambda i: inference.Index(drawn(2), distance=LpDistance), TypeError, "Pass an instance"),
        (lambda i: inference.Index(drawn(2), distance="cosine"), TypeError, "got cosine"),
        (
            lambda i: i.matches(drawn(2), "0.5"),
            TypeError,
            "`threshold` must be one number, got str",
        ),
        (lambda i: i.matches(drawn(2), [0.5, 1]), TypeError, r"got shape \(2,\)"),
        (lambda i: i.match(drawn(2), drawn(2), None), TypeError, "got NoneType"),
        (lambda i: inference.Index(drawn(2), backend="gpu"), ValueError, "'jax', 'faiss'"),
        (lambda i: i.add(drawn(1), ["a"]), ValueError, "got 'a' twice"),
        (lambda i: i.add(drawn(1)), ValueError, "`ids` are needed"),
        (lambda i: i.add(drawn(1), [1]), TypeError, "must be strings"),
        (lambda i: i.add(drawn(1), ["c"], labels=[1]), ValueError, "got some"),
        (lambda i: i.add(drawn(1, 5), ["c"]), ValueError, "4 features"),
        (lambda i: i.add(drawn(1, dtype=np.float16), ["c"]), TypeError, "as the index is"),
        (lambda i: i.remove(["a", "z"]), ValueError, "got 'z'"),
        (lambda i: i.remove([0]), ValueError, "got 0"),
        (lambda i: i.labels_of(["a"]), ValueError, "must have labels"),
        (lambda i: i.nearest(drawn(1), 3), ValueError, "at most the index's size 2, got 3"),
        (lambda i: i.nearest(drawn(1), 0), ValueError, "integer >= 1"),
        (lambda i: i.nearest(drawn(1, 5), 1), ValueError, "`query` must have 4 features"),
        (lambda i: i.match(drawn(2), drawn(3), 1.0), ValueError, "`y` must have shape"),
    ],
)
def test_errors(call, error, complaint):
    with pytest.raises(error, match=complaint):
        call(inference.Index(drawn(2), ["a", "b"]))


# FAISS


@pytest.mark.slow
@pytest.mark.parametrize(
    "distance",
    [
        LpDistance(),
        LpDistance(power=2, normalize_embeddings=False),
        CosineSimilarity(),
        DotProductSimilarity(normalize_embeddings=False),
    ],
)
def test_faiss_finds_the_same(distance):
    x, query = drawn(50, 16), drawn(7, 16, seed=1)
    ours = inference.Index(x, distance=distance)
    theirs = inference.Index(x, distance=distance, backend="faiss")
    for _ in range(2):
        want, got = ours.nearest(query, 5), theirs.nearest(query, 5)
        np.testing.assert_array_equal(got.ids, want.ids)
        np.testing.assert_allclose(got.distances, want.distances, rtol=1e-4, atol=1e-5)
        ours, theirs = (i.remove(got.ids[:, 0]).add(query[:2] + 0.1) for i in (ours, theirs))
    assert theirs.nearest(query, len(theirs)).ids.shape == (7, len(theirs))
    with pytest.raises(ValueError, match="index's size"):
        theirs.nearest(query, len(theirs) + 1)


def test_faiss_knows_few_distances(monkeypatch):
    for distance in (SNRDistance(), LpDistance(p=1)):
        with pytest.raises(TypeError, match="for FAISS"):
            inference.Index(drawn(2), distance=distance, backend="faiss")
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[faiss\]'"):
        inference.Index(drawn(2), backend="faiss")


# Files


def saved(tmp_path):
    path = tmp_path / "gallery"
    index = inference.Index(drawn(3, 5), ["a", "b", "ü"], labels=[3, 1, 2])
    index.save(path)
    return path, index


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_file_keeps_everything(dtype, tmp_path):
    x = drawn(5).astype(jnp.dtype(dtype))
    for index in (
        inference.Index(x),
        inference.Index(x, range(5), labels=list("abcde"), distance=CosineSimilarity()),
        inference.Index(x[:0], distance=SNRDistance(normalize_embeddings=False)),
        inference.Index(x, distance=LpDistance(p=float("inf"), precision=jax.lax.Precision.HIGH)),
    ):
        index.save(tmp_path / "gallery")
        assert same(inference.Index.load(tmp_path / "gallery"), index)
    assert [p.name for p in tmp_path.iterdir()] == ["gallery"]
    inference.Index(x).save(tmp_path / "other")
    assert inference.Index.load(tmp_path / "other", backend="faiss").backend == "faiss"


@pytest.mark.slow
def test_truncated_files_are_refused(tmp_path):
    path, _ = saved(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="must be a file written by `Index.save`"):
            inference.Index.load(path)


@pytest.mark.slow
def test_a_changed_byte_is_noticed_or_harmless(tmp_path):
    path, index = saved(tmp_path)
    whole, refused = path.read_bytes(), 0
    with warnings.catch_warnings(action="ignore"):
        for place in range(len(whole)):
            for bits in (0xFF, 0x01):
                damaged = bytearray(whole)
                damaged[place] ^= bits
                path.write_bytes(damaged)
                try:
                    assert same(inference.Index.load(path), index)
                except ValueError as error:
                    assert "written by `Index.save`" in str(error)
                    refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize("rows", [4, 10**9, 10**15, 10**30])
def test_a_shape_that_grew_is_noticed(rows, tmp_path):
    """numpy would allocate it first. The checksum is right."""
    path, _ = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header, values = members["embeddings.npy"].split(b"\n", 1)
    grown = header.replace(b"(3, 5)", b"(%d, 5)" % rows).rstrip().ljust(len(header))
    members["embeddings.npy"] = grown + b"\n" + values
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"embeddings.npy says that it is \(|expected 80 bytes"):
        inference.Index.load(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"p": "2"}, {"p": True}, {"p": float("nan")}, {"p": -1}, {"p": None}, {"power": [1]},
        {"normalize_embeddings": "no"}, {"normalize_embeddings": 0}, {"precision": "exact"},
        {"extra": 1}, {"power": ...},
    ],
)  # fmt: skip
def test_a_distance_of_other_fields_is_refused(fields, tmp_path):
    path, index = saved(tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].item())
    changed = about["distance"]["fields"] | fields
    about["distance"]["fields"] = {x: y for x, y in changed.items() if y is not ...}
    with open(path, "wb") as file:
        np.savez(file, **arrays | {"about": np.array(json.dumps(about))})
    with pytest.raises(ValueError, match=f"written by `Index.save`.*({next(iter(fields))}|exact)"):
        inference.Index.load(path)


def test_a_shape_that_shrank_is_noticed(tmp_path):
    path = tmp_path / "gallery"
    inference.Index(drawn(4000, 5)).save(path)
    whole = path.read_bytes()
    assert whole.count(b"(4000, 5)") == 1
    path.write_bytes(whole.replace(b"(4000, 5)", b"(4000, 4)"))
    with pytest.raises(ValueError, match="embeddings.npy is damaged"):
        inference.Index.load(path)


@quick
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "foreign"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="written by `Index.save`"):
        inference.Index.load(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign"
    later = '{"format": "metricjax.inference.Index", "version": 3}'
    other = '{"format": "other", "version": 1}'
    for arrays, complaint in (
        ({"weights": drawn(2)}, "of another kind"),
        ({"about": np.array(other)}, "of another kind"),
        ({"about": np.array(later)}, "its version is 3, and this metricjax reads up to 2"),
        ({"about": np.array([{}], object)}, "written by"),  # a pickle, never opened
    ):
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(ValueError, match=complaint):
            inference.Index.load(path)
    with pytest.raises(FileNotFoundError):
        inference.Index.load(tmp_path / "nothing")


@pytest.mark.parametrize("limit", [0, 100, 1000, 100_000])
def test_a_write_that_fails_loses_nothing(limit, tmp_path):
    path, index = saved(tmp_path)
    large = inference.Index(drawn(10_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as if the disk were full
    try:
        with pytest.raises(OSError, match="File too large"):
            large.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(inference.Index.load(path), index)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_save_loses_nothing(step, tmp_path, monkeypatch):
    path, index = saved(tmp_path)

    def interrupted(*_):
        assert same(inference.Index.load(path), index)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"os.{step}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inference.Index(drawn(9)).save(path)
    assert same(inference.Index.load(path), index)
    assert list(tmp_path.iterdir()) == [path]


def test_saving_keeps_links_and_modes(tmp_path):
    path, _ = saved(tmp_path)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    inference.Index(drawn(9)).save(link)
    assert link.is_symlink() and len(inference.Index.load(path)) == 9
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_distance_of_ones_own_cannot_be_saved(tmp_path):
    class Own:
        is_similarity = True

    with pytest.raises(TypeError, match="must be one of metricjax.distances"):
        inference.Index(drawn(2), distance=Own()).save(tmp_path / "gallery")
    assert not list(tmp_path.iterdir())


# Thresholds


def pairs_of(seed, n=200, levels=20):
    """Distances with many ties, matches smaller than others."""
    rng = np.random.default_rng(seed)
    is_match = rng.random(n) < 0.3
    d = np.round((rng.random(n) + rng.random(n) + ~is_match) * levels) / levels
    return d.astype(np.float32), is_match, rng.integers(0, 3, n).astype(float)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distance", [LpDistance(), CosineSimilarity()])
@pytest.mark.parametrize("seed", range(3))
def test_curves_equal_scikit_learn(seed, distance, weighted):
    d, is_match, weights = pairs_of(seed)
    weights = weights if weighted else None
    d, score = (d, -d) if not distance.is_similarity else (-d, -d)
    options = dict(weights=weights, distance=distance)
    kept = np.ones(len(d), bool) if weights is None else weights > 0
    theirs = (is_match[kept], score[kept])
    sample_weight = None if weights is None else weights[kept]
    fmr, tmr, thresholds = metrics.roc_curve(
        *theirs, sample_weight=sample_weight, drop_intermediate=False
    )
    ours = inference.roc_curve(d, is_match, **options)
    np.testing.assert_allclose(ours.fmr, fmr, rtol=1e-12)
    np.testing.assert_allclose(ours.tmr, tmr, rtol=1e-12)
    np.testing.assert_array_equal(ours.thresholds if distance.is_similarity else -ours.thresholds,
                                  thresholds)  # fmt: skip
    area = metrics.roc_auc_score(*theirs, sample_weight=sample_weight)
    np.testing.assert_allclose(inference.roc_auc(d, is_match, **options), area, rtol=1e-12)

    precision, recall, at = metrics.precision_recall_curve(*theirs, sample_weight=sample_weight)
    f1 = 2 * precision * recall / (precision + recall)
    best = inference.best_threshold(d, is_match, **options)
    assert best.f1 == pytest.approx(f1.max(), rel=1e-12)
    accepted = score[kept] >= (best.threshold if distance.is_similarity else -best.threshold)
    for ours, theirs_ in (
        (best.f1, metrics.f1_score),
        (best.precision, metrics.precision_score),
        (best.tmr, metrics.recall_score),
    ):
        want = theirs_(is_match[kept], accepted, sample_weight=sample_weight)
        assert ours == pytest.approx(want, rel=1e-12)
    for bound in (0, 0.01, 0.1, 0.5, 1):
        point = inference.threshold_at_fmr(d, is_match, fmr=bound, **options)
        assert point.fmr <= bound
        assert point.tmr == tmr[fmr <= bound].max()
        again = inference.operating_point(d, is_match, threshold=point.threshold, **options)
        assert again == point
    rate, threshold = inference.equal_error_rate(d, is_match, **options)
    along = fmr + tmr  # the curve's points, by how far along they are
    assert np.interp(1, along, fmr) == pytest.approx(rate, abs=1e-9)
    assert np.interp(1, along, 1 - tmr) == pytest.approx(rate, abs=1e-9)
    errors = lambda p: abs(p.fmr - (1 - p.tmr))
    at_rate = inference.operating_point(d, is_match, threshold=threshold, **options)
    assert errors(at_rate) == pytest.approx(np.abs(fmr - (1 - tmr)).min())


distances_of_pairs = hnp.arrays(
    np.float32, st.integers(2, 12), elements=st.sampled_from([0, 0.1, 0.2, 0.3, np.inf])
)


@quick
@given(distances_of_pairs, st.data())
def test_thresholds_by_trying_every_one(d, data):
    is_match = np.array(data.draw(st.permutations([True, False] * len(d)))[: len(d)])
    is_match[:2] = True, False
    tried = [-np.inf, *np.unique(d)]
    counts = [(np.sum(is_match[d <= t]), np.sum(~is_match[d <= t])) for t in tried]
    f1 = [2 * tp / (tp + fp + is_match.sum()) for tp, fp in counts]
    best = inference.best_threshold(d, is_match, distance=EUCLIDEAN)
    assert best.f1 == pytest.approx(max(f1))
    assert sum(d <= np.float32(best.threshold)) == sum(counts[int(np.argmax(f1))])
    area = np.mean([(p < n) + (p == n) / 2 for p in d[is_match] for n in d[~is_match]])
    assert inference.roc_auc(d, is_match, distance=EUCLIDEAN) == pytest.approx(area)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "bfloat16"])
def test_a_threshold_between_neighboring_floats(dtype):
    one = np.ones(1, jnp.dtype(dtype))
    above = np.nextafter(one, one + one)
    d = np.concatenate([one, above])
    point = inference.best_threshold(d, [True, False], distance=EUCLIDEAN)
    assert (point.fmr, point.tmr) == (0, 1)
    assert one[0] <= jnp.dtype(dtype).type(point.threshold) < above[0]


def test_separable_and_hopeless_pairs():
    good = [0.1, 0.25, 0.75, 0.9], [True, True, False, False]
    assert inference.best_threshold(*good, distance=EUCLIDEAN).threshold == 0.5
    assert inference.equal_error_rate(*good, distance=EUCLIDEAN) == (0, 0.5)
    assert inference.roc_auc(*good, distance=EUCLIDEAN) == 1
    assert inference.roc_auc(*good, distance=CosineSimilarity()) == 0
    point = inference.threshold_at_fmr(*good, fmr=0, distance=CosineSimilarity())
    assert (point.threshold, point.tmr, point.precision, point.f1) == (np.inf, 0, 1, 0)
    equal = [0.5] * 4, good[1]
    assert inference.equal_error_rate(*equal, distance=EUCLIDEAN) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        (([], []), ValueError, "0 matches of 0"),
        (([1.0, 2.0], [True, True]), ValueError, "2 matches of 2"),
        (([1.0, 2.0], [False, False]), ValueError, "0 matches of 2"),
        (([1.0, 2.0], [True, False], [1, 0]), ValueError, "1 matches of 1"),
        (([1.0, np.nan], [True, False]), ValueError, "must not be NaN"),
        (([1.0, 2.0], [True, False], [1, -1]), ValueError, "or negative"),
        (([[1.0, 2.0]], [True]), ValueError, r"\[P\]"),
        (([1.0, 2.0], [True]), ValueError, "`is_match` must have shape"),
        (([1.0, 2.0], [0.5, 1.0]), TypeError, "booleans"),
        (([1.0, 2.0], [1, 2]), TypeError, "booleans"),
        (([1.0, 2.0], ["yes", "no"]), TypeError, "booleans"),
        (([1.0, 2.0], [True, None]), TypeError, "booleans"),
        (([1.0, 2.0], [[True], [False]]), ValueError, "`is_match` must have shape"),
        (([1.0, 2.0], [True, False], [[1], [1]]), ValueError, "`weights` must have shape"),
        (([1.0, 2.0], [True, False], [1, np.inf]), ValueError, "infinite"),
        ((["1", "2"], [True, False]), TypeError, "`distances` must be numbers"),
        (([1.0, 2.0], [True, False], None, CosineSimilarity()), ValueError, "must be the one of"),
    ],
)
def test_threshold_errors(arguments, error, complaint):
    for function in (inference.roc_auc, inference.best_threshold, inference.equal_error_rate):
        with pytest.raises(error, match=f"inference.{function.__name__}: .*{complaint}"):
            function(*arguments, distance=EUCLIDEAN)
    with pytest.raises(ValueError, match="from 0 to 1"):
        inference.threshold_at_fmr([1.0, 2.0], [True, False], fmr=1.5, distance=EUCLIDEAN)
    with pytest.raises(TypeError, match="`fmr` must be one number, got str"):
        inference.threshold_at_fmr([1.0, 2.0], [True, False], fmr="1", distance=EUCLIDEAN)
    with pytest.raises(TypeError, match="`threshold` must be one number"):
        inference.operating_point([1.0, 2.0], [True, False], threshold=[1], distance=EUCLIDEAN)
    with pytest.raises(TypeError, match="`distance` must be a distance such .*, got None"):
        inference.roc_curve([1.0, 2.0], [True, False])


def test_pairs_bring_their_distance_along():
    x, labels = drawn(12), np.arange(12) % 3
    cosine = CosineSimilarity()
    pairs = inference.pair_distances(x, labels, distance=cosine)
    curve = inference.roc_curve(*pairs)
    np.testing.assert_array_equal(curve.tmr, inference.roc_curve(*pairs, distance=cosine).tmr)
    assert curve.thresholds[0] == np.inf  # of a similarity
    for function, options in (
        (inference.roc_curve, {}),
        (inference.roc_auc, {}),
        (inference.equal_error_rate, {}),
        (inference.best_threshold, {}),
        (inference.threshold_at_fmr, {"fmr": 0.1}),
        (inference.operating_point, {"threshold": 0.5}),
    ):
        function(*pairs, **options)
        for other in (LpDistance(), DotProductSimilarity()):
            with pytest.raises(ValueError, match="`distance` must be the one of the pairs, Cosine"):
                function(*pairs, distance=other, **options)


# Pairs


def test_all_pairs_once():
    x, labels = drawn(9), np.array(list("abacabaad"))
    pairs = inference.pair_distances(x, labels, distance=EUCLIDEAN)
    i, j = np.triu_indices(9, 1)
    want = np.sqrt(np.sum((x[i] - x[j]) ** 2, -1))
    equal = labels[i] == labels[j]
    for kind in (True, False):
        np.testing.assert_allclose(
            np.sort(pairs.distances[pairs.is_match == kind]),
            np.sort(want[equal == kind]),
            rtol=1e-5,
        )
    assert (pairs.weights == 1).all()


@pytest.mark.parametrize(
    ("n", "classes", "most"), [(60, 5, 200), (60, 30, 200), (60, 1, 50), (60, 60, 50), (2, 1, 2)]
)
def test_a_sample_of_pairs_stands_for_all(n, classes, most):
    labels = np.arange(n) % classes
    x = np.stack([labels, np.arange(n)], 1).astype(np.float32)
    pairs = inference.pair_distances(x, labels, distance=EUCLIDEAN, max_pairs=most)
    i, j = np.triu_indices(n, 1)
    equal = labels[i] == labels[j]
    assert len(pairs.distances) == min(most, len(i))
    for kind in (True, False):
        assert pairs.weights[pairs.is_match == kind].sum() == pytest.approx(sum(equal == kind))
    again = inference.pair_distances(x, labels, distance=EUCLIDEAN, max_pairs=most)
    np.testing.assert_array_equal(again.distances, pairs.distances)


@pytest.mark.slow
def test_a_large_sample_estimates_the_rates():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, 600)
    x = (rng.normal(size=(20, 4))[labels] + 0.5 * rng.normal(size=(600, 4))).astype(np.float32)
    every, some = (inference.pair_distances(x, labels, max_pairs=m) for m in (10**6, 20_000))
    assert len(every.distances) == 600 * 599 // 2 and len(some.distances) == 20_000
    auc, estimate = (inference.roc_auc(*p, distance=LpDistance()) for p in (every, some))
    assert estimate == pytest.approx(auc, abs=0.01)
    exact, sampled = (inference.best_threshold(*p, distance=LpDistance()) for p in (every, some))
    assert sampled.precision == pytest.approx(exact.precision, abs=0.05)


def test_pairs_without_pairs():
    for n in (0, 1):
        assert inference.pair_distances(drawn(n), np.arange(n)).distances.shape == (0,)
    for labels in ([1], [[1, 2], [1, 2]]):
        with pytest.raises(ValueError, match="`labels` must have shape"):
            inference.pair_distances(drawn(2), labels)
