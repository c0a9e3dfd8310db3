"""Galleries of codes by brute force; truncated, with pairs left out, and re-ranked."""

import functools
import json

import numpy as np
import pytest

from metricjax.distances import CosineSimilarity, LpDistance, SNRDistance
from metricjax.evaluation import Ignore, listed, rerank
from metricjax.inference import BinaryCodes, Index, Int8Codes

N, D, Q, K = 90, 70, 7, 5  # 70 bits are 9 bytes, and 3 words of 32 bits
CODES = ("int8", "binary")


def drawn(n=N, d=D, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def gallery():
    return np.concatenate([drawn(), drawn()[:20]])  # with duplicates


def stood_for(kind, x):
    """What codes stand for, by definition."""
    if kind == "binary":
        return np.where(x > 0, 1.0, -1.0)
    low, step = x.min(0)[None], ((x.max(0) - x.min(0)) / 255)[None]
    return low + (np.clip(np.floor((x - low) / step), 0, 255) + 0.5) * step


def euclidean(x, y):
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)
    return np.linalg.norm(unit(x.astype(np.float64))[:, None] - unit(y)[None], axis=2)


def found(kind, query, x, left_out=False):
    """The distances and rows that `nearest` must find."""
    mat = euclidean(query, stood_for(kind, x) if kind else x.astype(np.float64))
    mat = np.where(left_out, np.inf, mat)
    if kind == "binary":  # only rows with the most equal bits are ranked
        differ = ((query[:, None] > 0) != (x[None] > 0)).sum(2) + np.where(left_out, D, 0)
        last = np.argsort(differ, 1, kind="stable")[:, 4 * K :]
        np.put_along_axis(mat, last, np.inf, 1)
    rows = np.argsort(mat.round(6), 1, kind="stable")[:, :K]  # equal but for rounding
    return np.take_along_axis(mat, rows, 1), rows


@functools.cache
def index(kind):
    return Index(gallery(), codes=kind)


def query():
    return gallery()[::16] + 0.7 * drawn(Q, seed=1)


def test_worked_numbers():
    x = np.float32([[1, 0.2], [0.3, 1], [1, 1.1], [-1, 2]])
    z = np.float32([[2, 1], [1, 2.2], [1, -1], [0.1, 1]])
    codes = Int8Codes.fit(z)
    np.testing.assert_allclose(codes.start, [0.1, -1])
    np.testing.assert_allclose(codes.step, [0.00745098, 0.01254902], rtol=1e-6)
    encoded = codes.encode(x)
    assert encoded.tolist() == [[-8, -33], [-102, 31], [-8, 39], [-128, 111]]
    np.testing.assert_allclose(codes.decode(encoded)[0], [0.99784314, 0.19843137], rtol=1e-6)
    bits = BinaryCodes(4).encode(np.concatenate([x, z], 1))
    assert bits.ravel().tolist() == [240, 240, 224, 112]
    assert BinaryCodes(4).decode(bits)[3].tolist() == [-1, 1, 1, 1]


def test_an_int8_code_is_within_half_a_step():
    x = drawn()
    x[:, 3] = 2.5  # has no range
    codes = Int8Codes.fit(x)
    error = np.abs(codes.decode(codes.encode(x)) - x)
    assert (error <= 0.501 * np.float32(codes.step)[None]).all() and error[:, 3].max() == 0
    assert np.isin(codes.encode(3e37 * x), (-128, 127)).mean() > 0.98  # outside


