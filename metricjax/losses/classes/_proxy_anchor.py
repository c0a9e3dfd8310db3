"""Proxy-anchor loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from metricjax._core.check import as_labels
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp
from metricjax._core.refs import replicated
from metricjax._core.tuning import block_sizes
from metricjax._core.types import LossDict, Mined, Scalar
from metricjax.distances import CosineSimilarity, Distance, farther
from metricjax.losses._class_blocks import at, columns, cut_classes, map_blocks
from metricjax.losses._classes import prepare_classes
from metricjax.losses._terms import row_term


def _place(labels, ids):
    """The position of each label in `ids`, or -1 if it is not there."""
    labels, ids = replicated((labels, ids))
    order = jnp.argsort(ids).astype(jnp.int32)
    place = order[jnp.searchsorted(ids, labels, sorter=order) % len(ids)]
    return jnp.where(ids[place] == labels, place, -1)


def _by_class(x, weights, column, count):
    """``log(1 + sum(weights * exp(x)))`` by column, and whether the column has any sample."""
    x, weights, column = replicated((x, weights, column))
    slot = jnp.where((column < 0) | (weights == 0), count, column)
    zeros = jnp.zeros(count, x.dtype)
    top = zeros.at[slot].max(jax.lax.stop_gradient(x), mode="drop")
    # at least x, since x may be rounded differently here than in the maximum
    highest = jnp.maximum(x, top.at[slot].get(mode="fill", fill_value=0))
    e = weights * jnp.exp(x - jax.lax.stop_gradient(highest))
    total = jnp.exp(-top) + zeros.at[slot].add(e, mode="drop")
    return top + jnp.log(total), zeros.at[slot].add(weights, mode="drop") > 0


@declare(rows="classes")
def proxy_anchor(
    embeddings: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c d"],
    *,
    mined: Mined | None = None,
    where: Num[Array, " n"] | None = None,
    class_ids: Int[Array, " c"] | None = None,
    margin: Scalar = 0.1,
    alpha: Scalar = 32.0,
    distance: Distance = CosineSimilarity(),
) -> LossDict:
    r"""Pulls the samples of each class to the proxy of the class, and pushes all others from it.

    .. math::
        \ell^+_c = \log\Big(1 + \sum_{i: y_i = c} e^{-\alpha (s_{ic} - \delta)}\Big) \qquad
        \ell^-_c = \log\Big(1 + \sum_{i: y_i \neq c} e^{\alpha (s_{ic} + \delta)}\Big)

    The sums run over the batch, so the loss needs the whole batch on every device. It can be split
    by classes. A distance takes the place of the similarity, with the signs of both exponents
    changed.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, y, w = jnp.eye(3), jnp.arange(3), jnp.eye(3) + 2
        >>> loss, parts = mj.reduce(mj.losses.proxy_anchor(x, y, w))
        >>> print(f"{loss:.4f} {sorted(parts)}")
        19.4154 ['neg_loss', 'pos_loss']

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]`` integers in ``[0, C)``. Any other label raises a `ValueError` if its
            value is known. Otherwise, as under `jit`, the sample has weight 0. With `class_ids`,
            any label is valid, and a sample of none of these classes is pushed from all proxies.
        weights: ``[C, D]``, a proxy for each class; `metricjax.nn.ProxyAnchor` owns them.
        mined: adds, to the exponents of each sample, its weight by `tuples.sample_weights` minus 1,
            as PyTorch Metric Learning does.
        where: ``[N]`` sample weights, applied inside the sums; 0 is padding.
        class_ids: ``[C]``, the label of each row of `weights`, if the rows are only some of the
            classes. A negative id is padding. The default is ``0, ..., C-1``. If the classes are
            spread over devices, `reduce` over their axis.
        margin: delta, in the unit of `distance`.
        alpha: sharpness, the factor in the exponents.
        distance: pairwise distance or similarity.

    Returns:
        ``{"pos_loss": [C], "neg_loss": [C]}``; the first is divided by the number of classes in
        the batch, the second by C without padding.

    Notes:
        - when: retrieval, with few samples per class in a batch
        - miner: weighs samples
        - cost: NC
        - setting: default

    References:
        Kim et al., `Proxy Anchor Loss for Deep Metric Learning
        <https://arxiv.org/abs/2003.13911>`_, 2020.
    """
    name = "losses.proxy_anchor"
    some = class_ids is not None
    ids: Array = jnp.arange(len(weights)) if class_ids is None else class_ids
    ids = as_labels(name, "class_ids", ids, "weights", len(weights), class_ids=True)
    batch = prepare_classes(name, embeddings, labels, weights, mined, where, any_label=some)
    bias = batch.mined - 1
    place = _place(batch.labels, ids.astype(batch.labels.dtype)) if some else batch.labels

    cut = cut_classes(len(weights), len(batch.labels), whole=block_sizes().class_kept)

    def block(k, proxies):
        mat = distance(batch.embeddings, proxies)
        column, rival = columns(cut, place, k)
        push = alpha * farther(distance, -margin, mat) + bias[:, None]
        neg = logsumexp(push, jnp.where(rival, batch.weights[:, None], 0), axis=0, plus_one=True)
        pull = alpha * farther(distance, at(mat, column), margin) + bias
        return *_by_class(pull, batch.weights, column, cut.size), neg

    rows = map_blocks(block, cut, cut(replicated(weights)))
    pos, present, neg = (cut.join_stacked(x.swapaxes(0, 1)) for x in rows)
    classes = (ids >= 0).astype(pos.dtype)
    present = jnp.sum(jnp.where(present, classes, 0))
    return {
        "pos_loss": row_term(pos, classes, present),
        "neg_loss": row_term(neg, classes),
    }
