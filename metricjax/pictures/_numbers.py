"""The numbers that a report shows, as a plain dict: a function for each part of the page.

One search finds the neighbors of all samples and scores them in every metric. Everything about
neighbors is counted from this search, and everything about thresholds from one sample of pairs.
"""

import numpy as np

from metricjax import inference
from metricjax.distances import Distance
from metricjax.evaluation import AccuracyCalculator, mean_over_queries
from metricjax.evaluation._aggregate import intervals
from metricjax.evaluation._knn import in_space_of
from metricjax.evaluation._scoring import Scores, Sets, score
from metricjax.pictures._shared import shares

NEIGHBORS = 10  # as many as a row of the page can show; hubness is usually counted among 10, too
RANKED = "precision_at_1", "r_precision", "mean_average_precision_at_r"
CUTS = 1, 2, 4, 8, 16, 32
RESAMPLES = 500  # the ends of a 95% interval then rest on 12 resamples each
CONFIDENCE = 0.95
BINS = 60
POINTS = 200  # of the precision-recall curve, which has as many steps as there are pairs
MOST = 20  # how many worst queries, confused pairs, hubs and label errors are listed


def numbers(function, x, labels, *, distance: Distance, by, seed) -> dict:
    """Computes everything that the page shows but the map, the images and the texts.

    Args:
        x: ``[N, D]`` floats.
        labels: ``[N]`` integers or strings, with two samples of some class and two classes.
        distance, by, seed: as in `report`.

    Returns:
        A dict of numbers, strings, lists, dicts and NumPy arrays. Classes are ``[C]`` names in
        ascending order. All other parts refer to a class by its place among these, and to a sample
        by its row.
    """
    classes, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    scores, near, distances = search(function, x, labels, codes, distance)
    confused = confusions(codes, sizes, near)
    return {
        "count": len(x),
        "features": x.shape[1],
        "distance": {"name": repr(distance), "is_similarity": bool(distance.is_similarity)},
        "classes": [str(c) for c in classes],
        "codes": codes.astype(np.int32),
        "neighbors": near,
        "distances": distances,
        "retrieval": retrieval(scores, seed),
        "pairs": pairs(x, labels, distance, by, seed),
        "per_class": per_class(scores, labels, sizes, confused),
        "confusions": _first(confused, np.argsort(-confused["share"], kind="stable")),
        "worst": worst(scores, distances, distance.is_similarity),
        "hubness": hubness(near, codes),
        "label_errors": label_errors(near, codes),
        "effective_rank": effective_rank(np.asarray(in_space_of(distance, x), np.float64)),
    }


def search(function, x, labels, codes, distance):
    """Returns the `Scores` of all queries, and their neighbors and distances ``[N, K]``.

    The calculator's metrics may return rows, so the nearest neighbors come out of its search, too.
    """
    cuts = [k for k in CUTS if k < len(x)]
    names = [*RANKED, *(f"{kind}_at_{k}" for kind in ("recall", "precision") for k in cuts)]
    k = min(max(np.bincount(codes).max() - 1, CUTS[-1]), len(x) - 1)
    lists = {"neighbors": _nearest_rows, "distances": _nearest_distances}
    calculator = AccuracyCalculator(k=int(k), distance=distance, metrics=lists)
    sets = Sets(x, x, labels, codes, codes, includes_query=True)
    scores = score(function, sets, [*dict.fromkeys(names), *lists], calculator)
    near, distances = scores.values.pop("neighbors"), scores.values.pop("distances")
    return scores, near.astype(np.int32), distances.astype(np.float32)


def _nearest_rows(inputs):
    return inputs.indices[:, :NEIGHBORS]


def _nearest_distances(inputs):
    return inputs.distances[:, :NEIGHBORS]


def retrieval(scores: Scores, seed) -> dict:
    """Returns each metric as ``[value, low, high]``, and how many queries it is averaged over."""
    kept = scores.relevant > 0
    how = {"per_class": False, "resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": seed}
    bounds = intervals(scores.values, kept, None, **how)
    mean = lambda name: mean_over_queries(scores.values[name], scores.relevant)
    return {
        "metrics": {name: [mean(name), *bounds[name]] for name in scores.values},
        "cuts": [k for k in CUTS if f"recall_at_{k}" in scores.values],
        "queries": int(kept.sum()),
        "lone": int((~kept).sum()),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
    }


def pairs(x, labels, distance, by, seed) -> dict:
    """Returns histograms of the distances of pairs, the threshold, and the curve around it.

    The curve has about as many points in each part of the range of recall. Precision is the share
    of accepted pairs that match, as in `inference.threshold`.
    """
    sample = inference.pair_distances(x, labels, distance=distance, seed=seed)
    point = inference.threshold(*sample, by=by)
    curve = inference.roc_curve(*sample)
    matches = sample.weights[sample.is_match].sum()
    others = sample.weights[~sample.is_match].sum()
    some = np.unique(
        np.searchsorted(curve.tmr, np.linspace(0, 1, POINTS)).clip(1)
    )  # 0 accepts none
    recall, fmr = curve.tmr[some], curve.fmr[some]
    edges = np.histogram_bin_edges(sample.distances.astype(np.float64), BINS)
    of = lambda kind: shares(sample.distances[kind], sample.weights[kind], edges)
    return {
        "matches": float(matches),
        "others": float(others),
        "sampled": len(sample.distances),
        "edges": edges,
        "match_shares": of(sample.is_match),
        "other_shares": of(~sample.is_match),
        "point": point._asdict(),
        "chosen_by": chosen_by(by),
        "recall": recall,
        "precision": recall * matches / (recall * matches + fmr * others),
    }