@pytest.mark.parametrize("kind", CODES)
def test_neighbors_by_brute_force(kind):
    x, q = gallery(), query()
    distances, ids = index(kind).nearest(q, K)
    want, rows = found(kind, q, x)
    np.testing.assert_array_equal(ids, rows)
    np.testing.assert_allclose(distances, want, rtol=1e-5)
    nbytes = D if kind == "int8" else -(-D // 8)
    assert index(kind).embeddings.nbytes == len(x) * nbytes
    assert f"{len(x)} embeddings of {D} {kind} features" in repr(index(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODES)
def test_matches_by_brute_force(kind):
    mat = euclidean(query(), stood_for(kind, gallery()))
    threshold = 1.2
    assert np.abs(mat - threshold).min() > 1e-5  # no matter of rounding
    np.testing.assert_array_equal(index(kind).matches(query(), threshold), mat <= threshold)
    assert 0 < (mat <= threshold).mean() < 1


@pytest.mark.slow
def test_int8_works_for_every_distance():
    x, q, snr = drawn(), query(), SNRDistance()
    codes = Int8Codes.fit(x)
    ids = Index(x, codes=codes, distance=snr).nearest(q, K).ids
    decoded = np.asarray(codes.decode(codes.encode(x)))
    np.testing.assert_array_equal(ids, Index(decoded, distance=snr).nearest(q, K).ids)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODES)
def test_no_cosine_is_above_one(kind):
    x = drawn(200, 700)
    gallery = Index(x, codes=kind, distance=CosineSimilarity())
    values = np.asarray(gallery.codes.decode(gallery.embeddings))
    distances, ids = gallery.nearest(3 * values, 2)
    assert (distances[:, 0] == 1).all() and (distances[:, 1] < 1).all()
    assert (ids[:, 0] == np.arange(200)).all()
    if kind == "int8":  # errors of 700 equal products add up to more than rounding
        assert gallery.matches(values, 1.0).sum() == 200


@pytest.mark.parametrize("kind", CODES)
def test_adding_removing_and_files(kind, tmp_path):
    x, labels = drawn(12), list("abcdefghijkl")
    whole = Index(x[:9], codes=kind, labels=labels[:9], truncate=20)
    codes = whole.codes
    whole = whole.add(x[9:].astype(np.float64), labels=labels[9:]).remove([0, 10])
    kept = np.delete(np.arange(12), [0, 10])
    np.testing.assert_array_equal(whole.embeddings, codes.encode(x[kept, :20]), strict=True)
    whole.save(tmp_path / "gallery")
    loaded = Index.load(tmp_path / "gallery")
    np.testing.assert_array_equal(loaded.embeddings, whole.embeddings, strict=True)
    assert (loaded.ids == kept).all() and (loaded.labels == whole.labels).all()
    assert loaded.codes == codes and loaded.truncate == 20 and loaded.distance == whole.distance
    assert "20" in repr(loaded)
    same = Index(whole.embeddings, kept, codes=codes)  # codes are kept as they are
    np.testing.assert_array_equal(same.embeddings, whole.embeddings)
    with pytest.raises(ValueError, match="must be finite"):
        whole.add(np.full((1, D), np.nan, np.float32), labels=["x"])


def test_numbers_of_numpy_are_saved(tmp_path):
    Index(drawn(3), truncate=np.int64(8), distance=LpDistance(p=np.float32(3))).save(tmp_path / "i")
    again = Index.load(tmp_path / "i")
    assert again.truncate == 8 and again.distance == LpDistance(p=3)


def test_a_plain_index_is_a_file_that_older_versions_read(tmp_path):
    for options, version in (({}, 1), ({"codes": "binary"}, 2), ({"truncate": 3}, 2)):
        Index(drawn(3), **options).save(tmp_path / "gallery")
        with np.load(tmp_path / "gallery") as file:
            assert json.loads(file["about"].item())["version"] == version


@pytest.mark.slow
def test_truncated_rows_are_those_of_the_first_features():
    x, q = drawn(), query()
    short = Index(x, truncate=8)
    want = Index(x[:, :8].copy())
    np.testing.assert_array_equal(short.embeddings, want.embeddings)
    for left, right in zip(short.nearest(q, K), want.nearest(q[:, :8], K), strict=True):
        np.testing.assert_array_equal(left, right)
    assert short.add(q).embeddings.shape == (N + Q, 8)
    np.testing.assert_array_equal(
        short.match(q, q[::-1], 0.9), want.match(q[:, :8], q[::-1, :8], 0.9)
    )


@pytest.mark.parametrize("kind", [None, pytest.param("int8", marks=pytest.mark.slow), "binary"])
def test_ignored_pairs_are_not_found(kind):
    x, q = gallery(), query()
    groups, others = np.arange(len(x)) % 4, np.arange(Q) % 5
    distances, ids = index(kind).nearest(q, K, ignore=Ignore(others, groups))
    want, rows = found(kind, q, x, others[:, None] == groups[None])
    np.testing.assert_array_equal(ids, rows)
    np.testing.assert_allclose(distances, want, rtol=1e-5)
    few = Ignore(np.zeros(Q, int), (np.arange(len(x)) >= 3).astype(int) - 1)
    lists = np.tile(np.arange(len(x) - 6, len(x)), (Q, 1))  # the last rows, next to the padding
    distances, ids = index(kind).nearest(q, K, ignore=Ignore(lists, np.arange(len(x)), listed))
    np.testing.assert_array_equal(ids, found(kind, q, x, np.arange(len(x)) >= len(x) - 6)[1])
    if kind is None:
        with pytest.raises(ValueError, match=r"`ignore` leaves to every query, got 5 and 3 of"):
            index(kind).nearest(q, K, ignore=few)


def test_reranking_replaces_the_search():
    def last_first(query, reference, k):
        assert query.shape == (Q, D) and reference.shape == (len(gallery()), D)
        return np.zeros((len(query), k)), np.tile(np.arange(k)[::-1], (len(query), 1))

    for kind in (None, "int8"):
        assert index(kind).nearest(query(), 3, rerank=last_first).ids[0].tolist() == [2, 1, 0]
    with pytest.raises(TypeError, match=r"`rerank` must return distances and rows, both \[7, 3\]"):
        index(None).nearest(query(), 3, rerank=lambda query, reference, k: query)


@pytest.mark.slow
def test_reranking_by_reciprocal_neighbors():
    x, q = gallery(), query()
    best = functools.partial(rerank.k_reciprocal, k1=6)
    distances, rows = best(q, x, K)
    names = np.array([f"image {i}" for i in range(len(x))])
    got = Index(x, names).nearest(q, K, rerank=best)
    np.testing.assert_array_equal(got.ids, names[np.asarray(rows)])
    np.testing.assert_array_equal(got.distances, distances)


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda x: Index(x, codes="int4"), ValueError, "`codes` must be None, 'int8'"),
        (lambda x: Index(x, codes=4), ValueError, "got '4'"),
        (lambda x: Index(x[:0], codes="int8"), ValueError, "must have rows from which"),
        (lambda x: Index(x, codes="int8", backend="faiss"), ValueError, "None with FAISS"),
        (lambda x: Index(x, codes="binary", distance=LpDistance(p=1)), TypeError, "binary codes"),
        (lambda x: Index(x * np.inf, codes="int8"), ValueError, "Index: `embeddings` must be fin"),
        (lambda x: Index(x.astype(np.int8), codes="int8"), TypeError, "must be floating"),
        (lambda x: Index(x, codes=BinaryCodes(3)), ValueError, "3 features as the codes have"),
        (
            lambda x: Index(x.astype(np.uint8), codes=BinaryCodes(D)),
            ValueError,
            r"must have shape \[M, 9\]",
        ),
        (lambda x: Index(x, truncate=D + 1), ValueError, "at least the 71 features"),
        (lambda x: Index(x, truncate=0), ValueError, "`truncate` must be an integer >= 1"),
        (lambda x: Index(x, truncate=9).nearest(x[:, :8], 1), ValueError, "at least the 9 feat"),
        (
            lambda x: Index(np.zeros((3, 9), np.uint8), codes=BinaryCodes(D), truncate=9),
            ValueError,
            "`truncate` must be None or the 70 features of the codes, got 9",
        ),
        (lambda x: Index(x).add(x[:1], ids=[7, 8]), ValueError, r"Index.add: `ids` .*\[1\]"),
        (lambda x: Index(x).nearest(x, 1, ignore=x), TypeError, "an `evaluation.Ignore`"),
        (lambda x: Index(x).nearest(x, 1, ignore=Ignore(x[:3, 0])), ValueError, "ignore.query"),
        (
            lambda x: Index(x).nearest(x, 1, ignore=Ignore(x[:, 0]), rerank=rerank.k_reciprocal),
            ValueError,
            "`ignore` must be None with `rerank`",
        ),
        (lambda x: Int8Codes.fit(x[:0]), ValueError, "at least one row"),
        (lambda x: Int8Codes((0.0,), (0.0,)), ValueError, "`step` must be above 0"),
        (lambda x: Int8Codes((0.0,), (1.0, 1.0)), ValueError, "`step` must be one finite number"),
    ],
)
def test_errors(call, error, complaint):
    with pytest.raises(error, match=complaint):
        call(drawn(10))
