"""Hard negatives from the whole data set, and batches of anchors with them.

Mining and drawing are separate. `hard_negatives` searches all references for each anchor, on the
device, and returns a table. `with_negatives` draws batches from this table, on the host. The table
is small, and is mined again every so often, when the network has changed:

    embeddings [N, D], labels [N]  --hard_negatives-->  table [N, k]
    table, seed, step              --with_negatives-->  rows [B, 2 + H] of (a, p, n_1, ..., n_H)

The search holds one block of distances at a time, never ``[N, N]``. Known positives and references
within a margin are masked inside of a block. So the k best are the k best of what is left. To drop
these references afterwards, the search would have to return ``k + size of the class`` neighbors,
and with a margin it could still return too few.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from metricjax._core.check import check_at_least, check_is_distance
from metricjax._core.masked import upcast
from metricjax.distances import CosineSimilarity, Distance
from metricjax.evaluation._knn import (
    Ignore,
    as_ignores,
    check_search,
    different,
    found,
    search,
)
from metricjax.evaluation._labels import for_search
from metricjax.samplers._arguments import check_samples, steps_and_part
from metricjax.samplers._classes import group
from metricjax.samplers._random import endless, integers, words


def hard_negatives(
    embeddings: Float[Array, "n d"],
    labels: ArrayLike,
    reference: Float[Array, "m d"] | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    ignore: Ignore | None = None,
    k: int,
    skip: int = 0,
    margin: float | None = None,
    relative_margin: float | None = None,
    nearest: float | None = None,
    farthest: float | None = None,
    distance: Distance = CosineSimilarity(),
) -> np.ndarray:
    r"""Finds the nearest references with another label for every anchor, in the whole data set.

    .. math::
        \mathrm{table}_i = \operatorname{argsort}_{j:\, y_j \ne y_i} d(x_i, r_j)_{[skip:\,skip + k]}

    The search is exact. It looks at all pairs but holds only a block of them. A margin leaves out
    references that are nearly as close as a known positive, because such references are often
    positives that nobody labeled. The margin is measured from the anchor's farthest positive, as in
    sentence-transformers' ``mine_hard_negatives``. An anchor without a positive has no margin.

    Example:
        >>> import jax.numpy as jnp
        >>> from metricjax import samplers
        >>> x = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
        >>> print(samplers.hard_negatives(x, ["cat", "cat", "dog", "dog"], k=2))
        [[2 3]
         [2 3]
         [1 0]
         [1 0]]
        >>> print(samplers.hard_negatives(x, ["cat", "cat", "dog", "dog"], k=2, margin=0.1))
        [[ 3 -1]
         [ 3 -1]
         [-1 -1]
         [ 1  0]]

    Args:
        embeddings: ``[N, D]``, the anchors.
        labels: ``[N]`` integers or strings. All samples of a label are positives of each other.
        reference: ``[M, D]``, where to search, for example the documents of N queries. By default
            the anchors themselves.
        reference_labels: ``[M]``, needed with `reference`. If row i of both sides is a pair, both
            labels are ``np.arange(N)``.
        ignore: pairs of an anchor and a reference that are neither positive nor negative, such as
            pairs that a person has rejected; see `metricjax.evaluation.Ignore`. `with_negatives`
            does not know these pairs: it may draw one of equal labels as a positive.
        k: the number of negatives for each anchor.
        skip: the number of nearest negatives to leave out. They are counted after the margins.
        margin: how much farther than the farthest positive a negative must be. For a similarity it
            is at most the similarity of that positive minus the margin. For a distance it is at
            least the distance of that positive plus the margin.
        relative_margin: the same as a fraction of the absolute value of that similarity or
            distance; 0.05 is common for the cosine. If both margins are given, both apply.
        nearest: a bound on all negatives: the largest similarity, or the smallest distance.
        farthest: a bound on the other side: the smallest similarity, or the largest distance.
        distance: pairwise distance or similarity.

    Returns:
        ``[N, k]`` rows of the references, nearest first; -1 where there are fewer than k.

    References:
        Xiong et al., `Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text
        Retrieval <https://arxiv.org/abs/2007.00808>`_, 2020 (ANCE); Moreira et al., `NV-Retriever
        <https://arxiv.org/abs/2407.15831>`_, 2024 (margins).
    """
    name = "samplers.hard_negatives"
    if (reference is None) != (reference_labels is None):
        raise ValueError(f"{name}: `reference` and `reference_labels` must be given together.")
    check_is_distance(name, distance)
    check_at_least(name, "k", k, 1)
    check_at_least(name, "skip", skip, 0)
    within = reference is None
    others, other_labels = (embeddings, labels) if within else (reference, reference_labels)
    x, y = check_search(name, embeddings, others, "embeddings")
    sides = [
        ("labels", labels, "embeddings", len(x)),
        ("reference_labels", other_labels, "reference", len(y)),
    ]
    codes, ref_codes = map(jnp.asarray, for_search(name, sides))
    ignores = as_ignores(name, ignore, "embeddings", len(x), len(y), within=within)
    if not len(y):
        return np.full((len(x), k), -1, np.int32)

    similar, limit = distance.is_similarity, None
    if margin is not None or relative_margin is not None:
        own = jnp.arange(len(x)) if within else None
        negatives = Ignore(codes, ref_codes, different)
        farthest_positives = search(
            x, y, k=1, distance=_Reversed(distance), own=own, ignores=(*ignores, negatives)
        )
        limit = _beyond(farthest_positives, margin, relative_margin, similar)
    if nearest is not None:
        anywhere = jnp.full(len(x), jnp.inf if similar else -jnp.inf, upcast(x).dtype)
        limit = anywhere if limit is None else limit
        limit = jnp.minimum(limit, nearest) if similar else jnp.maximum(limit, nearest)
    neighbors = search(
        x, y, k=min(skip + k, len(y)), distance=distance, nearest=limit,
        ignores=(*ignores, Ignore(codes, ref_codes)),  # positives are no negatives
    )  # fmt: skip
    real, at = found(neighbors), neighbors.distances
    if farthest is not None:  # neighbors are sorted, so this needs no mask inside of the search
        real &= at >= farthest if similar else at <= farthest
    table = np.asarray(jnp.where(real, neighbors.indices, -1))[:, skip:]
    return np.pad(table, ((0, 0), (0, k - table.shape[1])), constant_values=-1)


@dataclasses.dataclass(frozen=True)
class _Reversed:
    """A distance that is searched for the farthest: its smallest similarity counts as nearest."""

    distance: Distance

    @property
    def is_similarity(self) -> bool:
        return not self.distance.is_similarity

    def __call__(self, x: Array, y: Array | None = None) -> Array:
        return self.distance(x, y)


def _beyond(positives, margin, relative_margin, similar):
    """Returns how near a negative of each anchor may be, given the anchor's farthest positive."""
    to, exists = positives.distances[:, 0], positives.indices[:, 0] >= 0
    gaps = [] if margin is None else [jnp.full_like(to, margin)]
    gaps += [] if relative_margin is None else [relative_margin * jnp.abs(to)]
    gap = jnp.max(jnp.stack(gaps), 0)
    # without a positive, `to` is already infinite on the side where it leaves nothing out
    return jnp.where(exists, to - gap if similar else to + gap, to)


