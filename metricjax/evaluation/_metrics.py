r"""Retrieval metrics of each query: pure functions of which of its neighbors match.

Each function takes `matches` ``[Q, K]`` and `relevant` ``[Q]``. `matches` says whether each
neighbor matches, nearest first: a boolean, or a degree from 0 to 1. `relevant` says how many
references match (the sum of their degrees). Each function returns ``[Q]`` in float32. The metric is
the mean over the queries that at least one reference matches: see `mean_over_queries`. In the
formulas :math:`m_i` is the i-th column of `matches`, R is `relevant`, and :math:`P_i
= \frac{1}{i} \sum_{j \le i} m_j`.

For degrees outside of [0, 1] every metric but NDCG is meaningless. NDCG takes any degree of at
least 0. NumPy arrays are checked. JAX arrays are not checked, because their values may be unknown,
or on an accelerator.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_at_least, check_rows, on_host
from metricjax._core.masked import safe_divide

Matches = Num[Array, "q k"]
PerQuery = Float[Array, " q"]
Gain = str | Callable[[Array], Array]


def precision_at_1(matches: Matches, relevant: Num[Array, " q"] | None = None) -> PerQuery:
    r"""Returns whether the nearest neighbor matches.

    .. math:: m_1

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import precision_at_1
        >>> print(precision_at_1(jnp.array([[True, False], [False, True]])))
        [1. 0.]

    Args:
        matches: ``[Q, K]``.
        relevant: not used.
    """
    return jnp.sum(_checked("precision_at_1", matches)[:, :1], 1).astype(jnp.float32)


def precision_at_k(
    matches: Matches, relevant: Num[Array, " q"] | None = None, *, k: int | None = None
) -> PerQuery:
    r"""Returns the share of the first `k` neighbors that match.

    .. math:: P_k

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import precision_at_k
        >>> print(precision_at_k(jnp.array([[True, False], [False, False]])))
        [0.5 0. ]

    Args:
        matches: ``[Q, K]``. If there are fewer than K references, the remaining columns are 0, and
            the sum is still divided by `k`.
        relevant: not used.
        k: how many neighbors to use, at most K, which is the default; static.
    """
    first = _first("precision_at_k", matches, k)
    return precision(first, first.shape[1])


def recall_at_k(
    matches: Matches, relevant: Num[Array, " q"] | None = None, *, k: int | None = None
) -> PerQuery:
    r"""Returns whether any of the first `k` neighbors matches: Recall@K in metric learning.

    .. math:: \max_{i \le k} \, [m_i > 0]

    This is a hit rate, not the share of all matches that was found.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import recall_at_k
        >>> print(recall_at_k(jnp.array([[False, True], [False, False]])))
        [1. 0.]

    Args:
        matches: ``[Q, K]``.
        relevant: not used.
        k: how many neighbors to use, at most K, which is the default; static.

    References:
        Jegou et al., `Product Quantization for Nearest Neighbor Search
        <https://doi.org/10.1109/TPAMI.2010.57>`_, 2011.
    """
    return jnp.any(_first("recall_at_k", matches, k) > 0, 1).astype(jnp.float32)


def r_precision(matches: Matches, relevant: Num[Array, " q"]) -> PerQuery:
    r"""Returns the share of the first R neighbors that match.

    .. math:: P_r, \qquad r = \min(R, K)

    If K is below R, it is the precision at K.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import r_precision
        >>> print(r_precision(jnp.array([[True, False, True]]), jnp.array([2])))
        [0.5]

    Args:
        matches: ``[Q, K]``.
        relevant: ``[Q]``.
    """
    matches = _checked("r_precision", matches, relevant)
    among = jnp.minimum(relevant, matches.shape[1])
    return safe_divide(_float(jnp.sum(_up_to(relevant, matches), 1)), _float(among))


def mean_average_precision(matches: Matches, relevant: Num[Array, " q"]) -> PerQuery:
    r"""Returns the average precision: the sum of the precisions at every match, divided by R.

    .. math:: \frac{1}{R} \sum_{i \le K} m_i P_i

    If K is below R, it is at most K / R.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import mean_average_precision
        >>> print(mean_average_precision(jnp.array([[True, False, True]]), jnp.array([2])).round(4))
        [0.8333]

    Args:
        matches: ``[Q, K]``.
        relevant: ``[Q]``.
    """
    return _average_precision(_checked("mean_average_precision", matches, relevant), relevant)


def mean_average_precision_at_r(matches: Matches, relevant: Num[Array, " q"]) -> PerQuery:
    r"""Returns the average precision of the first R neighbors.

    .. math:: \frac{1}{R} \sum_{i \le r} m_i P_i, \qquad r = \min(R, K)

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import mean_average_precision_at_r
        >>> print(mean_average_precision_at_r(jnp.array([[True, False, True]]), jnp.array([2])))
        [0.5]

    Args:
        matches: ``[Q, K]``.
        relevant: ``[Q]``.

    References:
        Musgrave et al., `A Metric Learning Reality Check <https://arxiv.org/abs/2003.08505>`_,
        2020.
    """
    matches = _checked("mean_average_precision_at_r", matches, relevant)
    return _average_precision(_up_to(relevant, matches), relevant)


def mean_reciprocal_rank(matches: Matches, relevant: Num[Array, " q"] | None = None) -> PerQuery:
    r"""Returns one over the rank of the first match, or 0 if there is no match.

    .. math:: \max_i \frac{[m_i > 0]}{i}

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import mean_reciprocal_rank
        >>> print(mean_reciprocal_rank(jnp.array([[False, True], [False, False]])))
        [0.5 0. ]

    Args:
        matches: ``[Q, K]``.
        relevant: not used.
    """
    matches = _checked("mean_reciprocal_rank", matches)
    return jnp.max(jnp.where(matches > 0, 1 / _ranks(matches), 0), 1, initial=0)


def ndcg_at_k(
    matches: Matches,
    relevant: Num[Array, " q"],
    *,
    k: int | None = None,
    ideal: Num[Array, "q l"] | None = None,
    gain: Gain = "linear",
) -> PerQuery:
    r"""Returns the discounted gain of the first `k` neighbors, relative to the best possible order.

    .. math:: \sum_{i \le k} \frac{g(m_i)}{\log_2 (i + 1)} \Big/
              \sum_{i \le k} \frac{g(m^*_i)}{\log_2 (i + 1)}, \qquad
              g(m) = m, \ 2^m - 1 \ \text{or a function}, \quad g(0) = 0

    Here :math:`m^*` are the degrees of match of all references in descending order.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import ndcg_at_k
        >>> print(ndcg_at_k(jnp.array([[False, True, True]]), jnp.array([2])).round(2))
        [0.69]
        >>> grades = jnp.array([[0, 3, 1]])  # nearest first; a grade of 2 was not found
        >>> best = jnp.array([[3, 2, 1]])
        >>> print(ndcg_at_k(grades, jnp.array([3]), ideal=best, gain="exponential").round(2))
        [0.52]
        >>> worth = jnp.array([0.0, 1.0, 1.5, 10.0])  # of each grade
        >>> by_table = lambda grades: worth[grades.astype(int)]
        >>> print(ndcg_at_k(grades, jnp.array([3]), ideal=best, gain=by_table).round(2))
        [0.59]

    Args:
        matches: ``[Q, K]``, degrees or grades of any size that are not negative.
        relevant: ``[Q]``; not used if `ideal` is given.
        k: how many neighbors to use, at most K, which is the default; static.
        ideal: ``[Q, L]``, the highest degrees of match that each query has among the references, in
            descending order: at least `k` of them, or all. The default is `relevant` ones, which is
            right only if all matches are 0 or 1.
        gain: "linear"; "exponential" for grades up to 100; or a function that maps an array of
            degrees in float32 to gains. The gain must not be negative, and must not decrease with
            the degree: `ideal` is in the order of the degrees. A degree of 0 always gains 0. All
            that gain something at 1 are the same if all matches are 0 or 1; static.

    Raises:
        ValueError: for mismatched shapes; for NumPy arrays with negative or NaN degrees or gains,
            or with degrees other than 0 and 1 if `ideal` is not given; for an unknown `gain`.

    References:
        Jarvelin and Kekalainen, `Cumulated Gain-Based Evaluation of IR Techniques
        <https://doi.org/10.1145/582415.582418>`_, 2002.
    """
    name = "evaluation.ndcg_at_k"
    check_gain(name, gain)
    most = most_degree(gain)
    gains_of = gain if callable(gain) else GAINS[gain]
    first = _first("ndcg_at_k", matches, k, most=most)
    if ideal is None:
        if not isinstance(matches, jax.Array) and not np.isin(matches, (0, 1)).all():
            raise ValueError(
                f"{name}: `ideal` must be given for degrees other than 0 and 1, got None. Give "
                f"each query's highest degrees among all references, in descending order."
            )
        ideal = _up_to(relevant, jnp.ones_like(first))
    else:
        check_rows(name, "ideal", ideal, "matches", len(first))
        check_degrees(name, "ideal", ideal, most)
        ideal = ideal[:, : first.shape[1]]
    if callable(gain):
        check_ascends(name, gain, matches, ideal)
    return safe_divide(_discounted(first, gains_of), _discounted(ideal, gains_of))


def precision(matches, k):
    """Divides the sum of the matches by `k`, one number or a number for each query."""
    return safe_divide(_float(jnp.sum(matches, 1)), _float(k))


def check_gain(function, gain):
    if not callable(gain) and gain not in tuple(MOST):
        raise ValueError(
            f"{function}: `gain` must be one of {', '.join(map(repr, MOST))}, or a function of the "
            f"degrees, got {gain!r}."
        )


def most_degree(gain):
    """Returns the largest degree that NDCG takes with this gain."""
    return np.inf if callable(gain) else MOST[gain]


def check_ascends(function, gain, *degrees):
    """Checks a gain at the degrees in NumPy arrays: it starts from 0 or more, and never falls."""
    known = [np.ravel(x) for x in degrees if not isinstance(x, jax.Array)]
    if not known:
        return
    tried = np.unique(np.concatenate(known)).astype(np.float32)
    tried = tried[tried > 0]
    gains = on_host(gain(jnp.asarray(tried)))  # None under `jit`
    if gains is not None and not np.all(np.diff(gains, prepend=0) >= 0):
        raise ValueError(
            f"{function}: `gain` must be at least 0 and must not decrease with the degree, got "
            f"{str(gains)[:60]} for the degrees {str(tried)[:60]}."
        )


def _discounted(degrees, gains_of):
    degrees = _float(degrees)
    gains = jnp.where(degrees == 0, 0, gains_of(degrees))  # a gain such as log2(m) has none at 0
    return jnp.sum(gains / jnp.log2(_ranks(gains) + 1), 1)


def _average_precision(matches, relevant):
    found = jnp.cumsum(matches if matches.dtype == jnp.int32 else _float(matches), 1)
    precision = _float(found) / _ranks(matches)
    return safe_divide(jnp.sum(_float(matches) * precision, 1), _float(relevant))


def _up_to(relevant, matches):
    """Keeps the matches in the first R columns, and sets all others to 0."""
    return jnp.where(_ranks(matches) <= _float(relevant)[:, None], matches, 0)


def _ranks(matches):
    return jnp.arange(1, matches.shape[1] + 1, dtype=jnp.float32)[None, :]


def _float(x):
    return jnp.asarray(x).astype(jnp.float32)


def _first(function, matches, k, *, most=1.0):
    matches = _checked(function, matches, most=most)
    if k is None:
        return matches
    check_at_least(f"evaluation.{function}", "k", k, 1)
    if k > matches.shape[1]:
        raise ValueError(
            f"evaluation.{function}: `k` must be at most the {matches.shape[1]} neighbors in "
            f"`matches`, got {k}."
        )
    return matches[:, :k]


def _checked(function, matches, relevant=None, *, most=1.0):
    """Checks the matches, and returns them as int32 (for exact counts) or float32."""
    name = f"evaluation.{function}"
    if jnp.ndim(matches) != 2:
        raise ValueError(f"{name}: `matches` must have shape [Q, K], got {jnp.shape(matches)}.")
    check_rows(name, "relevant", relevant, "matches", len(matches))
    check_degrees(name, "matches", matches, most)
    check_degrees(name, "relevant", relevant, np.inf)
    matches = jnp.asarray(matches)
    whole = not jnp.issubdtype(matches.dtype, jnp.floating)
    return matches.astype(jnp.int32 if whole else jnp.float32)


def check_degrees(function, name, values, most):
    """Checks that degrees of match are from 0 to `most`, except for those of a `jax.Array`."""
    if not isinstance(values, jax.Array) and np.size(values) and values is not None:
        check_range(function, name, np.min(values), np.max(values), most)


def check_range(function, name, low, high, most):
    """Checks that `low` and `high`, the extremes of degrees of match, are in [0, `most`]."""
    if low >= 0 and high <= most + ROUNDING:
        return
    found = float(high if low >= 0 else low)  # if a degree is NaN, both are NaN
    advice = "Scale degrees to [0, 1], or compute NDCG alone, which takes grades."
    raise ValueError(
        f"{function}: `{name}` must be degrees from 0 to {most:g}, got {found:g}."
        + (f" {advice}" if low >= 0 and most == 1 else "")
    )


ROUNDING = 1e-4
"""A tolerance: degrees that a relation adds up, as in a hierarchy, may be slightly above 1."""

_OF_ALL = mean_average_precision, mean_average_precision_at_r, mean_reciprocal_rank
GAINS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda degrees: degrees,
    "exponential": lambda degrees: jnp.exp2(degrees) - 1,
}
MOST = {"linear": np.inf, "exponential": 100.0}
"""The largest grade that NDCG takes, because float32 ends at 2^128 and the gains are added up."""

RANKED = {metric.__name__: metric for metric in (*_OF_ALL, precision_at_1, r_precision)}
CUT = {"ndcg": ndcg_at_k, "precision": precision_at_k, "recall": recall_at_k}
