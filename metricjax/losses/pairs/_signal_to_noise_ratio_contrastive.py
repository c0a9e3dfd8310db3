"""Signal-to-noise ratio contrastive loss."""

from jaxtyping import Array, Float, Num

from metricjax._core.check import check_distance
from metricjax._core.declare import declare
from metricjax._core.refs import prepare
from metricjax._core.types import Labels, LossDict, Match, Mined, PerSample, Refs
from metricjax.distances import SNRDistance
from metricjax.losses._pairs import pairs_of
from metricjax.losses.pairs._contrastive import contrast


@declare(ring=True)
def signal_to_noise_ratio_contrastive(
    embeddings: Float[Array, "n d"],
    labels: Labels = None,
    *,
    refs: Refs | None = None,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    pos_margin: PerSample = 0.0,
    neg_margin: PerSample = 1.0,
    distance: SNRDistance = SNRDistance(),
) -> LossDict:
    r"""Pulls positives together and pushes negatives past a margin, by their noise-to-signal ratio.

    .. math::
        \ell_{ap} = [d_{ap} - m_+]_+ \qquad \ell_{an} = [m_- - d_{an}]_+ \qquad
        d_{ij} = \frac{\mathrm{Var}(\hat x_j - \hat x_i)}{\mathrm{Var}(\hat x_i)}

    It is the contrastive loss with this noise-to-signal ratio of anchor and reference. The paper
    adds `metricjax.regularizers.zero_mean` of the embeddings.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> terms = mj.losses.signal_to_noise_ratio_contrastive(x, jnp.array([0, 0, 1]))
        >>> loss, parts = mj.reduce(terms)
        >>> print(f"{loss:.4f} {sorted(parts)}")
        5.0000 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers; may be left out when `mined` is given.
        refs: references to compare with; the batch itself by default.
        mined: the pairs that count; all pairs by default. A pair counts as often as it was mined.
        where: ``[N]`` sample weights; 0 is padding.
        match: a relation between labels, instead of equality; see `metricjax.tuples.all_pairs`.
        pos_margin: positives closer than this cost nothing; or ``[N]``, one for each anchor.
        neg_margin: negatives farther than this cost nothing; or ``[N]``, one for each anchor.
        distance: `SNRDistance`, with or without normalization, possibly with another `precision`.

    Returns:
        ``{"pos_loss": [N, M], "neg_loss": [N, M]}``, each divided by the number of its pairs
        with a value above 0.

    Notes:
        - when: like `contrastive`, when variances mean more than lengths
        - miner: `pair_margin`
        - cost: NM
        - setting: default, with `regularizers.zero_mean`

    References:
        Yuan et al., Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning, 2019,
        https://openaccess.thecvf.com/content_CVPR_2019/html/Yuan_Signal-To-Noise_Ratio_A_Robust_Distance_Metric_for_Deep_Metric_Learning_CVPR_2019_paper.html
    """
    name = "losses.signal_to_noise_ratio_contrastive"
    check_distance(name, distance, SNRDistance)
    batch = prepare(embeddings, labels, refs, where)
    pairs = pairs_of(name, batch, mined, match)
    return contrast(batch, pairs, distance, pos_margin, neg_margin)
