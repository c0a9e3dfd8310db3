"""`AccuracyCalculator`: retrieval and clustering metrics by name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from metricjax._core.check import as_labels, check_choice, check_is_distance
from metricjax._core.types import Labels, Match
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._aggregate import average, intervals
from metricjax.evaluation._clusters import CLUSTERING, k_means
from metricjax.evaluation._knn import check_at_least_1, check_search, in_space_of
from metricjax.evaluation._labels import code_sets, host_labels
from metricjax.evaluation._metrics import CUT, MOST, RANKED
from metricjax.evaluation._scoring import CUT_NAME, QueryInputs, Sets, score

_NAME = "evaluation.AccuracyCalculator"

Search = Callable[[Array, Array, int], tuple[Array, Array]]
Cluster = Callable[[Array, int], Array]


class Accuracies(dict):
    """Metrics by name, and what they rest on.

    Attributes:
        k: how many neighbors were looked at.
        num_queries: how many queries the retrieval metrics are averages over.
        num_lone: how many were left out, as no reference matches them.
        classes: the labels of the entries, with ``return_per_class``.
        intervals: ``{name: (low, high)}``, with ``bootstrap``.
    """

    def __init__(self, values, *, k, num_queries, num_lone, classes=None, intervals=None):
        super().__init__(values)
        self.k, self.num_queries, self.num_lone = k, num_queries, num_lone
        self.classes, self.intervals = classes, intervals or {}

    def __repr__(self):
        rest = f"k={self.k}, num_queries={self.num_queries}, num_lone={self.num_lone}"
        return f"Accuracies({dict(self)}, {rest})"


@dataclasses.dataclass(frozen=True)
class AccuracyCalculator:
    r"""Computes metrics by name, under the names of PyTorch Metric Learning.

    | name | what it is |
    |---|---|
    | ``precision_at_1``, ``r_precision``, ``mean_average_precision``, | the functions of |
    | ``mean_average_precision_at_r``, ``mean_reciprocal_rank`` | `metricjax.evaluation` |
    | ``AMI``, ``NMI`` | `ami`, `nmi` of the queries; need scikit-learn |
    | ``recall_at_10``, ``precision_at_10``, ``ndcg_at_10`` | any number; ``_at_k``: all K |

    Precision@10 is divided by 10, however few references there are.

    The first two lines and `metrics` are computed unless told otherwise.

    Queries that no reference matches ("lone" ones) are left out of the retrieval metrics, and
    counted; without any other query these are NaN. Ties go to the lower reference index.

    Memory: a block of queries at a time, as many distances as a block of `knn` has, or
    ``[block_size, k]`` where `k` is larger; never all queries with all references. ``k=None`` sorts
    all references for every query, in smaller blocks; that takes long from some 10,000 references
    on.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.distances import LpDistance
        >>> from metricjax.evaluation import AccuracyCalculator
        >>> x = jnp.array([[0.0], [1.0], [3.0], [7.0], [12.0]])
        >>> calculator = AccuracyCalculator(
        ...     include=("precision_at_1", "recall_at_2"),
        ...     distance=LpDistance(normalize_embeddings=False),
        ... )
        >>> accuracies = calculator.get_accuracy(x, jnp.array([0, 0, 1, 0, 1]))
        >>> for name, value in accuracies.items():
        ...     print(f"{name} {value:.1f}")
        precision_at_1 0.4
        recall_at_2 0.6
        >>> print(accuracies.k, accuracies.num_queries, accuracies.num_lone)
        4 5 0

    Args:
        include: names to compute; by default the first two lines above and `metrics`.
        exclude: names not to compute.
        k: how many neighbors to look at. ``None`` is all references, ``"max_bin_count"`` the
            largest number of matches that a query has. An integer above the number of references
            is all of them, too; one below the largest number of matches cuts R-precision and MAP@R
            short, which warns. The result says which `k` it was.
        avg_of_avgs: average each class first, then the classes.
        return_per_class: arrays ``[C]``, the average of each class of the queries in ascending
            order of the labels, NaN for lone ones.
        match: relation of labels other than equality, as for the losses; PML's
            ``label_comparison_fn``, but of ``labels [N]`` and ``labels [M]`` to ``[N, M]``. Degrees
            of match between 0 and 1 count in proportion; NDCG takes grades above 1 as well. Not
            with AMI and NMI.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. By default the Euclidean distance between
            vectors of length 1, as for losses, `knn` and `retrieval_metrics`; PML compares
            vectors as they are, ``LpDistance(normalize_embeddings=False)``. AMI and NMI look for
            clusters in the space of this distance: of normalized embeddings if it normalizes.
        metrics: ``{name: function}``, metrics of your own: ``function(QueryInputs) -> [Q]``.
        bootstrap: how many resamples of the queries to take a confidence interval from; none with
            0. The result has ``intervals``.
        confidence: how much of the resamples' percentiles an interval spans.
        seed: of the resamples and of k-means.
        block_size: how many queries to search for at once; by default as `knn`.
        gain: what NDCG gains by a degree of match, "linear" or "exponential"; see `ndcg_at_k`.
        search: a search of your own in the place of the exact one by `distance`, such as an
            approximate one: ``search(query, reference, k)``, called with the embeddings as they
            came, gives distances and indices ``[Q, k]`` as `knn` does, nearest first, -1 for none.
            A query among the references may be found: it is left out here.
        cluster: a clustering of your own in the place of `k_means`: ``cluster(embeddings, count)``
            gives a cluster ``[Q]`` for each embedding, normalized if `distance` normalizes.

    Raises:
        ValueError: for unknown names or options that do not go together.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    k: int | str | None = None
    _: dataclasses.KW_ONLY
    avg_of_avgs: bool = False
    return_per_class: bool = False
    match: Match | None = None
    distance: Distance = LpDistance()
    metrics: Mapping[str, Callable[[QueryInputs], Array]] = dataclasses.field(default_factory=dict)
    bootstrap: int = 0
    confidence: float = 0.95
    seed: int = 0
    block_size: int | None = None
    gain: str = "linear"
    search: Search | None = None
    cluster: Cluster | None = None

    def __post_init__(self):
        whole = isinstance(self.k, Integral) and not isinstance(self.k, bool) and self.k > 0
        if not whole and self.k is not None and self.k != "max_bin_count":
            raise ValueError(
                f"{_NAME}: `k` must be an integer >= 1, None or 'max_bin_count', got {self.k!r}."
            )
        if self.avg_of_avgs and self.return_per_class:
            raise ValueError(f"{_NAME}: give `avg_of_avgs` or `return_per_class`, not both.")
        if self.block_size is not None:
            check_at_least_1(_NAME, "block_size", self.block_size)
        check_choice(_NAME, "gain", self.gain, tuple(MOST))
        check_is_distance(_NAME, self.distance)
        of_ones_own = {"match": self.match, "search": self.search, "cluster": self.cluster}
        for option, function in (of_ones_own | dict(self.metrics)).items():
            if function is not None and not callable(function):
                raise TypeError(f"{_NAME}: `{option}` must be a function, got {function!r}.")
        exact = {*CLUSTERING, *RANKED, *self.metrics}
        known = lambda name: name in exact or bool(CUT_NAME.fullmatch(name))
        _check_names(_NAME, known, include=self.include, exclude=self.exclude)
        if self.match is not None and set(CLUSTERING) & set(self._names()):
            raise ValueError(f"{_NAME}: AMI and NMI do not support `match`; exclude them.")

    def get_accuracy(
        self,
        query: Num[Array, "q d"],
        query_labels: Labels,
        reference: Num[Array, "m d"] | None = None,
        reference_labels: Labels = None,
        ref_includes_query: bool = False,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> Accuracies:
        """Searches the reference for each query's neighbors and scores them.

        Args:
            query: ``[Q, D]``; integers are cast to float32.
            query_labels: ``[Q]`` integers of any size, whole floats or strings, also as a list; or
                what `match` takes.
            reference: ``[M, D]``; by default the queries, each searching among the others.
            reference_labels: ``[M]``; given exactly if `reference` is.
            ref_includes_query: the first Q references are the queries, and none is its own
                neighbor.
            include, exclude: narrow the calculator's metrics down.

        Returns:
            A dict of floats (arrays ``[C]`` with ``return_per_class``) with attributes.

        Raises:
            ValueError: for mismatched shapes; unknown names; a reference that does not start with
                the queries although it should; degrees of match below 0, NaN, or above 1 for other
                metrics than NDCG and your own; labels for `match` that JAX cannot hold.
            TypeError: if embeddings are not numbers, or labels without `match` neither whole
                numbers nor strings.
        """
        name = f"{_NAME}.get_accuracy"
        names = self._names(include, exclude)
        given = query, query_labels, reference, reference_labels, ref_includes_query
        sets = self._sets(name, *given)
        scores = score(name, sets, names, self)
        return self._summary(names, sets, scores, self._points(names, sets))

    def _within_parents(self, query, labels, reference, ref_labels, includes_query):
        """``{parent: Accuracies}``, each among the samples of that parent, the second label."""
        names = self._names()
        if self.search is not None:
            raise ValueError(
                "evaluation.evaluate_within_parents: `calculator` must not have a `search`, which "
                "cannot be kept within a parent. Call `get_accuracy` for each parent's samples."
            )
        (labels, groups, *_), (ref_labels, ref_groups, *_) = labels.T, ref_labels.T
        sets = self._sets(_NAME, query, labels, reference, ref_labels, includes_query)
        groups = host_labels(_NAME, "parents", groups, "query", len(query))
        ref_groups = host_labels(_NAME, "parents", ref_groups, "reference", len(reference))
        codes, ref_codes = code_sets(_NAME, groups, ref_groups)
        sets = sets._replace(groups=codes, ref_groups=ref_codes)
        scores, points = score(_NAME, sets, names, self), self._points(names, sets)
        rows_of = lambda group: np.flatnonzero(groups == group)
        return {
            group.item(): self._summary(names, sets, scores, points, rows_of(group))
            for group in np.unique(groups)
        }

    def _names(self, include=(), exclude=()):
        """The names to compute, in alphabetical order."""
        clustering = CLUSTERING if self.match is None else ()
        ours = (set(self.include) or {*clustering, *RANKED, *self.metrics}) - set(self.exclude)
        _check_names(f"{_NAME}.get_accuracy", ours.__contains__, include=include, exclude=exclude)
        return sorted((set(include) or ours) - set(exclude))

    def _sets(self, name, query, labels, reference, ref_labels, includes_query) -> Sets:
        if (reference is None) != (ref_labels is None):
            raise ValueError(f"{name}: give both `reference` and `reference_labels`, or neither.")
        same = reference is None
        if same:
            reference, ref_labels, includes_query = query, labels, True
        query, reference = check_search(name, _floating(query), _floating(reference))
        labels = self._labels(name, "query_labels", labels, "query", len(query))
        ref_labels = self._labels(name, "reference_labels", ref_labels, "reference", len(reference))
        if includes_query and not same:
            _check_starts_with(name, query, labels, reference, ref_labels)
        codes: tuple[Any, Any] = labels, ref_labels
        if self.match is None:
            codes = code_sets(name, labels, ref_labels)
        return Sets(query, reference, labels, *codes, includes_query)

    def _labels(self, function, name, labels, of, n):
        """Labels on the host; with `match` whatever it takes, as far as JAX can hold it."""
        if self.match is None:
            return host_labels(function, name, labels, of, n)
        return jax.tree.map(np.asarray, as_labels(function, name, labels, of, n))

    def _points(self, names, sets):
        """What is clustered, on the host: the queries in the space of the distance."""
        if set(names) & set(CLUSTERING):
            return np.asarray(in_space_of(self.distance, sets.query), np.float32)
        return None

    def _summary(self, names, sets, scores, points, rows=slice(None)) -> Accuracies:
        """The metrics of some of the queries, from what each of these scores."""
        labels = jax.tree.map(lambda x: x[rows], sets.labels)
        kept = scores.relevant[rows] > 0
        classes = codes = bounds = None
        if self.avg_of_avgs or self.return_per_class:
            if not isinstance(labels, np.ndarray):
                raise ValueError(f"{_NAME}: averages of classes need labels in one array.")
            classes, codes = np.unique(labels, axis=0, return_inverse=True)
            codes = codes.reshape(-1)
        grouping: dict[str, Any] = {"classes": codes, "per_class": self.return_per_class}
        per_query = {name: x[rows] for name, x in scores.values.items()}
        values = {name: average(x, kept * 1.0, **grouping) for name, x in per_query.items()}
        if clustered := [name for name in names if name in CLUSTERING]:
            values |= self._clustering(clustered, points[rows], sets.codes[rows])
        if self.bootstrap:
            how = {"resamples": self.bootstrap, "confidence": self.confidence, "seed": self.seed}
            bounds = intervals(per_query, kept, **grouping, **how)
        values = {name: values[name] for name in names}
        counts = {"num_queries": int(kept.sum()), "num_lone": int((~kept).sum())}
        classes = classes if self.return_per_class else None
        k = int(scores.k[rows].max(initial=0))
        return Accuracies(values, k=k, classes=classes, intervals=bounds, **counts)

    def _clustering(self, names, points, labels):
        """One clustering for all the scores."""
        if not len(points) or not np.isfinite(points).all():
            return dict.fromkeys(names, float("nan"))
        as_is = LpDistance(normalize_embeddings=False)
        cluster = self.cluster or functools.partial(k_means, distance=as_is, seed=self.seed)
        clusters = cluster(points, len(np.unique(labels)))
        return {name: CLUSTERING[name](points, labels, clusters=clusters) for name in names}


def _check_names(function, known, **options):
    for option, names in options.items():
        if not isinstance(names, tuple | list):
            raise TypeError(f"{function}: `{option}` must be a tuple of names, got {names!r}.")
        if unknown := [name for name in names if not known(name)]:
            allowed = ", ".join([*CLUSTERING, *RANKED, *(f"{x}_at_k" for x in CUT)])
            raise ValueError(
                f"{function}: `{option}` has {unknown[0]!r}, which is none of the calculator's "
                f"metrics. There are {allowed}, any number for the last k, and `metrics` of your "
                f"own."
            )


def _floating(x):
    """Integers as float32, as PML casts them; anything else as it is."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    return x.astype(np.float32) if jnp.issubdtype(x.dtype, jnp.integer) else x


def _check_starts_with(name, query, labels, reference, ref_labels):
    """The first references must be the queries, or leaving them out would be wrong."""
    n, start = len(query), lambda x: np.asarray(x)[: len(query)]
    x, y = np.asarray(query, np.float32), start(reference).astype(np.float32)
    same = x.shape == y.shape and np.allclose(x, y, equal_nan=True)
    agree = jax.tree.map(lambda a, b: np.array_equal(a, start(b)), labels, ref_labels)
    if not same or not all(jax.tree.leaves(agree)):
        raise ValueError(
            f"{name}: `reference` and `reference_labels` must start with the {n} queries and "
            f"their labels when `ref_includes_query`."
        )
