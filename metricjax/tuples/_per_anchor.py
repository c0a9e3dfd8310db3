"""A random choice of mined tuples: at most a given number for each anchor."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metricjax._core.check import check_at_least
from metricjax._core.refs import replicated
from metricjax._core.triplets import triplets_at, walk_positives
from metricjax._core.types import Mined, Pairs, TripletRule, Triplets
from metricjax.tuples._convert import check_mined


def per_anchor(key: PRNGKeyArray, mined: Mined, count: int) -> Pairs | Triplets:
    """Draws at most `count` tuples of each anchor, uniformly and without replacement.

    From `Pairs` it draws `count` positives and `count` negatives. From triplets, listed or given by
    a rule, it draws `count` triplets. It can limit any miner:

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> def some(x, y, key, **data):
        ...     return mj.tuples.per_anchor(key, mj.miners.multi_similarity(x, y, **data), 1)
        >>> recipe = mj.objective(mj.losses.contrastive, miner=some)
        >>> x, y = jnp.eye(6, 3), jnp.array([0, 0, 0, 1, 1, 1])
        >>> print(some(x, y, jax.random.key(0)).positive.sum(1).astype(int))
        [1 1 1 1 1 1]

    Args:
        key: a `jax.random.key`.
        mined: what a miner returned, or `all_pairs`.
        count: the largest number of tuples for each anchor; static.

    Returns:
        From `Pairs`, the same matrices with 0 for all other pairs. From `Triplets`, the same list
        with weight 0 for all other triplets. From a rule, a list of ``N * count`` triplets, padded
        with weight 0.
    """
    name = "tuples.per_anchor"
    check_at_least(name, "count", count, 1)
    check_mined(name, mined)
    mined = replicated(mined)
    if isinstance(mined, Pairs):
        keys = jax.random.split(key)
        return Pairs(*(_of_rows(k, x, count) for k, x in zip(keys, mined, strict=True)))
    if isinstance(mined, Triplets):
        return _of_list(key, mined, count)
    return _of_rule(key, mined, count)


def _random(key, like):
    return jax.random.uniform(key, like.shape, jnp.float32)


def _of_rows(key, weights, count):
    """Keeps the weights ``[N, M]`` of at most `count` random entries of each row."""
    score = jnp.where(weights > 0, _random(key, weights), -1)
    best, column = jax.lax.top_k(score, min(count, weights.shape[1]))
    row = jnp.arange(len(weights))[:, None]
    kept = jnp.zeros(weights.shape, bool).at[row, column].set(best >= 0)
    return jnp.where(kept, weights, jnp.zeros_like(weights))


def _of_list(key, triplets, count):
    """Puts triplets in random order, sorts them by anchor, and keeps the first of each anchor."""
    score = jnp.where(triplets.weights > 0, _random(key, triplets.weights), 2)
    order = jnp.lexsort((score, triplets.anchor))
    anchor = triplets.anchor[order]
    place = jnp.arange(len(anchor)) - jnp.searchsorted(anchor, anchor)
    kept = jnp.zeros(len(anchor), bool).at[order].set(place < count)
    return triplets._replace(weights=jnp.where(kept, triplets.weights, 0))


def _of_rule(key, rule: TripletRule, count):
    """Visits all triplets with a random number each, and keeps those with the largest numbers."""
    n, m = rule.positive.shape
    if not m:
        none = jnp.zeros(n * count, int)
        return Triplets(none, none, none, none.astype(jnp.float32))
    walk, columns = walk_positives(rule.positive), jnp.arange(m)[None, :]

    def step(k, best):
        j, weights = triplets_at(rule, walk, k)
        score = _random(jax.random.fold_in(key, k), weights)
        new = (
            jnp.where(weights > 0, score, -1),
            jnp.broadcast_to(j[:, None], weights.shape),
            jnp.broadcast_to(columns, weights.shape),
            weights.astype(jnp.float32),
        )
        joined = [jnp.concatenate(both, 1) for both in zip(best, new, strict=True)]
        largest, at = jax.lax.top_k(joined[0], count)
        return largest, *(jnp.take_along_axis(x, at, 1) for x in joined[1:])

    none = jnp.zeros((n, count), walk.table.dtype)
    weightless = none.astype(jnp.float32)
    start = weightless - 1, none, none.astype(columns.dtype), weightless
    _, p, neg, weights = jax.lax.fori_loop(0, walk.steps, step, start)
    anchor = jnp.repeat(jnp.arange(n), count)
    return Triplets(anchor, p.ravel(), neg.ravel(), weights.ravel())
