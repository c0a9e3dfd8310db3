"""Evaluation of the splits of a data set by name."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array

from metricjax.evaluation._calculator import Accuracies, AccuracyCalculator

Pairs = Sequence[tuple[str, Sequence[str]]]
"""``(query, references)``, names of splits; several references are searched as one."""

Results = dict[str, dict[str, Accuracies]]


def evaluate_splits(
    calculator: AccuracyCalculator,
    splits: Mapping[str, tuple[Array, Array]],
    pairs: Pairs | None = None,
    *,
    level: int | None = None,
) -> Results:
    """Evaluates each split against others, or against itself, in the whole space.

    If a split is among its own references, no query is its own neighbor.

    Example:
        >>> import numpy as np
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import AccuracyCalculator, evaluate_splits
        >>> plain = LpDistance(normalize_embeddings=False)
        >>> train = np.array([[0.0], [1.0], [5.0]], np.float32), np.array([0, 0, 1])
        >>> test = np.array([[0.2], [4.0]], np.float32), np.array([0, 1])
        >>> results = evaluate_splits(
        ...     AccuracyCalculator(include=("precision_at_1",), distance=plain),
        ...     {"train": train, "test": test},
        ...     [("test", ["train"]), ("test", ["train", "test"])],
        ... )
        >>> for references, accuracies in results["test"].items():
        ...     print(references, accuracies["precision_at_1"])
        train 1.0
        train+test 1.0

    Args:
        calculator: the calculator of the metrics.
        splits: ``{name: (embeddings [N, D], labels [N])}``, as `embed` returns them.
        pairs: ``(query, references)``, names of splits; by default each split with itself.
        level: which column of labels ``[N, L]`` to use.

    Returns:
        ``{query: {"reference+reference": Accuracies}}``.

    Raises:
        ValueError: for a name that is not a split, or for a pair without references.
    """
    results: Results = {}
    for query, title, (x, y), (ref, ref_y), includes in _paired("evaluate_splits", splits, pairs):
        if level is not None:
            y, ref_y = y[:, level], ref_y[:, level]
        found = calculator.get_accuracy(x, y, ref, ref_y, includes)
        results.setdefault(query, {})[title] = found
    return results


def evaluate_within_parents(
    calculator: AccuracyCalculator,
    splits: Mapping[str, tuple[Array, Array]],
    pairs: Pairs | None = None,
    *,
    level: int = 0,
) -> dict[str, dict[str, dict[int | str, Accuracies]]]:
    """Evaluates each split against others, or against itself, among samples of the same parent.

    You choose how to average over the parents, for example with `mean_over_parents`. If no query of
    a parent has a match, all its queries are lone: its retrieval metrics are NaN, which
    `mean_over_parents` skips, and its ``num_queries`` is 0. All parents are searched at once, with
    the arithmetic of one search of the whole space.

    Args:
        calculator: the calculator of the metrics. Its `k` applies to each parent separately: the
            values and the `Accuracies.k` of a parent are those that `get_accuracy` returns for the
            samples of this parent alone.
        splits: ``{name: (embeddings [N, D], labels [N, L])}``, the finest labels first.
        pairs: ``(query, references)``, names of splits; by default each split with itself.
        level: which column of the labels to use; the next column is the parent.

    Returns:
        ``{query: {"reference+reference": {parent: Accuracies}}}``, for the parents of the queries.

    Raises:
        ValueError: for a name that is not a split, for a pair without references, for labels
            without a column of parents, or for a calculator with a `search` of your own.
    """
    name = "evaluate_within_parents"
    results: dict[str, dict[str, dict[int | str, Accuracies]]] = {}
    for query, title, (x, y), (ref, ref_y), includes in _paired(name, splits, pairs):
        for labels in (y, ref_y):
            if labels.ndim != 2 or not 0 <= level < labels.shape[1] - 1:
                raise ValueError(
                    f"evaluation.{name}: labels must have shape [N, L] with a column "
                    f"{level + 1} for the parents, got {labels.shape}."
                )
        found = calculator._within_parents(x, y[:, level:], ref, ref_y[:, level:], includes)
        results.setdefault(query, {})[title] = found
    return results


def mean_over_parents(accuracies: Mapping[int | str, Accuracies]) -> dict[str, float]:
    """Averages each metric over the parents that have a value.

    Example:
        >>> import numpy as np
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import (
        ...     AccuracyCalculator, evaluate_within_parents, mean_over_parents
        ... )
        >>> x = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]], np.float32)
        >>> labels = np.array([[0, 0], [0, 0], [1, 0], [2, 1], [3, 1]])  # label, parent
        >>> plain = LpDistance(normalize_embeddings=False)
        >>> calculator = AccuracyCalculator(include=("precision_at_1",), distance=plain)
        >>> results = evaluate_within_parents(calculator, {"test": (x, labels)})
        >>> print(mean_over_parents(results["test"]["test"]))
        {'precision_at_1': 1.0}

    Args:
        accuracies: one entry of the result of `evaluate_within_parents`, ``{parent: Accuracies}``.

    Returns:
        A dict of floats; a metric is NaN if no parent has a value.
    """
    names: Mapping[str, float] = next(iter(accuracies.values()), {})
    values = {name: np.array([parent[name] for parent in accuracies.values()]) for name in names}
    there = {name: x[~np.isnan(x)] for name, x in values.items()}
    return {name: float(x.mean()) if len(x) else float("nan") for name, x in there.items()}


def evaluate_two_streams(
    calculator: AccuracyCalculator,
    splits: Mapping[str, tuple[Array, Array, Array]],
    *,
    level: int | None = None,
) -> dict[str, Accuracies]:
    """Evaluates the first stream of each split as queries of its second stream.

    The streams can be two views, photos and sketches, or texts and images. Row i of both has
    label i. The streams are different samples, so row i may find row i.

    Example:
        >>> import numpy as np
        >>> from metricjax.evaluation import AccuracyCalculator, evaluate_two_streams
        >>> photos = np.array([[0.0, 1.0], [5.0, 1.0]], np.float32)
        >>> results = evaluate_two_streams(
        ...     AccuracyCalculator(include=("recall_at_1",)),
        ...     {"test": (photos, photos + 0.1, np.array([0, 1]))},
        ... )
        >>> print(results["test"]["recall_at_1"])
        1.0

    Args:
        calculator: the calculator of the metrics.
        splits: ``{name: (first [N, D], second [N, D], labels [N])}``.
        level: which column of labels ``[N, L]`` to use.

    Returns:
        ``{split: Accuracies}``.
    """
    results = {}
    for name, (first, second, labels) in splits.items():
        y = labels if level is None else np.asarray(labels)[:, level]
        results[name] = calculator.get_accuracy(first, y, second, y)
    return results


def _paired(function, splits, pairs):
    """Yields names and data of both sides, and whether the references start with the queries."""
    for query, references in [(name, [name]) for name in splits] if pairs is None else pairs:
        unknown = {query, *references} - set(splits)
        if unknown or not references or isinstance(references, str):
            raise ValueError(
                f"evaluation.{function}: `pairs` must be names (query, [references]) of the splits "
                f"{', '.join(splits)}, got ({query!r}, {references!r})."
            )
        includes = query in references
        others = [name for name in references if name != query]
        names = [query, *others] if includes else others
        joined = tuple(map(np.concatenate, zip(*(splits[name] for name in names), strict=True)))
        yield query, "+".join(references), map(np.asarray, splits[query]), joined, includes
