"""Evaluating splits of a data set by name."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array

from metricjax.evaluation._calculator import Accuracies, AccuracyCalculator

Pairs = Sequence[tuple[str, Sequence[str]]]
"""Which split queries which references; several references are searched as one."""

Results = dict[str, dict[str, Accuracies]]


def evaluate_splits(
    calculator: AccuracyCalculator,
    splits: Mapping[str, tuple[Array, Array]],
    pairs: Pairs | None = None,
    *,
    level: int | None = None,
) -> Results:
    """Each split against others, or against itself, in the whole space.

    A split among its own references is no neighbor of itself.

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
        calculator: what to compute.
        splits: ``{name: (embeddings [N, D], labels [N])}``, as `embed` gives them.
        pairs: ``(query, references)``, names of splits; by default each split with itself.
        level: which column of labels ``[N, L]`` to go by.

    Returns:
        ``{query: {"reference+reference": Accuracies}}``.

    Raises:
        ValueError: for a name that is no split, or a pair without references.
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
    """Each split against others, or against itself, among samples of the same parent label.

    Average over the parents as you like. A parent in which no query has a match ("lone") has NaN
    for its retrieval metrics, and shows it by ``num_queries == 0``: `mean_over_parents` skips it.
    All parents are searched at once, with the arithmetic of one search of the whole space.

    Args:
        calculator: what to compute. Its `k` holds for every parent by itself: a parent's values and
            `Accuracies.k` are those of `get_accuracy` of its samples alone.
        splits: ``{name: (embeddings [N, D], labels [N, L])}``, the finest labels first.
        pairs: ``(query, references)``, names of splits; by default each split with itself.
        level: which column of the labels to go by; the next one is the parent.

    Returns:
        ``{query: {"reference+reference": {parent: Accuracies}}}``, for the queries' parents.

    Raises:
        ValueError: for a name that is no split, a pair without references, labels without the
            parents' column, or a calculator with a `search` of your own.
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
    """The mean of each metric over the parents that have a value.

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
        accuracies: one entry of what `evaluate_within_parents` gives, ``{parent: Accuracies}``.

    Returns:
        A dict of floats, NaN where no parent has a value.
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
    """Each split's first stream queries its second: two views, photo and sketch, text and image.

    Row i of both has label i; the streams are different samples, so row i may find row i.

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
        calculator: what to compute.
        splits: ``{name: (first [N, D], second [N, D], labels [N])}``.
        level: which column of labels ``[N, L]`` to go by.

    Returns:
        ``{split: Accuracies}``.
    """
    results = {}
    for name, (first, second, labels) in splits.items():
        y = labels if level is None else np.asarray(labels)[:, level]
        results[name] = calculator.get_accuracy(first, y, second, y)
    return results


def _paired(function, splits, pairs):
    """Name of query and of references, both sides, and whether the second starts with the first."""
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
