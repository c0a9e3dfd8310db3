"""Proxy-NCA loss."""

from jaxtyping import Array, Float, Int, Num

from metricjax._core.declare import declare
from metricjax._core.types import AxisName, LossDict, Mined, Scalar
from metricjax.distances import Distance, LpDistance
from metricjax.losses._class_blocks import own_and_rivals
from metricjax.losses._classes import cross_entropy, prepare_classes, similarities


@declare(mined="anchors")
def proxy_nca(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    softmax_scale: Scalar = 1.0,
    distance: Distance = LpDistance(power=2),
    class_axis: AxisName | None = None,
) -> LossDict:
    r"""Pulls each sample to the proxy of its class by a softmax over all proxies.

    .. math::
        \ell_i = -\log \frac{e^{-\sigma d(x_i, p_y)}}{\sum_c e^{-\sigma d(x_i, p_c)}}

    This is neighborhood components analysis with class proxies instead of neighbors. The paper
    leaves the own class out of the denominator; here the denominator includes it.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, _ = mj.reduce(mj.losses.proxy_nca(x, y, w))
        >>> print(f"{loss:.4f}")
        0.8026

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0.
        weights: ``[C, D]``, a proxy for each class; `metricjax.nn.ProxyNCA` owns them.
        mined: weighs each sample by how often it was mined as an anchor; see
            `tuples.sample_weights`.
        where: ``[N]`` sample weights; 0 is padding.
        softmax_scale: sigma, the factor of the distances.
        distance: distance or similarity.
        class_axis: the `jax.shard_map` axis over which the rows of `weights` are spread, if any.
            The embeddings must be the same on all devices of this axis.

    Returns:
        ``{"loss": [N]}``, divided by the number of samples.

    Notes:
        - when: a proxy for each class, no margin
        - miner: weighs samples
        - cost: NC
        - setting: here the denominator includes the own proxy

    References:
        Movshovitz-Attias et al., `No Fuss Distance Metric Learning using Proxies
        <https://arxiv.org/abs/1703.07464>`_, 2017.
    """
    name = "losses.proxy_nca"
    batch = prepare_classes(
        name, embeddings, labels, weights, mined, where, class_axis=class_axis, anchors_only=True
    )
    similarity = lambda x, w: similarities(distance, x, w)
    own, rivals = own_and_rivals(batch, similarity, softmax_scale)
    return {"loss": cross_entropy(batch, softmax_scale * own, rivals)}