def chosen_by(by) -> str:
    """Says how `inference.threshold` chooses by a criterion."""
    if isinstance(by, str):
        return f"the best {'F1 score' if by == 'f1' else by.replace('_', ' ')}"
    rate = {"precision": "a precision of at least", "fmr": "a false match rate of at most"}
    return f"the most matches accepted with {rate[by[0]]} {by[1]:.4g}"


def confusions(codes, sizes, near) -> dict:
    """Counts how often the neighbors of each class are of each other class.

    Returns:
        A dict of arrays with an entry for each pair of classes that is confused at all: ``of``,
        ``with``, the ``count`` of neighbors, and their ``share`` of all neighbors of the class.
    """
    keys = codes[:, None].astype(np.int64) * len(sizes) + codes[near]
    pair, count = np.unique(keys, return_counts=True)
    one, other = pair // len(sizes), pair % len(sizes)
    share = count / (sizes[one] * near.shape[1])
    table = {"of": one, "with": other, "count": count, "share": share}
    return {name: value[one != other] for name, value in table.items()}


def per_class(scores: Scores, labels, sizes, confused) -> dict:
    """Returns the columns of the table of classes; NaN for classes with a single sample."""
    mean = lambda name: mean_over_queries(
        scores.values[name], scores.relevant, labels, per_class=True
    )
    order = np.lexsort((-confused["share"], confused["of"]))  # the worst of each class comes first
    of, first = np.unique(confused["of"][order], return_index=True)
    other, share = np.full(len(sizes), -1), np.zeros(len(sizes))
    other[of], share[of] = confused["with"][order][first], confused["share"][order][first]
    return {"size": sizes, **{name: mean(name) for name in RANKED}, "other": other, "share": share}


def worst(scores: Scores, distances, is_similarity) -> dict:
    """Returns the queries with the lowest MAP@R; among equals, those nearest to a neighbor first.

    A low score far from everything is an outlier; a low score close to others is a mistake.
    """
    nearest = -distances[:, 0] if is_similarity else distances[:, 0]
    average_precision = scores.values["mean_average_precision_at_r"]
    order = np.lexsort((nearest, average_precision))
    rows = order[scores.relevant[order] > 0][:MOST]
    return {"rows": rows, "scores": average_precision[rows]}


def hubness(near, codes) -> dict:
    r"""Counts how often each sample is among the nearest neighbors of others.

    .. math:: S = \frac{1}{N} \sum_i \left(\frac{c_i - \bar c}{\sigma}\right)^3

    The skewness S is 0 if counts spread evenly around their mean, and large if there are hubs.

    References:
        Radovanovic et al., `Hubs in Space <https://www.jmlr.org/papers/v11/radovanovic10a.html>`_,
        2010.
    """
    counts = np.bincount(near.ravel(), minlength=len(codes))
    wrong = np.bincount(near.ravel(), (codes[near] != codes[:, None]).ravel(), len(codes))
    spread = counts.std()
    top = np.argsort(-counts, kind="stable")[:MOST]
    return {
        "skewness": float(np.mean((counts - counts.mean()) ** 3) / spread**3) if spread else 0.0,
        "never": float(np.mean(counts == 0)),
        "samples_by_count": np.bincount(counts),
        "rows": top,
        "counts": counts[top],
        "wrong": wrong[top].astype(int),
    }


def label_errors(near, codes) -> dict:
    """Finds samples whose neighbors mostly have one same other label: more than half of them."""
    others = codes[near]
    votes = np.sum(others[:, :, None] == others[:, None, :], 2)  # for the label of each neighbor
    votes = np.where(others == codes[:, None], 0, votes)
    rows, best = np.arange(len(codes)), np.argmax(votes, 1)
    most = votes[rows, best]
    found = np.flatnonzero(2 * most > near.shape[1])
    table = {"rows": found, "labels": others[rows, best][found], "votes": most[found]}
    return {"total": len(found), **_first(table, np.argsort(-table["votes"], kind="stable"))}


def effective_rank(x) -> float:
    r"""Computes the exponential of the entropy of the singular values, divided by their sum.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j

    It is 1 if all rows are multiples of one vector, and D if all directions are equally strong.

    References:
        Roy and Vetterli, `The Effective Rank <https://ieeexplore.ieee.org/document/7098875>`_,
        2007.
    """
    triangle = np.linalg.qr(x, mode="r")  # with the singular values of x, and at most D rows
    values = np.linalg.svd(triangle, compute_uv=False)
    parts = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(parts * np.log(parts)))) if len(parts) else 0.0


def _first(table, order):
    return {name: value[order[:MOST]] for name, value in table.items()}
