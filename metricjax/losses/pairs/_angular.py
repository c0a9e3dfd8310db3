"""Angular loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_euclidean
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.refs import prepare, take
from metricjax._core.triplets import pick, sum_over_positives
from metricjax._core.types import Labels, LossDict, Match, Mined, Refs, Scalar
from metricjax.distances import DotProductSimilarity, LpDistance, normalize
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import pair_term, term
from metricjax.tuples import label_pairs


@declare(within={"alpha": "[0, 90]"})
def angular(
    embeddings: Float[Array, "n d"],
    labels: Labels,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    alpha: Scalar = 40.0,
    distance: LpDistance = LpDistance(),
) -> LossDict:
    r"""Bounds the angle at the negative in the triangle of anchor, positive and negative.

    .. math::
        \ell_{ap} = \log\Big(1 + \sum_n e^{f_{apn}}\Big) \qquad
        f_{apn} = 4 \tan^2\alpha \, (\hat x_a + \hat x_p) \cdot \hat x_n
        - 2 (1 + \tan^2\alpha) \, \hat x_a \cdot \hat x_p

    The negatives of a positive pair are all references whose label differs from the anchor's.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> loss, _ = mj.reduce(mj.losses.angular(x, jnp.array([0, 0, 1])))
        >>> print(f"{loss:.4f}")
        2.8745

    Args:
        embeddings: ``[N, D]``; only their directions matter.
        labels: ``[N]`` integers.
        refs: references to compare with; the batch itself by default.
        mined: the positive pairs that count; all positive pairs by default. A pair counts as often
            as it was mined. Negatives always come from the labels.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        alpha: degrees, 0 to 90; the paper uses 36 to 55.
        distance: the Euclidean `LpDistance`, possibly with another `precision`.

    Returns:
        ``{"loss": [N, M]}``, divided by the number of positive pairs.

    Notes:
        - when: bounds angles, so there is no scale to choose
        - miner: `angular`
        - cost: NM, time NM × P
        - setting: `alpha` 36 to 55; the paper's N-pair part is left out

    References:
        Wang et al., `Deep Metric Learning with Angular Loss <https://arxiv.org/abs/1708.01682>`_,
        2017.
    """
    check_euclidean("losses.angular", distance)
    batch = prepare(embeddings, labels, refs, where)
    positive = pairs_of("losses.angular", batch, mined, match).positive
    dtype = batch.weights.dtype
    negative = label_pairs("losses.angular", batch.labels, batch.refs, match, dtype).negative
    square = jnp.tan(jnp.deg2rad(jnp.asarray(alpha, dtype))) ** 2
    dot = DotProductSimilarity(normalize_embeddings=False, precision=distance.precision)
    x = normalize(batch.embeddings)
    if batch.refs.embeddings is batch.embeddings:
        mat = dot(x)
        pair = lambda j: (mat + take(mat, j), pick(mat, j))
    else:
        others = normalize(batch.refs.embeddings)

        def pair(j):
            positives = take(others, j)
            return dot(x + positives, others), jnp.sum(x * positives, 1, keepdims=True)

    def with_positive(j, weight):
        of_negatives, of_positive = pair(j)
        f_n = logsumexp(4 * square * of_negatives, negative)[:, None]
        value = softplus(f_n - 2 * (1 + square) * of_positive)
        here = (jnp.arange(positive.shape[1])[None, :] == j[:, None]) & (weight > 0)
        return jnp.where(here, value, 0)

    values = sum_over_positives(with_positive, positive)
    return {"loss": pair_term(term, batch, values, positive)}
