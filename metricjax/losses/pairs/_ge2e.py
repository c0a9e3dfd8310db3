"""Generalized end-to-end loss."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice
from metricjax._core.declare import declare
from metricjax._core.masked import exists, logsumexp, safe_divide, softplus
from metricjax._core.refs import admit, prepare, replicated
from metricjax._core.types import Labels, LossDict, Match, Scalar
from metricjax.distances import CosineSimilarity, normalize
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import row_term
from metricjax.losses._views import row_similarities


@declare(
    rows="batch", why="its centroids are those of the whole batch", within={"scale": "(0, inf)"}
)
def ge2e(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    scale: Scalar = 10.0,
    bias: Scalar = -5.0,
    *,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    variant: Literal["softmax", "contrast"] = "softmax",
    distance: CosineSimilarity = CosineSimilarity(),
) -> LossDict:
    r"""Pulls each sample toward the centroid of its class and pushes it away from other centroids.

    .. math::
        \ell_i = -S_{iy} + \log \sum_k e^{S_{ik}} \quad \text{or} \quad
        1 - \sigma(S_{iy}) + \max_{k \neq y} \sigma(S_{ik}) \qquad
        S_{ik} = w \cos(x_i, c_k) + b

    :math:`c_k` is the mean of the normalized embeddings of class k in the batch. The centroid of a
    sample's own class leaves out the sample itself.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
        >>> loss, _ = mj.reduce(mj.losses.ge2e(x, jnp.array([0, 0, 1, 1])))
        >>> print(f"{loss:.4f}")
        0.4091

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers.
        scale: w, > 0; learnable. `metricjax.nn.GE2E` owns its logarithm.
        bias: b; learnable. It has no effect with "softmax".
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality. It must divide the batch into
            classes; see `metricjax.tuples.all_pairs`.
        variant: "softmax" over the classes, or "contrast" with the nearest other centroid; static.
        distance: `CosineSimilarity`, possibly with another `precision`.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples whose class has another sample.

    Notes:
        - when: speaker verification; many samples of each class in a batch
        - miner: none taken
        - cost: N²
        - setting: "softmax", with learned scale and bias

    References:
        Wan et al., `Generalized End-to-End Loss for Speaker Verification
        <https://arxiv.org/abs/1710.10467>`_, 2018.
    """
    check_choice("losses.ge2e", "variant", variant, ("softmax", "contrast"))
    embeddings, labels, _ = admit("losses.ge2e", embeddings, labels, None, where)
    batch = prepare(embeddings, labels, None, where)
    positive, negative = pairs_of("losses.ge2e", batch, None, match)
    x = normalize(batch.embeddings)
    others = jnp.matmul(positive, replicated(x), precision=distance.precision)  # without itself
    # There is a copy of a class's centroid for each of its samples. Each copy has weight 1 / size,
    # so that a class counts once.
    sizes = jnp.sum(positive, 1) + batch.weights
    centroids, shares = replicated(
        (others + batch.weights[:, None] * x, safe_divide(jnp.ones_like(sizes), sizes))
    )
    rivals = negative * shares[None, :]
    own = scale * row_similarities(distance, x, others) + bias
    logits = scale * distance(x, centroids) + bias
    if variant == "softmax":
        values = softplus(logsumexp(logits, rivals) - own)
    else:
        nearest = jnp.max(jnp.where(rivals > 0, jax.nn.sigmoid(logits), 0), 1)
        values = 1 - jax.nn.sigmoid(own) + nearest
    return {"loss": row_term(values, jnp.where(exists(positive), batch.weights, 0))}