def with_negatives(
    negatives: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    batch_size: int,
    num_negatives: int,
    seed: int,
    step: ArrayLike,
    shard_index: int = 0,
    shard_count: int = 1,
) -> np.ndarray:
    """Draws batches of anchors, each with a positive and some of its mined negatives.

    An epoch has each anchor once, in random order. Batches continue across epochs, so every batch
    is full and no batch has an anchor twice. The positive is another sample of the anchor's class,
    and the negatives are different ones of the anchor's row in `negatives`. All are equally likely,
    and every epoch draws anew. Anchors with fewer than `num_negatives` negatives are left out, and
    so are anchors without another sample of their class.

    Example:
        >>> from metricjax import samplers
        >>> table = [[2, 3], [3, 2], [1, -1], [0, 1]]
        >>> batch = samplers.with_negatives(
        ...     table, ["cat", "cat", "dog", "dog"], batch_size=2, num_negatives=2, seed=0, step=0
        ... )
        >>> print(batch)  # anchor, positive, negative, negative
        [[1 0 2 3]
         [0 1 3 2]]

    Args:
        negatives: ``[N, k]`` rows for each anchor, as `hard_negatives` returns them; -1 for none.
        labels: ``[N]`` integers or strings, if the negatives were mined among the anchors
            themselves. Without labels, row i of the anchors and row i of the references are a pair,
            such as a query and its document: the positive is row i.
        batch_size: the number of anchors in a batch over all shards.
        num_negatives: H, the number of negatives for each anchor; at most k.
        seed: an integer >= 0.
        step: index of the batch, from 0; or an array of steps, for many batches at once.
        shard_index, shard_count: which of the equal parts of the batch to return. The parts in
            order are the batch.

    Returns:
        ``[*step.shape, batch_size / shard_count, 2 + H]`` indices of samples: the anchor, its
        positive, its negatives. The anchor is a row of the anchors, the others are rows of the
        references. With B rows, `metricjax.losses.infonce` takes the embeddings of
        ``batch[:, 0]``, ``batch[:, 1]`` and ``batch[:, 2:]``, which is ``[B, H, D]``. For triplets
        with H = 1, embed ``batch.ravel()`` and call `metricjax.tuples.from_triplets` with
        ``(*jnp.arange(3 * B).reshape(-1, 3).T)``.
    """
    name = "samplers.with_negatives"
    negatives = np.asarray(negatives)
    if negatives.ndim != 2 or not np.issubdtype(negatives.dtype, np.integer):
        raise ValueError(
            f"{name}: `negatives` must be integers [N, k], as `hard_negatives` returns them, got "
            f"{negatives.dtype} {negatives.shape}."
        )
    n, k = negatives.shape
    check_at_least(name, "num_negatives", num_negatives, 1)
    steps, part = steps_and_part(name, batch_size, seed, step, shard_index, shard_count)
    usable = np.sum(negatives >= 0, 1) >= num_negatives
    if labels is not None:
        labels = check_samples(name, "labels", labels, 1)
        if len(labels) != n:
            raise ValueError(
                f"{name}: `labels` must have shape [{n}] to match `negatives`, got {labels.shape}."
            )
        if negatives.size and negatives.max() >= n:
            raise ValueError(
                f"{name}: with `labels`, `negatives` must be rows of the {n} anchors, got row "
                f"{negatives.max()}. Mine without `reference`, or leave out `labels`."
            )
        classes = group(labels)
        usable[classes.members[classes.starts[classes.sizes == 1]]] = False
    anchors = np.flatnonzero(usable)
    if batch_size > len(anchors):
        raise ValueError(
            f"{name}: `batch_size` must be at most {len(anchors)}, the number of anchors with "
            f"{num_negatives} negatives{'' if labels is None else ' and a positive'}, got "
            f"{batch_size}. Mine more negatives, or lower `num_negatives`."
        )
    epoch, which = endless(len(anchors), batch_size, seed, steps)
    epoch, anchor = epoch[..., part], anchors[which[..., part]]
    positive = anchor if labels is None else _another(classes, anchor, seed, epoch)
    mined = negatives[anchor].astype(np.int64)
    order = words(seed, 2, epoch[..., None], anchor[..., None], np.arange(k))
    order = np.where(mined < 0, np.uint64(2**64 - 1), order)  # those that are not there come last
    chosen = np.argsort(order, -1, kind="stable")[..., :num_negatives]
    rows = np.stack([anchor, positive], -1), np.take_along_axis(mined, chosen, -1)
    return np.concatenate(rows, -1)


def _another(classes, samples, seed, epoch):
    """Draws another sample of the class of each of `samples`."""
    place = np.empty_like(classes.members)
    place[classes.members] = np.arange(len(place))
    which = np.searchsorted(classes.starts, place[samples], side="right") - 1
    start, size = classes.starts[which], classes.sizes[which]
    further = 1 + integers(size - 1, seed, 1, epoch, samples)
    return classes.members[start + (place[samples] - start + further) % size]
