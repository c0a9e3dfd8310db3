"""Open-set identification: who is it, if the probe may be nobody in the gallery; and templates."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from metricjax._core.check import (
    check_at_least,
    check_embeddings,
    check_is_distance,
    check_rows,
)
from metricjax._core.rounding import rounded
from metricjax._core.tuning import block_sizes
from metricjax.distances import CosineSimilarity, Distance, normalize
from metricjax.evaluation._labels import coded_sides, host_labels
from metricjax.evaluation._verification import (
    as_rates,
    most_within,
    scores,
    threshold_above,
    warn_of_few,
)


class DirAtFpir(NamedTuple):
    """Detection and identification rates; the result of `dir_at_fpir`.

    Attributes:
        dir: ``[F, R]``, the share of known probes that are accepted and have a rank of at most r.
        threshold: ``[F]``, the smallest similarity, or largest distance, that is accepted.
        fpir: ``[F]``, the share of unknown probes that are accepted: at most the rate that was
            asked for.
        known: the number of probes whose id is in the gallery.
        unknown: the number of probes whose id is not in the gallery.
    """

    dir: Float[np.ndarray, "f r"]
    threshold: Float[np.ndarray, " f"]
    fpir: Float[np.ndarray, " f"]
    known: int
    unknown: int


def dir_at_fpir(
    probe: Float[Array, "q d"],
    probe_ids: Any,
    gallery: Float[Array, "m d"],
    gallery_ids: Any,
    *,
    fpir: float | Sequence[float] = (0.01, 0.1),
    ranks: int | Sequence[int] = (1,),
    distance: Distance = CosineSimilarity(),
) -> DirAtFpir:
    r"""Computes how many probes are identified when few strangers are taken for somebody.

    The score :math:`s_{ij}` of probe i and subject j is that of the subject's closest row in the
    gallery. The false positive identification rate (FPIR) is the share of unknown probes, whose id
    is not in the gallery, that have any score above the bar. The detection and identification rate
    (DIR) is the share of known probes whose own score is above the bar, and is among the r best:

    .. math::
        \mathrm{DIR}(f, r) = P(s_{ii} > b_f,\ \mathrm{rank}_i \le r \mid \text{known}), \qquad
        \mathrm{rank}_i = 1 + |\{j \ne i : s_{ij} \ge s_{ii}\}|

    The bar :math:`b_f` is the smallest with :math:`\mathrm{FPIR} \le f`. It is the best score of an
    unknown probe. Another subject with an equal score counts against the probe.

    Without unknown probes every probe is accepted, and DIR is the closed-set identification rate.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import dir_at_fpir
        >>> gallery, gallery_ids = jnp.array([[1.0, 0.0], [0.0, 1.0]]), ["ann", "ben"]
        >>> probes = jnp.array([[2.0, 1.0], [1.0, 3.0], [3.0, 4.0]])
        >>> result = dir_at_fpir(probes, ["ann", "ben", "eve"], gallery, gallery_ids, fpir=0.0)
        >>> print(result.dir, result.known, result.unknown)
        [[1.]] 2 1

    Args:
        probe: ``[Q, D]``.
        probe_ids: ``[Q]`` integers or strings.
        gallery: ``[M, D]``; a subject may have several rows. `templates` averages them.
        gallery_ids: ``[M]`` integers or strings.
        fpir: ``[F]`` rates from 0 to 1, or one rate.
        ranks: ``[R]``, the largest ranks that count as identified, or one rank.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. A cosine within 16 eps of 1 counts as 1, as
            in `inference`.

    Returns:
        `DirAtFpir`. A probe is accepted if its similarity is at least `threshold`, or its distance
        at most `threshold`. The threshold is the float next to the bar. If all unknown probes may
        be accepted, it accepts everything: it is ``-inf``, or ``inf`` for distances.

    Warns:
        UserWarning: if there are unknown probes, but fewer than ``1 / fpir``. None of them is then
            accepted.

    Raises:
        ValueError: for mismatched shapes, for rates outside of [0, 1], for ranks below 1, if no
            probe is known, or if a distance is NaN.
        TypeError: if embeddings are not floating, or for ids that are neither integers nor strings.
    """
    name = "evaluation.dir_at_fpir"
    probe, gallery = _check_both(name, probe, gallery)
    check_is_distance(name, distance)
    rates, most_ranks = as_rates(name, "fpir", fpir), np.asarray(ranks).reshape(-1)
    for rank in most_ranks.tolist():
        check_at_least(name, "ranks", rank, 1)
    probes = ("probe_ids", probe_ids, "probe", len(probe))
    galleries = ("gallery_ids", gallery_ids, "gallery", len(gallery))
    ids, subject = coded_sides(name, probes, galleries)
    known = np.isin(ids, subject)
    if not known.any():
        raise ValueError(
            f"{name}: `probe_ids` must have ids that are in `gallery_ids`, got none. Give both the "
            f"same kind of ids."
        )
    own, rank, best = _scores_and_ranks(name, probe, ids, gallery, subject, distance)

    strangers = np.sort(best[~known])[::-1]
    if strangers.size:
        warn_of_few(name, "fpir", rates, "unknown probes", len(strangers))
        most = np.array([most_within(rate, len(strangers)) for rate in rates])
    else:
        most = np.zeros(len(rates), int)
    every = most == len(strangers)
    bars = np.append(strangers, -np.inf).astype(best.dtype)[most][:, None]
    accepted, false = (every[:, None] | (score > bars) for score in (own[known], strangers))
    identified = rank[known] <= most_ranks[:, None]
    return DirAtFpir(
        dir=np.mean(accepted[:, None] & identified[None], -1),
        threshold=threshold_above(bars[:, 0], every, distance.is_similarity),
        fpir=false.sum(1) / max(len(strangers), 1),
        known=int(known.sum()),
        unknown=len(strangers),
    )


class Templates(NamedTuple):
    """One embedding for each id; the result of `templates`.

    Attributes:
        embeddings: ``[T, D]``, of length 1.
        ids: ``[T]``, in ascending order.
    """

    embeddings: Float[Array, "t d"]
    ids: Shaped[np.ndarray, " t"]


def templates(embeddings: Float[Array, "n d"], ids: Any, weights: Any = None) -> Templates:
    r"""Averages the embeddings of each id.

    .. math:: t_k = \frac{m_k}{\lVert m_k \rVert}, \qquad
              m_k = \sum_{i : \mathrm{id}_i = k} w_i \frac{x_i}{\lVert x_i \rVert}

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax.evaluation import templates
        >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> print(*templates(x, ["ann", "ann", "ben"]))
        [[0.70710677 0.70710677]
         [0.         1.        ]] ['ann' 'ben']

    Args:
        embeddings: ``[N, D]``.
        ids: ``[N]`` integers or strings.
        weights: ``[N]``, for example the quality of each picture; 1 by default. With the norms of
            the embeddings as weights, the template is the mean of the embeddings as they are. A row
            of weight 0 is left out.

    Returns:
        `Templates`, one for each id that has a row of positive weight.

    Raises:
        ValueError: for mismatched shapes, or weights that are negative, NaN or infinite.
        TypeError: if embeddings are not floating, or for ids that are neither integers nor strings.
    """
    name = "evaluation.templates"
    x = jnp.asarray(embeddings)
    check_embeddings(name, "embeddings", x)
    ids = host_labels(name, "ids", ids, "embeddings", len(x))
    weights = np.ones(len(x), np.float32) if weights is None else np.asarray(weights, np.float32)
    check_rows(name, "weights", weights, "embeddings", len(x))
    if weights.ndim > 1 or not np.all((weights >= 0) & (weights < np.inf)):
        got = f"shape {weights.shape}" if weights.ndim > 1 else "NaN, infinite or negative ones"
        raise ValueError(f"{name}: `weights` must be [N] numbers of at least 0, got {got}.")
    kept = np.unique(ids[weights > 0])
    # A row of weight 0 goes to the last sum, which is cut off: its id may have no template.
    code = np.where(weights > 0, np.searchsorted(kept, ids), len(kept)).astype(np.int32)
    return Templates(_unit_sums(x, code, weights, count=len(kept)), kept)


@functools.partial(jax.jit, static_argnames="count")
def _unit_sums(x, code, weights, *, count):
    x = normalize(x)
    weighted = jnp.where((weights > 0)[:, None], x * weights[:, None].astype(x.dtype), 0)
    return normalize(jax.ops.segment_sum(weighted, code, count + 1)[:count])


def _check_both(function, probe, gallery):
    probe, gallery = jnp.asarray(probe), jnp.asarray(gallery)
    check_embeddings(function, "probe", probe)
    check_embeddings(function, "gallery", gallery)
    if probe.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"{function}: `gallery` must have {probe.shape[1]} features to match `probe`, got "
            f"{gallery.shape}. Embed both with the same network."
        )
    return probe, gallery


def _scores_and_ranks(function, probe, ids, gallery, gallery_ids, distance):
    """Returns the score of each probe's own subject, its rank, and the best score, each ``[Q]``."""
    subjects, subject = np.unique(gallery_ids, return_inverse=True)
    own = np.minimum(np.searchsorted(subjects, ids), len(subjects) - 1)  # any, of an unknown probe
    size, ref_size = block_sizes().search
    # A block of probes keeps its scores with all subjects, and no more scores than a block has.
    size = max(1, min(len(probe), size, size * ref_size // len(subjects)))
    found = _against_subjects(
        probe, own.astype(np.int32), gallery, subject.astype(np.int32), subjects=len(subjects),
        distance=rounded(function, distance), size=size, ref_size=min(len(gallery), ref_size),
    )  # fmt: skip
    score, rank, best = (np.asarray(x) for x in found)
    if nan := int(np.isnan(best).sum()):
        raise ValueError(
            f"{function}: `probe` must have no NaN distance, got some for {nan} of {len(probe)} "
            f"rows. Leave out the rows that are NaN or infinite."
        )
    return score, rank, best


@functools.partial(jax.jit, static_argnames=("subjects", "distance", "size", "ref_size"))
def _against_subjects(probe, own, gallery, subject, *, subjects, distance, size, ref_size):
    """Returns the score of each probe's own subject, its rank, and the best score, each ``[Q]``.

    A block of probes keeps its scores with all subjects, and looks at a block of the gallery at a
    time. Scores are ``[subjects, probes]``: so one row of the gallery updates one contiguous row.

    Args:
        own: ``[Q]``, the subject of each probe.
        subject: ``[M]``, the subject of each row of the gallery.
    """
    fill = lambda x, size, value: jnp.pad(
        x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1), constant_values=value
    )
    gallery = fill(gallery, ref_size, 0)
    subject = fill(jnp.asarray(subject), ref_size, subjects)  # beyond the last: dropped
    cut = lambda x: fill(jnp.asarray(x), size, 0).reshape(-1, size, *x.shape[1:])

    def block(args):
        x, own = args

        def step(k, best):
            part = lambda y: jax.lax.dynamic_slice_in_dim(y, k * ref_size, ref_size)
            score = scores(distance, x, part(gallery)).T
            return best.at[part(subject)].max(score, mode="drop")

        dtype = jax.eval_shape(lambda: scores(distance, x, gallery[:1])).dtype
        best = jnp.full((subjects, size), -jnp.inf, dtype)
        best = jax.lax.fori_loop(0, len(gallery) // ref_size, step, best)
        mine = jnp.take_along_axis(best, own[None, :], 0)[0]
        return mine, jnp.sum(best >= mine[None, :], 0), jnp.max(best, 0)

    results = jax.lax.map(block, (cut(probe), cut(own)))
    return tuple(x.reshape(-1)[: len(probe)] for x in results)
