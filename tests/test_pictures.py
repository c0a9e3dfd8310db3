"""Pictures: what they show, that they can be drawn, and that nothing global is touched."""

import io
import subprocess
import sys

import numpy as np
import pytest

from metricjax import inference, pictures
from metricjax.distances import CosineSimilarity, LpDistance


def drawn(n, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def saved(figure):
    """Draws all of it: a missing letter or a failing layout is a warning, and so an error."""
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")
    return figure


def legend_of(figure):
    legends = figure.legends or [figure.axes[0].get_legend()]
    return [text.get_text() for text in legends[0].get_texts()]


def pairs(n=200, seed=0):
    rng = np.random.default_rng(seed)
    is_match = np.arange(n) % 4 == 0
    return rng.normal(size=n) + 2 * ~is_match, is_match


@pytest.mark.parametrize(
    "classes", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 32, 500)), 3, 33]
)
def test_a_map_has_a_short_legend(classes):
    labels = np.arange(500) % classes
    figure = saved(pictures.embedding_map(drawn(500), labels, title="all of them"))
    texts = legend_of(figure)
    if classes <= 32:
        assert texts == [f"{i}" for i in range(classes)]
        looks = {
            (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.shape)
            for points in figure.axes[0].collections
        }
        assert len(looks) >= min(classes, 8)
    else:
        assert len(texts) == 9 and texts[-1] == f"{classes - 8} others"
    drawn_points = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert drawn_points == 500


def test_a_map_shows_the_main_directions():
    x = np.zeros((40, 6))
    x[:, 3], x[:, 1] = 9 * drawn(40)[:, 0], 3 * drawn(40)[:, 1]
    figure = pictures.embedding_map(x, np.zeros(40, int), normalize_embeddings=False)
    points = figure.axes[0].collections[0].get_offsets()
    assert abs(np.corrcoef(points[:, 0], x[:, 3])[0, 1]) > 0.9
    assert abs(np.corrcoef(points[:, 1], x[:, 1])[0, 1]) > 0.9
    np.testing.assert_allclose(np.std(points, 0).prod(), np.sqrt(np.linalg.det(
        np.cov(x[:, [1, 3]].T, ddof=0))), rtol=1e-5)  # fmt: skip
    assert figure.axes[0].get_xlabel().endswith("of the variance")


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (5, 1)])
def test_a_map_of_little(shape):
    saved(pictures.embedding_map(np.ones(shape, np.float32), np.arange(shape[0])))


@pytest.mark.slow
def test_panels_share_labels_and_long_names_fit():
    names = [f"a rather long name of a species, {i % 9}" for i in range(60)]
    figure = saved(pictures.embedding_map({"before": drawn(60), "after": drawn(60, 2)}, names))
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert all(axes.get_window_extent().height > 100 for axes in figure.axes)
    assert all(len(text) <= 24 for text in legend_of(figure))


def test_umap_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[umap\]'"):
        pictures.embedding_map(drawn(9), np.arange(9), method="umap")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [3, 60])
def test_umap(n):
    pytest.importorskip("umap")
    figures = [
        pictures.embedding_map(drawn(n), np.arange(n) % 2, method="umap", seed=1) for _ in range(2)
    ]
    points = [figure.axes[0].collections[0].get_offsets() for figure in figures]
    np.testing.assert_array_equal(*points)
    assert np.isfinite(points[0]).all()


def test_a_roc_curve_marks_its_points():
    d, is_match = pairs()
    figure = saved(pictures.roc_curve(d, is_match, distance=LpDistance(), threshold=1.0))
    curve, error, chosen = (figure.axes[0].lines[i] for i in (0, 2, 3))
    assert np.isclose(error.get_xdata()[0], 1 - error.get_ydata()[0])
    assert chosen.get_xdata()[0] == np.mean(d[~is_match] <= 1)
    assert chosen.get_ydata()[0] == np.mean(d[is_match] <= 1)
    assert chosen.get_xdata()[0] in curve.get_xdata()
    assert "area 0.9" in legend_of(figure)[0]
    assert len(legend_of(saved(pictures.roc_curve(d, is_match, distance=LpDistance())))) == 3


def test_pairs_bring_their_distance_along():
    pairs = inference.pair_distances(drawn(20), np.arange(20) % 4, distance=CosineSimilarity())
    assert pictures.distance_histogram(*pairs).axes[0].get_xlabel() == "similarity"
    for picture in (pictures.roc_curve, pictures.distance_histogram):
        picture(*pairs)
        with pytest.raises(ValueError, match="`distance` must be the one of the pairs"):
            picture(*pairs, distance=LpDistance())


@pytest.mark.parametrize("gap", [2.5, 100])
def test_a_good_roc_curve_is_drawn_wide(gap):
    d, is_match = pairs()
    axes = saved(
        pictures.roc_curve(d + gap * ~is_match, is_match, distance=LpDistance(), threshold=0.0)
    ).axes[0]
    assert axes.get_xscale() == "log"
    assert all(np.all(line.get_xdata() >= axes.get_xlim()[0]) for line in axes.lines)


