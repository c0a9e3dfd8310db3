"""The report: its numbers against brute force, and the page in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from metricjax import inference, pictures
from metricjax.distances import CosineSimilarity, LpDistance
from metricjax.pictures import _numbers

EVIL = "</script><img src=x onerror='problems.push(1)'> & \u2028"


def samples(n=60, classes=4, d=5, spread=0.6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    labels[-1] = classes  # one class with a single sample
    x = rng.normal(size=(classes + 1, d))[labels] + spread * rng.normal(size=(n, d))
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page for all tests, so that the search is compiled once."""
    x, labels = samples()
    images = np.random.default_rng(1).random((len(x), 9, 70, 3))
    texts = [f"{EVIL}{i} " + "long " * 60 for i in range(len(x))]
    names = np.array([f"class {i}" for i in range(4)] + [EVIL])[labels]
    folder = tmp_path_factory.mktemp("page") / "new" / "folder"
    return pictures.report(folder, x, names, images, texts, by=("fmr", 0.1), title=EVIL)


@pytest.fixture(scope="module")
def content():
    x, labels = samples()
    how = {"distance": LpDistance(), "by": ("fmr", 0.1), "seed": 0}
    return _numbers.numbers("pictures.report", jnp.asarray(x), labels, **how)


def ranked(x):
    """Other samples, nearest first, and the distances of all."""
    unit = np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
    mat = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.fill_diagonal(mat, np.inf)
    return np.argsort(mat, 1)[:, :-1], mat


def test_metrics_are_those_of_brute_force(content):
    x, labels = samples()
    order, mat = ranked(x)
    np.testing.assert_array_equal(content["neighbors"], order[:, :10])
    found = np.take_along_axis(mat, order, 1)[:, :10]
    np.testing.assert_allclose(content["distances"], found, atol=1e-5)
    matches = labels[order] == labels[:, None]
    r = matches.sum(1)
    average = np.array([
        sum(m[: i + 1].mean() for i in range(count) if m[i]) / max(count, 1)
        for m, count in zip(matches, r, strict=True)
    ])  # fmt: skip
    kept = r > 0
    metrics = content["retrieval"]["metrics"]
    expected = {
        "precision_at_1": matches[kept, 0].mean(),
        "mean_average_precision_at_r": average[kept].mean(),
        "recall_at_4": matches[kept, :4].any(1).mean(),
        "precision_at_32": matches[kept, :32].mean(),
    }
    for name, value in expected.items():
        assert metrics[name][0] == pytest.approx(value, abs=1e-6), name
        assert metrics[name][1] <= value <= metrics[name][2], name
    assert metrics["r_precision"][1] < metrics["r_precision"][2]
    assert (content["retrieval"]["queries"], content["retrieval"]["lone"]) == (59, 1)
    per_class = content["per_class"]
    np.testing.assert_array_equal(per_class["size"], [15, 15, 15, 14, 1])
    np.testing.assert_allclose(
        per_class["mean_average_precision_at_r"],
        [*(average[labels == c].mean() for c in range(4)), np.nan], atol=1e-6,
    )  # fmt: skip
    rows, scores = content["worst"]["rows"], content["worst"]["scores"]
    np.testing.assert_allclose(scores, np.sort(average[kept])[:20], atol=1e-6)
    np.testing.assert_allclose(scores, average[rows], atol=1e-6)


def test_confusions_hubs_and_label_errors_are_counted(content):
    x, labels = samples()
    near = labels[ranked(x)[0][:, :10]]
    confused = content["confusions"]
    for of, other, count, share in zip(*confused.values(), strict=True):
        assert count == np.sum(near[labels == of] == other) > 0 and of != other
        assert share == pytest.approx(np.mean(near[labels == of] == other))
    assert np.all(np.diff(confused["share"]) <= 0)
    first = confused["of"][0], confused["with"][0]
    assert content["per_class"]["other"][first[0]] == first[1]
    counts = np.array([np.sum(content["neighbors"] == i) for i in range(60)])
    hubness = content["hubness"]
    top = hubness["rows"]
    np.testing.assert_array_equal(hubness["counts"], counts[top])
    assert hubness["counts"][0] == counts.max() and hubness["never"] == np.mean(counts == 0)
    hub = np.any(content["neighbors"] == top[0], 1)
    assert hubness["wrong"][0] == np.sum(hub & (labels != labels[top[0]]))
    z = (counts - counts.mean()) / counts.std()
    assert hubness["skewness"] == pytest.approx(np.mean(z**3))
    errors = content["label_errors"]
    votes = np.array([np.bincount(row, minlength=5) for row in near])
    votes[np.arange(60), labels] = 0
    assert errors["total"] == np.sum(votes.max(1) > 5) > 0
    for row, label, most in zip(errors["rows"], errors["labels"], errors["votes"], strict=True):
        assert votes[row, label] == most == votes[row].max() > 5


