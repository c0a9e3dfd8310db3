"""Recall@k surrogate loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance, on_host
from metricjax._core.declare import declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import Labels, LossDict, Match, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term


@declare(within={"temperature": "(0, inf)"})
def recall_at_k(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    temperature: PerSample = 0.01,
    rank_temperature: Scalar | Float[Array, " k"] = 1.0,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Raises the share of positives among the k nearest references, for several k at once.

    .. math::
        \ell_a = 1 - \frac{1}{|K|} \sum_{k \in K} \frac{\min\big(k, \; \sum_{p \in P_a}
        \sigma\big(\frac{k - R_{ap}}{\tau_2}\big)\big)}{\min(k, |P_a|)} \qquad
        R_{ap} = 1 + \sum_{j \neq p} \sigma\Big(\frac{s_{aj} - s_{ap}}{\tau_1}\Big)

    The anchor itself is no reference. The authors' code leaves it among the references, so that all
    its ranks are larger by one: its k is k - 1 here. A loop takes one positive of every anchor at a
    time, in ``N * M`` memory. A reference of weight 2 counts as two copies.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.recall_at_k(x, jnp.array([0, 0, 1]), ks=(1,)))
        >>> print(f"{loss:.4f}")
        0.6768

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        ks: the numbers of neighbors k; static.
        temperature: :math:`\tau_1`, the softness of the ranks, > 0: one number, or ``[N]``, one for
            each anchor.
        rank_temperature: :math:`\tau_2`, the softness of the comparison of a rank with k, > 0: one
            number, or one for each k.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"recall_loss": [N]}``, values from 0 to 1, divided by the number of anchors with a
        positive.

    Notes:
        - when: recall at k is the goal; large batches
        - miner: none taken
        - cost: NM, time NM × P
        - setting: default, batches of 4,000

    References:
        Patel et al., `Recall@k Surrogate Loss with Large Batches and Similarity Mixup
        <https://arxiv.org/abs/2108.11179>`_, 2022.
    """
    name = "losses.recall_at_k"
    check_distance(name, distance, CosineSimilarity)
    whole = isinstance(ks, tuple | list) and all(isinstance(k, int | np.integer) for k in ks)
    if not whole or not ks or min(ks) < 1:
        raise ValueError(f"{name}: `ks` must be a tuple of integers >= 1, got {ks!r}.")
    batch = prepare(embeddings, labels, refs, where)
    k = jnp.asarray(ks, batch.weights.dtype)
    if jnp.shape(rank_temperature) not in ((), k.shape):
        raise ValueError(
            f"{name}: `rank_temperature` must be one number or have shape {k.shape}, one for each "
            f"k, got shape {jnp.shape(rank_temperature)}."
        )
    known = on_host(rank_temperature)
    if known is not None and not (known > 0).all():
        raise ValueError(f"{name}: `rank_temperature` must be above 0, got {rank_temperature}.")
    softness = jnp.broadcast_to(jnp.asarray(rank_temperature, k.dtype), k.shape)
    positive, negative = pairs_of(name, batch, None, match)
    everyone = positive + negative
    mat = distance(batch.embeddings, batch.refs.embeddings)

    def found_at(p, w):
        ahead = jax.nn.sigmoid((mat - pick(mat, p)) / temperature)  # 1/2 for p itself
        rank = 0.5 + jnp.sum(everyone * ahead, 1)
        return w * jax.nn.sigmoid((k[None, :] - rank[:, None]) / softness[None, :])

    found = jnp.zeros((mat.shape[0], len(ks)), mat.dtype) + sum_over_positives(found_at, positive)
    found = jnp.where(found >= k[None, :], k[None, :], found)  # no gradient at k
    most = jnp.minimum(k[None, :], jnp.sum(positive, 1)[:, None])
    values = 1 - jnp.mean(safe_divide(found, most), 1)
    return {"recall_loss": row_term(values, jnp.where(exists(positive), batch.weights, 0))}
