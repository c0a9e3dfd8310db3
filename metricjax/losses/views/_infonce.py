"""InfoNCE between two towers, the loss of CLIP."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.types import LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._classes import similarities
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views


@declare(
    rows="batch",
    why="each row meets all rows of the other tower, and the other way round",
    within={"temperature": "(0, inf)"},
)
def infonce(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.07,
    symmetric: bool = True,
    distance: Distance = CosineSimilarity(),
) -> LossDict:
    r"""Picks the other half of each pair out among the batch, in both directions: CLIP's loss.

    .. math::
        \ell_i = \tfrac12 \Big( -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}
        - \log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ji} / \tau}} \Big)

    A distance is used with its sign changed. For pairs that share a label use `ntxent` or `siglip`
    with references. It needs the whole batch on every device.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.infonce(jnp.eye(3), jnp.eye(3), temperature=1.0))
        >>> print(f"{loss:.4f}")
        0.5514

    Args:
        embeddings: ``[N, D]``, of images, say.
        ref_embeddings: ``[N, D]``, of their texts: row i belongs to row i.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the similarities, > 0; may be learned.
        symmetric: both directions, or only from `embeddings` to `ref_embeddings`; static.
        distance: pairwise distance or similarity.

    Returns:
        ``{"loss": [N]}``, divided by the number of pairs.

    Notes:
        - when: pairs of two towers (CLIP), no labels
        - miner: none taken
        - cost: N²
        - setting: default; it learns the temperature

    References:
        Radford et al., `Learning Transferable Visual Models From Natural Language Supervision
        <https://arxiv.org/abs/2103.00020>`_, 2021; van den Oord et al., `Representation Learning
        with Contrastive Predictive Coding <https://arxiv.org/abs/1807.03748>`_, 2018.
    """
    x, r, weights = prepare_views("losses.infonce", embeddings, ref_embeddings, where)
    logits = similarities(distance, x, r) / temperature
    own = jnp.sum(jnp.where(jnp.eye(len(x), dtype=bool), logits, 0), 1)

    def cross_entropy(axis):
        rivals = jnp.where(jnp.eye(len(x), dtype=bool), 0, jnp.expand_dims(weights, 1 - axis))
        return softplus(logsumexp(logits, rivals, axis) - own)

    values = (cross_entropy(1) + cross_entropy(0)) / 2 if symmetric else cross_entropy(1)
    return {"loss": row_term(jnp.where(weights > 0, values, 0), weights)}