def test_a_wrong_label_is_found():
    labels = np.arange(40) % 2
    near = np.array([np.setdiff1d(np.flatnonzero(labels == labels[i]), i)[:10] for i in range(40)])
    wrong = labels.copy()
    wrong[8] = 1
    errors = _numbers.label_errors(near, wrong)
    assert errors["total"] == 1
    assert (errors["rows"][0], errors["labels"][0], errors["votes"][0]) == (8, 0, 10)


def test_the_threshold_and_its_curves_are_those_of_the_pairs(content):
    x, labels = samples()
    sample = inference.pair_distances(x, labels)
    d, is_match, pairs = sample.distances, sample.is_match, content["pairs"]
    assert pairs["point"] == inference.threshold(*sample, by=("fmr", 0.1))._asdict()
    assert "false match rate of at most 0.1" in pairs["chosen_by"]
    assert (pairs["matches"], pairs["others"]) == (is_match.sum(), (~is_match).sum())
    recall, precision = pairs["recall"], pairs["precision"]
    assert np.all(np.diff(recall) > 0) and recall[-1] == 1
    for at in (3, len(recall) // 2):
        accepted = d <= np.quantile(d[is_match], recall[at], method="inverted_cdf")
        assert np.mean(accepted[is_match]) == recall[at]
        assert np.mean(is_match[accepted]) == pytest.approx(precision[at])
    low, high = pairs["edges"][20:22]
    here = (d >= low) & (d < high)
    assert pairs["match_shares"][20] == pytest.approx(np.mean(here[is_match]))
    assert pairs["other_shares"][20] == pytest.approx(np.mean(here[~is_match]))
    texts = "f1", "balanced_accuracy", ("precision", 0.9)
    assert [_numbers.chosen_by(by)[:27] for by in texts] == [
        "the best F1 score", "the best balanced accuracy", "the most matches accepted w",
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_effective_rank(shape):
    flat = np.zeros(shape)
    flat[:, 1] = 1
    assert _numbers.effective_rank(flat) == pytest.approx(1)
    assert _numbers.effective_rank(np.eye(*shape)) == pytest.approx(4)
    assert _numbers.effective_rank(np.zeros(shape)) == 0


def data_of(path):
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text()
    )
    return json.loads(found[0])


def rows_of(data):
    """The samples that have images and texts."""
    return np.frombuffer(base64.b64decode(data["samples"]["rows"]["base64"]), "<i4").tolist()


def test_the_page_has_its_data_and_no_markup_of_the_user(page):
    text = page.read_text("utf-8")
    assert page.name == "report.html"
    assert "<img src=x" not in text and "{{" not in text and "report.js" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|innerHTML""", text)
    data = data_of(page)
    assert data["title"] == EVIL and EVIL in data["classes"]
    assert data["per_class"]["precision_at_1"][data["classes"].index(EVIL)] is None
    texts, images = data["samples"]["texts"], data["samples"]["images"]
    assert len(texts) == len(images) == 60
    assert all(t.startswith(EVIL) and t.endswith("…") and len(t) == 200 for t in texts)
    rows = rows_of(data)
    assert all(t.startswith(f"{EVIL}{row} ") for row, t in zip(rows, texts, strict=True))
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in images)


@pytest.mark.slow
def test_only_some_samples_have_images(tmp_path, monkeypatch):
    monkeypatch.setattr("metricjax.pictures._report.MOST_SAMPLES", 30)
    x, labels = samples()
    images = np.zeros((60, 3, 3), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None]
    page = pictures.report(
        tmp_path / "similar.html", x, labels, images, distance=CosineSimilarity(), by="accuracy"
    )
    data = data_of(page)
    assert len(data["samples"]["images"]) == 30 and "texts" not in data["samples"]
    assert set(data["worst"]["rows"]) <= set(rows_of(data))
    assert data["distance"]["is_similarity"] and page.name == "similar.html"


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 12])
def test_a_report_of_little(tmp_path, n):
    data = data_of(pictures.report(tmp_path, np.eye(n, 2, dtype=np.float32), np.arange(n) // 2))
    assert data["count"] == n and data["samples"]["rows"]["base64"] == ""


BEFORE = """<script>
window.problems = [];
for (const kind of ["error", "securitypolicyviolation", "unhandledrejection"])
  addEventListener(kind, (event) => problems.push(event.message || kind));
for (const kind of ["error", "warn"])
  console[kind] = (...words) => problems.push(words.join(" "));
</script>"""
AFTER = """<script>
const all = (selector) => [...document.querySelectorAll(selector)];
const box = canvas.getBoundingClientRect(), [sx, sy] = screen(7);
const at = { clientX: box.left + sx, clientY: box.top + sy };
canvas.dispatchEvent(new PointerEvent("pointermove", at));
canvas.dispatchEvent(new MouseEvent("click", at));
const outcome = { clicked: selected, hovered: !$("hover").hidden };
outcome.cards = all("#details .card").length;
const column = () => all("#classes tbody tr").map((row) => row.children[4].textContent);
const button = all("#classes th button")[4];
button.focus();
button.click();
outcome.falling = column();
button.click();
outcome.rising = column();
outcome.sorted = button.parentNode.getAttribute("aria-sort");
outcome.focused = document.activeElement === button;
$("class").value = "class 2";
$("class").dispatchEvent(new Event("input"));
outcome.colored = chosen.map((code) => classes[code]);
$("closer").click();
outcome.zoom = view.scale;
outcome.title = document.title;
outcome.plots = all("svg").length;
outcome.names = all("td button").map((node) => node.textContent);
outcome.strangers = all("img:not([src^='data:'])").length;
const root = document.documentElement;
outcome.widths = [innerWidth, root.scrollWidth - root.clientWidth];
parent.postMessage(JSON.stringify({ ...outcome, problems }), "*");
</script>"""
FRAME = """<!doctype html>
<script>
addEventListener("message", (event) => {
  const node = document.createElement("pre");
  node.id = "outcome";
  node.textContent = event.data;
  document.body.append(node);
});
</script>
<iframe src="copy.html" width="WIDTH" height="900" style="border: 0"></iframe>"""


def browse(page, folder, width):
    """Clicks through a copy of the page in a frame of that width; returns what came of it."""
    names = "chromium", "chromium-browser", "google-chrome"
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH")
    text = page.read_text("utf-8")
    text = text.replace("<style>", f"{BEFORE}<style>", 1).replace("</body>", f"{AFTER}</body>")
    (folder / "copy.html").write_text(text, "utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    command = (
        "--headless=new --no-sandbox --disable-gpu --disable-background-networking --dump-dom "
        f"--virtual-time-budget=5000 --user-data-dir={folder / 'profile'}"
    ).split()
    done = subprocess.run(
        [browser, *command, (folder / "frame.html").as_uri()], capture_output=True, timeout=120
    )
    outcome = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout.decode(), re.S)
    assert outcome, done.stderr.decode()[-2000:]
    return json.loads(html.unescape(outcome[1]))


@pytest.mark.parametrize("width", [pytest.param(1400, marks=pytest.mark.slow), 390])
def test_the_page_works_in_a_browser(page, tmp_path, width):
    outcome = browse(page, tmp_path, width)
    assert outcome["problems"] == []
    assert outcome["clicked"] == 7 and outcome["hovered"] and outcome["cards"] == 11
    values = [float(x.rstrip("%")) for x in outcome["falling"][:-1]]
    assert values == sorted(values, reverse=True) and len(set(values)) > 1
    assert outcome["rising"] == [*outcome["falling"][-2::-1], "–"]
    assert outcome["falling"][-1] == "–"  # the class with one sample has no value, and comes last
    assert outcome["sorted"] == "ascending" and outcome["focused"]
    assert outcome["colored"] == ["class 2"] and outcome["zoom"] > 1 and outcome["plots"] == 4
    assert outcome["title"] == EVIL and EVIL in outcome["names"]
    assert outcome["strangers"] == 0
    assert outcome["widths"] == [width, 0]  # nothing is wider than the page


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"method": "tsne"}, ValueError, "'pca', 'umap'"),
        ({"embeddings": np.ones((3, 2), int)}, TypeError, "must be floating"),
        ({"embeddings": np.float32([[1], [np.nan], [2]])}, ValueError, "NaN or infinity in row 1"),
        ({"labels": [0, 1]}, ValueError, r"`labels` must have shape \[3\]"),
        ({"labels": [0, 1, 2]}, ValueError, "two classes or more, one of them with two samples"),
        ({"labels": [0, 0, 0]}, ValueError, "got 1 classes of 3"),
        ({"texts": ["a"]}, ValueError, "`texts` must have 3 entries"),
        ({"images": np.ones((2, 4, 4))}, ValueError, "`images` must have 3 entries"),
    ],
)
def test_errors(tmp_path, change, error, complaint):
    given = {"embeddings": np.ones((3, 2), np.float32), "labels": [0, 0, 1]} | change
    with pytest.raises(error, match=f"pictures.report: .*{complaint}"):
        pictures.report(tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()