@pytest.mark.parametrize("distance", [LpDistance(), CosineSimilarity()])
def test_a_histogram_shows_shares(distance):
    d, is_match = pairs()
    weights = np.arange(len(d)) % 3 / len(d)  # their sum is below 1
    figure = saved(
        pictures.distance_histogram(d, is_match, weights, distance=distance, threshold=1.0)
    )
    axes = figure.axes[0]
    assert axes.get_xlabel() == ("similarity" if distance.is_similarity else "distance")
    assert legend_of(figure) == ["matches", "other pairs", "threshold 1"]
    for patch, rows in zip(axes.patches[1::2], (is_match, ~is_match), strict=True):
        shares, edges, _ = patch.get_data()
        low, high = edges[20:22]
        here = weights[rows & (d >= low) & (d < high)].sum() / weights[rows].sum()
        assert shares.sum() == pytest.approx(1) and shares[20] == pytest.approx(here)
    saved(pictures.distance_histogram(d, np.ones_like(is_match), distance=distance))


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_sheet_frames_the_wrong_ones(channels, dtype):
    rng = np.random.default_rng(0)
    image = lambda *lead: (255 * rng.random((*lead, 6, 7, *channels))).astype(dtype)
    scale = 1 if dtype == np.uint8 else 255
    figure = saved(
        pictures.retrieval_sheet(
            image(2) / scale if scale > 1 else image(2),
            ["cat", "dog"],
            image(2, 3) / scale if scale > 1 else image(2, 3),
            [["cat", "dog", "hippopotamus amphibius"], ["dog", "dog", "dog"]],
            title="Animals",
        )
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text] == ["cat", "✗ dog", "✗ hippopota…", "dog"]
    frames = figure.axes[0].patches
    assert [frame.get_linestyle() for frame in frames].count("--") == 2
    assert len(frames) == len(figure.axes[0].images) == 8


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda: pictures.embedding_map(drawn(0), []), ValueError, "must not be empty"),
        (lambda: pictures.embedding_map({}, []), ValueError, "must not be empty"),
        (lambda: pictures.embedding_map(drawn(3), [1]), ValueError, "`labels` must have shape"),
        (lambda: pictures.embedding_map(drawn(3)[0], [1]), ValueError, r"shape \[N, D\]"),
        (lambda: pictures.embedding_map(drawn(1), [1], method="tsne"), ValueError, "'pca', 'umap'"),
        (lambda: pictures.roc_curve([], [], distance=LpDistance()), ValueError, "0 matches of 0"),
        (
            lambda: pictures.distance_histogram([], [], distance=LpDistance()),
            ValueError,
            "must not be empty",
        ),
        (
            lambda: pictures.retrieval_sheet(drawn(0), [], drawn(0), []),
            ValueError,
            "`query_images` must not be empty",
        ),
        (
            lambda: pictures.retrieval_sheet(drawn(2), [0, 1], drawn(2), [0, 1]),
            ValueError,
            "`query_images` must be images",
        ),
        (
            lambda: pictures.retrieval_sheet(
                np.ones((2, 3, 3)), [0, 1], np.ones((2, 4, 3, 3)), [0, 1]
            ),
            ValueError,
            r"`neighbor_labels` must have shape \(2, 4\)",
        ),
        (
            lambda: pictures.retrieval_sheet(
                np.full((2, 3, 3), 16), [0, 1], np.ones((2, 4, 3, 3)), np.zeros((2, 4), int)
            ),
            ValueError,
            r"`query_images` must be bytes \(uint8\) or floats from 0 to 1, got 16 to 16",
        ),
        (
            lambda: pictures.embedding_map(drawn(3), np.zeros((3, 1), int)),
            ValueError,
            r"`labels` must have shape \[3\]",
        ),
        (
            lambda: pictures.embedding_map(drawn(3) * np.nan, [0, 1, 1]),
            ValueError,
            "`embeddings` must be finite, got NaN or infinity in row 0",
        ),
        (
            lambda: pictures.distance_histogram([0.1, 0.2], [1, 2], distance=LpDistance()),
            TypeError,
            r"`is_match` must be \[P\] booleans",
        ),
    ],
)
def test_errors(call, error, complaint):
    with pytest.raises(error, match=f"(pictures|inference).*{complaint}"):
        call()


@pytest.mark.slow
def test_matplotlib_is_imported_for_pictures_only(monkeypatch):
    others = {"matplotlib", "faiss", "orbax", "tqdm", "tensorboardX"}
    code = f"import sys, metricjax; print({others} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    saved(pictures.embedding_map(drawn(3), np.arange(3)))
    assert "matplotlib.pyplot" not in sys.modules
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'metricjax\[plots\]'"):
        pictures.embedding_map(drawn(3), np.arange(3))
