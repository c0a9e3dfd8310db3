"""Contrastive loss with hard negatives and without false ones, and the debiased loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.masked import exists, logsumexp, softplus
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity
from metricjax.losses._row_blocks import by_rows
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views, rivals_of

WHY = "each row meets all rows of both views"
LARGEST = 80.0
"""The largest exponent that is used: e^80 is finite in float32. If the prior is above 1e-34, prior
times e^80 is above 1, and the correction is clamped anyway."""


@declare(rows="batch", why=WHY, within={"temperature": "(0, inf)", "prior": "[0, 1)"})
def debiased_contrastive(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.5,
    prior: Scalar = 0.1,
    distance: CosineSimilarity = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""NT-Xent of two views, corrected for negatives that are of the same class by chance.

    .. math::
        \ell_i = \log\Big(1 + \frac{m\,g}{e^{s^+ / \tau}}\Big) \qquad
        g = \max\bigg(\frac{\mathrm{mean}_j\, e^{s_j / \tau} - \tau^+ e^{s^+ / \tau}}{1 - \tau^+},
        \; e^{-1 / \tau}\bigg)

    :math:`s^+` is the cosine of the two views of a sample, and :math:`s_j` are those with the
    m = 2N - 2 views of other samples. :math:`\tau^+` is the probability that another sample has the
    same class. Every sample is taken twice, once for each of its views; its value is the mean.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.debiased_contrastive(jnp.eye(3), jnp.eye(3)))
        >>> print(f"{loss:.4f}")
        0.1459

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the cosines, > 0.
        prior: :math:`\tau^+`, from 0 to below 1. With 0, the loss is NT-Xent.
        distance: `CosineSimilarity`, possibly with another `precision`.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            Negatives are those of all devices.
        chunk_size: at most this many rows at a time; static. By default all rows of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. The value of a single sample is 0.

    Notes:
        - when: self-supervision with few classes
        - miner: none taken
        - cost: N²
        - setting: default; `prior` is one over the number of classes

    References:
        Chuang et al., `Debiased Contrastive Learning <https://arxiv.org/abs/2007.00224>`_, 2020.
    """
    rows = prepare_views("losses.debiased_contrastive", embeddings, ref_embeddings, where)
    check_distance("losses.debiased_contrastive", distance, CosineSimilarity)
    block = _block(distance, temperature, prior, None)
    return by_rows(
        "losses.debiased_contrastive",
        block,
        rows,
        pairs=4,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )


@declare(
    rows="batch",
    why=WHY,
    within={"temperature": "(0, inf)", "prior": "[0, 1)", "beta": "[0, inf)"},
)
def hard_negative_contrastive(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.5,
    prior: Scalar = 0.1,
    beta: Scalar = 1.0,
    distance: CosineSimilarity = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""`debiased_contrastive` in which negatives count for more the closer they are.

    .. math::
        \ell_i = \log\Big(1 + \frac{m\,g}{e^{s^+ / \tau}}\Big) \qquad
        g = \max\bigg(\frac{\bar e - \tau^+ e^{s^+ / \tau}}{1 - \tau^+}, \; e^{-1 / \tau}\bigg)
        \qquad \bar e = \frac{\sum_j e^{\beta s_j / \tau} e^{s_j / \tau}}
        {\sum_j e^{\beta s_j / \tau}}

    Gradients flow through the weights :math:`e^{\beta s_j / \tau}`, too. The letters are those of
    `debiased_contrastive`, which is the case :math:`\beta = 0`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> loss, _ = mj.reduce(mj.losses.hard_negative_contrastive(jnp.eye(3), jnp.eye(3)))
        >>> print(f"{loss:.4f}")
        0.1459

    Args:
        embeddings: ``[N, D]``.
        ref_embeddings: ``[N, D]``, the other view of the same samples.
        where: ``[N]`` sample weights; 0 is padding.
        temperature: divides the cosines, > 0.
        prior: :math:`\tau^+`, the probability that another sample has the same class, from 0 to
            below 1.
        beta: how much more near negatives count, >= 0.
        distance: `CosineSimilarity`, possibly with another `precision`.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any.
            Negatives are those of all devices.
        chunk_size: at most this many rows at a time; static. By default all rows of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples. The value of a single sample is 0.

    Notes:
        - when: self-supervision; the hardness of negatives is an option
        - miner: none taken
        - cost: N²
        - setting: default; `beta` 0.5 to 2

    References:
        Robinson et al., `Contrastive Learning with Hard Negative Samples
        <https://arxiv.org/abs/2010.04592>`_, 2020.
    """
    rows = prepare_views("losses.hard_negative_contrastive", embeddings, ref_embeddings, where)
    check_distance("losses.hard_negative_contrastive", distance, CosineSimilarity)
    block = _block(distance, temperature, prior, beta)
    return by_rows(
        "losses.hard_negative_contrastive",
        block,
        rows,
        pairs=4,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )


def _block(distance, temperature, prior, beta):
    """The values of some rows; without `beta`, all negatives count alike."""

    def block(some, numbers, everything) -> LossDict:
        own, sides, weights = rivals_of(distance, some, numbers, everything)
        positive = own / temperature
        log_count = logsumexp(jnp.zeros_like(weights), weights, empty=0.0)

        def value(side):
            logits = side / temperature
            if beta is None:
                mean = logsumexp(logits, weights, empty=0.0) - log_count
            else:
                mean = logsumexp((1 + beta) * logits, weights, empty=0.0)
                mean -= logsumexp(beta * logits, weights, empty=0.0)
            negative = _corrected(mean, positive, prior, -1 / temperature)
            return softplus(log_count + negative - positive)

        values = sum(map(value, sides)) / 2
        return {"loss": row_term(jnp.where(exists(weights), values, 0), some[2])}

    return block


def _corrected(mean, positive, prior, least):
    """``log(max((exp(mean) - prior * exp(positive)) / (1 - prior), exp(least)))``.

    It is computed as ``mean + log(1 - share)``, where the share is that of the correction. A share
    of 1 or more is clamped, and replaced by 0 first, so that its logarithm has a derivative.
    """
    share = prior * jnp.exp(jnp.minimum(positive - mean, LARGEST))
    less = lambda share: mean + jnp.log1p(-share) - jnp.log1p(-jnp.asarray(prior, mean.dtype))
    clamped = (share >= 1) | (less(jnp.where(share < 1, share, 0)) <= least)
    clamped = jax.lax.stop_gradient(clamped)
    return jnp.where(clamped, least, less(jnp.where(clamped, 0, share)))
