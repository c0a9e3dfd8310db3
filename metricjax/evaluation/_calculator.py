"""`AccuracyCalculator`: retrieval and clustering metrics by name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Num

from metricjax._core.check import as_labels, check_at_least, check_is_distance
from metricjax._core.types import Labels, Match
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation._aggregate import average, intervals
from metricjax.evaluation._clusters import CLUSTERING, k_means
from metricjax.evaluation._knn import (
    Ignore,
    as_ignores,
    check_search,
    in_space_of,
)
from metricjax.evaluation._labels import coded_alike, host_labels, on_every_host
from metricjax.evaluation._metrics import CUT, RANKED, Gain, check_gain
from metricjax.evaluation._scoring import CUT_NAME, QueryInputs, Sets, score

_NAME = "evaluation.AccuracyCalculator"

Search = Callable[[Array, Array, int], tuple[Array, Array]]
Cluster = Callable[[Array, int], Array]


class Accuracies(dict):
    """Metrics by name, with the counts that they are based on.

    Attributes:
        k: the largest number of neighbors that was used for a query.
        num_queries: how many queries the retrieval metrics are averaged over.
        num_lone: how many queries no reference matches. They are left out of the average, unless
            the calculator has ``count_lone``.
        classes: with ``return_per_class``, the labels of the entries.
        intervals: with ``bootstrap``, ``{name: (low, high)}``.
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
    r"""Computes retrieval and clustering metrics by name.

    | name | meaning |
    |---|---|
    | ``precision_at_1``, ``r_precision``, ``mean_reciprocal_rank`` | in `metricjax.evaluation` |
    | ``mean_average_precision``, ``mean_average_precision_at_r`` | in `metricjax.evaluation` |
    | ``AMI``, ``NMI`` | `ami`, `nmi` of the queries; need scikit-learn |
    | ``recall_at_10``, ``precision_at_10``, ``ndcg_at_10`` | any number; ``_at_k``: all K |

    The metrics of the first three rows and those in `metrics` are computed by default. The names in
    these rows are those of PyTorch Metric Learning (PML).

    ``precision_at_10`` is always divided by 10, even if there are fewer references.

    A query that no reference matches is called lone. Lone queries are left out of the retrieval
    metrics (unless `count_lone`), and are counted. If all queries are left out, the retrieval
    metrics are NaN. Among equal distances, the lower reference index comes first.

    Memory: queries are searched in blocks. A block holds as many distances as a block of `knn`, or
    ``[block_size, k]`` if `k` is larger. The distances of all queries to all references are never
    held at once. ``k=None`` sorts all references for every query, in smaller blocks. This is slow
    if there are more than about 10,000 references.

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
        include: names of the metrics to compute; by default those of the first three rows above
            and those in `metrics`.
        exclude: names of metrics to leave out.
        k: how many neighbors to search for. ``None`` means all references, ``"max_bin_count"`` the
            largest number of matches of any query. An integer above the number of references also
            means all references. An integer below the largest number of matches causes a warning
            if R-precision or MAP@R is computed: for a query with more than `k` matches,
            R-precision is then the precision at `k`, and MAP@R still divides by the number of
            matches. The `k` of the result is the number that was used.
        avg_of_avgs: average within each class first, then over the classes.
        return_per_class: return each retrieval metric as an array ``[C]``: the averages of the
            classes of the queries, in ascending order of the labels. A class that has only lone
            queries is NaN, unless `count_lone`.
        match: a relation of labels other than equality, as for the losses. PML calls it
            ``label_comparison_fn``; here it maps ``labels [N]`` and ``labels [M]`` to ``[N, M]``.
            Degrees of match between 0 and 1 count in proportion. NDCG and metrics of your own also
            accept grades above 1. AMI and NMI do not support `match`: by default they are then left
            out.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. By default the Euclidean distance between
            vectors of length 1, as for losses, `knn` and `retrieval_metrics`. PML compares vectors
            without normalizing them: ``LpDistance(normalize_embeddings=False)``. AMI and NMI
            cluster in the space of this distance: if it normalizes, normalized embeddings.
        metrics: ``{name: function}``, metrics of your own: ``function(QueryInputs) -> [Q]``.
        bootstrap: how many resamples of the queries to draw for confidence intervals; 0 for none.
            The result has the intervals in ``intervals``.
        confidence: the share of the resamples that lies in an interval.
        seed: the seed of the resamples and of k-means.
        block_size: how many queries to search for at once; the default is that of `knn`.
        gain: how NDCG turns a degree of match into a gain: "linear", "exponential", or a function
            of the degrees; see `ndcg_at_k`. Define the function once: each new function is compiled
            again.
        count_lone: do not leave out lone queries. The metrics above are 0 for them, and a metric of
            your own is what it returns (0 if nothing is searched). For some metrics only, use two
            calculators.
        search: a search of your own, such as an approximate one, instead of the exact search by
            `distance`. ``search(query, reference, k)`` gets the embeddings without normalization.
            It returns distances and indices ``[Q, k]`` as `knn` does, nearest first, with index -1
            where there is no neighbor. It may find a query that is among the references: the query
            is removed from its own neighbors afterwards.
        cluster: a clustering of your own instead of `k_means`. ``cluster(embeddings, count)``
            returns a cluster ``[Q]`` for each embedding. The embeddings are normalized if
            `distance` normalizes.

    Raises:
        ValueError: for unknown names, invalid values, or options that cannot be combined.
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
    gain: Gain = "linear"
    count_lone: bool = False
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
            check_at_least(_NAME, "block_size", self.block_size, 1)
        check_gain(_NAME, self.gain)
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
        *,
        ignore: Ignore | None = None,
    ) -> Accuracies:
        """Finds the neighbors of each query among the references, and computes the metrics.

        Args:
            query: ``[Q, D]``; integers are cast to float32.
            query_labels: ``[Q]`` integers of any size, whole floats or strings, in an array or a
                list; or whatever `match` takes.
            reference: ``[M, D]``. By default each query searches among the other queries.
            reference_labels: ``[M]``; required if `reference` is given, and not allowed otherwise.
            ref_includes_query: whether the first Q references are the queries. If so, no query is
                its own neighbor.
            include, exclude: select among the metrics of the calculator.
            ignore: pairs that are left out of the search and of the references that match a query;
                see `Ignore`. AMI and NMI compare no pairs, and are the same.

        Returns:
            `Accuracies`, a dict of floats with attributes. With ``return_per_class`` the retrieval
            metrics are arrays ``[C]``.

        Raises:
            ValueError: for mismatched shapes; for unknown names; if `ref_includes_query` is set and
                the references do not start with the queries; for degrees of match that are
                negative or NaN, or that are above 1 if metrics other than NDCG and your own are
                computed; for labels for `match` that JAX cannot hold; if `ignore` is combined with
                a `search` of your own.
            TypeError: if embeddings are not numbers, or if labels without `match` are neither whole
                numbers nor strings.
        """
        name = f"{_NAME}.get_accuracy"
        names = self._names(include, exclude)
        given = query, query_labels, reference, reference_labels, ref_includes_query
        sets = self._sets(name, *given)
        n, m = len(sets.query), len(sets.reference)
        ignores = as_ignores(name, ignore, "query", n, m, within=sets.includes_query)
        ignores = jax.tree.map(on_every_host, ignores)
        if ignores and self.search is not None:
            raise ValueError(
                f"{name}: `ignore` must be None with a `search` of your own, which would find "
                f"pairs that are left out. Leave out one of the two."
            )
        sets = sets._replace(ignores=ignores)
        scores = score(name, sets, names, self)
        return self._summary(names, sets, scores, self._points(names, sets))

    def _within_parents(self, query, labels, reference, ref_labels, includes_query):
        """Returns ``{parent: Accuracies}``, each among the samples of one parent.

        The parent of a sample is its second label.
        """
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
        sides = ("query_labels", groups), ("reference_labels", ref_groups)
        codes, ref_codes = coded_alike(_NAME, *sides)
        sets = sets._replace(groups=codes, ref_groups=ref_codes)
        scores, points = score(_NAME, sets, names, self), self._points(names, sets)
        rows_of = lambda group: np.flatnonzero(groups == group)
        return {
            group.item(): self._summary(names, sets, scores, points, rows_of(group))
            for group in np.unique(groups)
        }

    def _names(self, include=(), exclude=()):
        """Returns the names to compute, in alphabetical order."""
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
            sides = ("query_labels", labels), ("reference_labels", ref_labels)
            codes = coded_alike(name, *sides)
        return Sets(query, reference, labels, *codes, includes_query)

    def _labels(self, function, name, labels, of, n):
        """Returns labels on the host; with `match`, any labels that JAX can hold."""
        if self.match is None:
            return host_labels(function, name, labels, of, n)
        return jax.tree.map(on_every_host, as_labels(function, name, labels, of, n))

    def _points(self, names, sets):
        """Returns the points to cluster, on the host: the queries in the space of the distance."""
        if set(names) & set(CLUSTERING):
            return on_every_host(in_space_of(self.distance, sets.query)).astype(np.float32)
        return None

    def _summary(self, names, sets, scores, points, rows=slice(None)) -> Accuracies:
        """Combines the scores of some of the queries, those in `rows`, into metrics."""
        labels = jax.tree.map(lambda x: x[rows], sets.labels)
        matched = scores.relevant[rows] > 0
        kept = matched | self.count_lone
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
        counts = {"num_queries": int(kept.sum()), "num_lone": int((~matched).sum())}
        classes = classes if self.return_per_class else None
        k = int(scores.k[rows].max(initial=0))
        return Accuracies(values, k=k, classes=classes, intervals=bounds, **counts)

    def _clustering(self, names, points, labels):
        """Computes all clustering metrics from one clustering."""
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
    """Casts integers to float32, as PML does; anything else is unchanged."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    return x.astype(np.float32) if jnp.issubdtype(x.dtype, jnp.integer) else x


def _check_starts_with(name, query, labels, reference, ref_labels):
    """Checks that the first references are the queries: otherwise wrong rows would be left out."""
    n = len(query)
    x, y = (on_every_host(x).astype(np.float32) for x in (query, _first_rows(reference, n)))
    same = x.shape == y.shape and np.allclose(x, y, equal_nan=True)
    agree = jax.tree.map(lambda a, b: np.array_equal(a, b[:n]), labels, ref_labels)
    if not same or not all(jax.tree.leaves(agree)):
        raise ValueError(
            f"{name}: `reference` and `reference_labels` must start with the {n} queries and "
            f"their labels when `ref_includes_query`."
        )


def _first_rows(x, n):
    """Returns the first N rows. If the rows are sharded, no device gets the others."""
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding):
        return x[:n]
    rows = np.arange(min(n, len(x)))
    return _rows(x, rows, sharding.update(spec=jax.P()))


@functools.partial(jax.jit, static_argnames="sharding")
def _rows(x, rows, sharding):
    return x.at[rows].get(out_sharding=sharding)
