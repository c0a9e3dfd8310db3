"""HAP loss of HAPPIER."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, safe_divide
from metricjax._core.refs import prepare
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import LossDict, PerSample, Refs, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._pairs import with_itself
from metricjax.losses._terms import row_term
from metricjax.losses.rankings._steps import LateStep, exact_step
from metricjax.relations import shared_levels


@declare(within={"temperature": "(0, inf)", "rho": "[0, inf)", "delta": "[0, inf)"})
def hap(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, "n l"],
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    alpha: Scalar = 1.0,
    temperature: PerSample = 0.01,
    rho: Scalar = 100.0,
    delta: Scalar = 0.05,
    start: Scalar = 0.5,
    offset: Scalar | None = None,
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Raises an average precision in which mistakes cost less within a genus than across.

    .. math::
        \ell_a = 1 - \frac{1}{\sum_k r_k} \sum_k \frac{r_k + \sum_{j \neq k} \min(r_j, r_k)
        [s_j \ge s_k]}{1 + \sum_{j \neq k, l_j \ge l_k} [s_j \ge s_k]
        + \sum_{l_j < l_k} H(s_j - s_k)} \qquad
        r_k = \frac{(l_k / L)^\alpha}{|\{j: l_j = l_k\}|}

    :math:`l_k` is how many of the L levels a reference shares with the anchor, from the coarsest
    level down. :math:`r_k` is its relevance, 0 if it shares no level. H is the step of `sup_ap`.
    Comparisons in brackets have no gradient. With one level, the loss is `sup_ap`. An anchor that
    is among its references is one of them. A loop takes one relevant reference of every anchor at a
    time, in ``N * M`` memory. A reference of weight 2 counts as two copies.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
        >>> kinds = jnp.array([[0, 0], [0, 1], [0, 1]])  # genus, species
        >>> print(f"{mj.reduce(mj.losses.hap(x, kinds))[0]:.4f}")
        0.1988

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N, L]`` integers, coarsest level first.
        refs: references to compare with; the batch itself by default.
        where: ``[N]`` sample weights; 0 is padding.
        alpha: the larger, the more the finest levels count.
        temperature: of H, > 0: one number, or ``[N]``, one for each anchor.
        rho, delta, start, offset: of H; see `sup_ap`.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"hap_loss": [N]}``, divided by the number of anchors that share a level with a reference
        besides themselves.

    Notes:
        - when: classes have a hierarchy, and mistakes within a branch cost less
        - miner: none taken
        - cost: NM, time NM × P
        - setting: 0.9 times this, plus 0.1 times `normalized_softmax`

    References:
        Ramzi et al., `Hierarchical Average Precision Training for Pertinent Image Retrieval
        <https://arxiv.org/abs/2207.04873>`_, 2022.
    """
    name = "losses.hap"
    check_distance(name, distance, CosineSimilarity)
    late = LateStep(temperature, rho, delta, start, offset)
    batch = prepare(embeddings, labels, refs, where)
    for what, y in ("labels", batch.labels), ("refs.labels", batch.refs.labels):
        if getattr(y, "ndim", 0) != 2 or not jnp.issubdtype(y.dtype, jnp.integer):
            raise ValueError(
                f"{name}: `{what}` must be integers of shape [N, levels], coarsest level first, "
                f"got {getattr(y, 'dtype', type(y).__name__)} of shape {jnp.shape(y)}."
            )
    levels = batch.labels.shape[1]
    if batch.refs.labels.shape[1] != levels:
        raise ValueError(
            f"{name}: `refs.labels` must have {levels} levels to match `labels`, got shape "
            f"{batch.refs.labels.shape}."
        )
    shared = shared_levels(batch.labels, batch.refs.labels)
    there = jnp.broadcast_to(batch.ref_weights[None, :], shared.shape)
    others = with_itself(there, batch.refs._replace(where=jnp.zeros_like(batch.ref_weights)))
    counted = jnp.where(exists(jnp.where(shared > 0, others, 0)), batch.weights, 0)

    relevance = jnp.zeros(shared.shape, batch.weights.dtype)
    for level in range(1, levels + 1):
        same = shared == level
        worth = jnp.asarray(level / levels, relevance.dtype) ** alpha
        count = jnp.sum(jnp.where(same, there, 0), 1)
        relevance += jnp.where(same, safe_divide(worth, count)[:, None], 0)
    relevant = jnp.where(shared > 0, there, 0)
    mat = distance(batch.embeddings, batch.refs.embeddings)
    columns = jnp.arange(mat.shape[1])[None, :]

    def gain_at(k, w):
        gap, its_level, its_worth = mat - pick(mat, k), pick(shared, k), pick(relevance, k)
        before = exact_step(gap, columns == k[:, None])
        gained = jnp.sum(there * before * jnp.minimum(relevance, its_worth), 1)
        rank = jnp.sum(there * jnp.where(shared >= its_level, before, late(gap)), 1)
        return w[:, 0] * safe_divide(gained, rank)

    total = jnp.sum(there * relevance, 1)
    values = 1 - safe_divide(sum_over_positives(gain_at, relevant), total)
    return {"hap_loss": row_term(values, counted)}
