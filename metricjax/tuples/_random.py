"""Random triplets."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num, PRNGKeyArray

from metricjax._core.refs import replicated
from metricjax._core.types import Labels, Match, Refs, Triplets
from metricjax.tuples._labels import all_pairs


def random_triplets(
    key: PRNGKeyArray,
    labels: Labels,
    per_anchor: int,
    *,
    refs: Refs | None = None,
    where: Num[Array, " n"] | None = None,
    match: Match | None = None,
    negative_weights: Num[Array, "n m"] | None = None,
) -> Triplets:
    """`per_anchor` random triplets of each anchor, drawn uniformly and with replacement.

    The positive and the negative of a triplet are drawn independently, each with a probability
    proportional to its pair's weight.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax import tuples
        >>> labels = jnp.array([0, 0, 1])
        >>> triplets = tuples.random_triplets(jax.random.key(0), labels, per_anchor=2)
        >>> print(triplets.positive, triplets.weights)
        [1 1 0 0 0 0] [1. 1. 1. 1. 0. 0.]

    Args:
        key: a `jax.random.key`.
        labels, refs, where, match: as in `all_pairs`.
        per_anchor: how many; static.
        negative_weights: ``[N, M]``, at least 0: factors of the negatives' probabilities, such as a
            function of the distance. Uniform by default.

    Returns:
        ``N * per_anchor`` `Triplets`, an anchor's next to each other; weight 0 for anchors that
        lack a positive or a negative.
    """
    pairs = replicated(all_pairs(labels, refs, where, match))
    if negative_weights is not None:
        weights = replicated(negative_weights)
        if weights.shape != pairs.negative.shape:
            raise ValueError(
                f"tuples.random_triplets: `negative_weights` must have shape "
                f"{pairs.negative.shape}, got {weights.shape}."
            )
        negative = jnp.where(pairs.negative > 0, pairs.negative * weights.astype(jnp.float32), 0)
        pairs = pairs._replace(negative=negative)
    n = len(pairs.positive)

    def draw(key, weights):
        if not weights.size:
            return jnp.zeros(n * per_anchor, jnp.int32)
        one_each = lambda key: jax.random.categorical(key, jnp.log(weights))
        return jax.lax.map(one_each, jax.random.split(key, per_anchor)).T.ravel()

    exists = jnp.any(pairs.positive > 0, 1) & jnp.any(pairs.negative > 0, 1)
    return Triplets(
        anchor=jnp.repeat(jnp.arange(n), per_anchor),
        positive=draw(jax.random.fold_in(key, 0), pairs.positive),
        negative=draw(jax.random.fold_in(key, 1), pairs.negative),
        weights=jnp.repeat(exists, per_anchor).astype(jnp.float32),
    )
