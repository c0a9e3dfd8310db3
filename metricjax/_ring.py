"""References that travel around the devices: no device ever holds those of all."""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metricjax import losses
from metricjax._jax import hoist, varying
from metricjax._linear import linear
from metricjax._masked import exists, logsumexp, safe_divide, softplus
from metricjax._refs import compare, prepare
from metricjax._stream import Stream, StreamedTerm, zeros_like
from metricjax.distances import farther
from metricjax.losses._pairs import pairs_of
from metricjax.losses._terms import active_term, pair_term, row_term, term


def ring(loss):
    r"""The same loss over the batches of all devices, which never meet on one of them.

    The references go around the devices of a `jax.shard_map` or `pmap` axis, and each device
    compares its anchors with one block of them at a time. Value and gradient are those of the whole
    batch on one device, or of `metricjax.gather_refs`; memory grows with N * N of one device's N.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> def local(x, y):
        ...     terms = mj.ring(mj.losses.ntxent)(x, y, axis_name="batch", temperature=0.5)
        ...     return mj.reduce(terms, axis_name="batch")[0]
        >>> mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> spread = jax.shard_map(local, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P())
        >>> x, y = jnp.eye(4), jnp.array([0, 0, 1, 1])
        >>> print(f"{jax.jit(spread)(x, y):.4f}")
        1.0986

    Args:
        loss: one of `metricjax.losses` whose values are sums, or functions of sums, over the
            references of an anchor: ``circle, contrastive, generalized_lifted_structure,
            multi_similarity, nca, ntxent, siglip, signal_to_noise_ratio_contrastive, sup_con``, or
            a `functools.partial` of it.

    Returns:
        ``(embeddings, labels, *params, axis_name, refs=None, where=None, **options) -> LossDict``,
        to be reduced with the same `axis_name`. `refs` are this device's part of the references,
        the other tower's batch, say; a ``self_index`` is a place in this part. There is no
        `mined`, which would be a matrix of all references. Terms of pairs are streamed, and
        `reducers.per_anchor` cannot have them.

    Raises:
        ValueError: the loss cannot be computed so: it needs several references at once, as
            triplets and ranks do.
    """
    name = _name(loss)
    if name not in _PAIRS | _ROWS.keys():
        raise ValueError(
            f"ring: `loss` must be one of {', '.join(sorted(_PAIRS | _ROWS.keys()))}, got {name}. "
            f"For others gather the references with `metricjax.gather_refs`."
        )
    signature = _signature(loss)

    @functools.wraps(loss, updated=())
    def fn(embeddings, labels=None, *params, **options):
        bound = signature.bind(embeddings, labels, *params, **options)
        bound.apply_defaults()
        given = bound.arguments
        axis_name = given.pop("axis_name")
        embeddings, labels, refs, where = map(given.pop, ("embeddings", "labels", "refs", "where"))
        batch = prepare(f"losses.{name}", embeddings, labels, refs, where)
        block, self_index = batch.refs._replace(self_index=None), batch.refs.self_index

        def at(own, block):
            """The arguments that let the anchors meet this block."""
            if self_index is not None:  # in blocks of other devices an anchor is nowhere
                nowhere = jnp.full_like(self_index, len(block.embeddings))
                block = block._replace(self_index=jnp.where(own, self_index, nowhere))
            return batch.embeddings, batch.labels, block, batch.weights

        make = _by_row if name in _ROWS else _by_pair
        return make(name, at, Ring(block, axis_name), given)

    fn.__signature__ = signature  # type: ignore[attr-defined]
    return fn


def _name(loss):
    """Of a function of `metricjax.losses`, or a `functools.partial` of it; else its type's."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    name = getattr(loss, "__name__", type(loss).__name__)
    return name if getattr(losses, name, None) is loss else f"another {name}"


def _signature(loss):
    """The loss's own, with `axis_name` in the place of `mined`."""
    whole = inspect.signature(loss)
    if whole.parameters["mined"].default is not None:
        raise ValueError("ring: `mined` would be a matrix of all references; leave it out.")
    axis_name = inspect.Parameter("axis_name", inspect.Parameter.KEYWORD_ONLY, annotation=str)
    others = (p for p in whole.parameters.values() if p.name != "axis_name")
    return whole.replace(parameters=[axis_name if p.name == "mined" else p for p in others])


# --- the ring ---------------------------------------------------------------------------------


class LogSum(NamedTuple):
    """A part of a sum, known by its logarithm; -inf where nothing has been added yet."""

    log: Float[Array, "..."]


class Ring(NamedTuple):
    """A block of rows on every device of a mapped axis."""

    block: Any
    axis_name: str

    def total(self, fn: Callable[[Array, Any], Any]) -> Any:
        """What ``fn(own, block)`` adds up to over the blocks of all devices, on each of them.

        `own` says whether the block is the device's. Arrays are added, `LogSum` in logarithms.
        For derivatives the blocks go around again, and their tangents or gradients with them, until
        both are home. So nothing is stored but this device's block and what `fn` closes over.
        """
        leaves, tree = jax.tree.flatten(self.block)
        leaves = list(map(self._varying, leaves))
        of_leaves = lambda own, *leaves: fn(own, jax.tree.unflatten(tree, leaves))
        part, closed_over = hoist(of_leaves, jnp.bool_(True), *leaves)
        return _total(part, self.axis_name, tuple(leaves), tuple(closed_over))

    def _varying(self, x):
        """`x` as an array that may differ from device to device, as all that travels does."""
        varies = lambda x: self.axis_name in varying(jax.typeof(x))
        if varies(x) or not varies(jax.lax.axis_index(self.axis_name)):  # or types do not say
            return x
        return jax.lax.pcast(x, self.axis_name, to="varying")


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total(part, axis_name, block, rest):
    """The sum of ``part(own, *block, *rest)`` over the blocks of all devices."""
    like = jax.eval_shape(part, jnp.bool_(True), *block, *rest)
    step = lambda own, block, done: (block, _add(done, part(own, *block, *rest)))
    return _around(step, axis_name, block, _nothing(like))[1]


@_total.defjvp
def _total_jvp(part, axis_name, primals, tangents):
    zeros = lambda xs: jax.tree.map(lambda x: zeros_like(jax.typeof(x)), xs)
    out = _total(part, axis_name, *primals)
    slopes = tuple(_floats(t, like=p) for t, p in zip(tangents, primals, strict=True))
    plus = lambda a, b: jax.tree.map(jnp.add, a, b)

    def smooth(own, block, rest):
        """The part of a block as a function of the numbers in it, and these."""
        args = (*block, *rest)
        return lambda *numbers: part(own, *_with_floats(args, numbers)), *_floats(args)

    def push(args, slopes):
        block, rest, out = args

        def step(own, visit, done):
            block, of_block = visit
            fn, *numbers = smooth(own, block, rest)
            values, of_part = jax.jvp(fn, numbers, [*of_block, *slopes[1]])
            return visit, plus(done, _share(of_part, values, out))

        return _around(step, axis_name, (block, slopes[0]), zeros(out))[1]

    def pull(args, cotangents):
        block, rest, out = args

        def step(own, visit, of_rest):
            block, of_block = visit
            values, back = jax.vjp(*smooth(own, block, rest))
            grads = back(_share(cotangents, values, out))
            n = len(of_block)
            return (block, plus(of_block, grads[:n])), plus(of_rest, grads[n:])

        start = (block, zeros(_floats(block))), zeros(_floats(rest))
        (_, of_block), of_rest = _around(step, axis_name, *start)
        return of_block, of_rest

    return out, linear(push, pull, (*primals, out), slopes, out)


def _around(step, axis_name, visit, done):
    """Folds ``step(own, visit, done) -> visit, done``, and hands `visit` on after each step."""
    size = jax.lax.axis_size(axis_name)
    on = [(i, (i - 1) % size) for i in range(size)]

    def body(k, carry):
        visit, done = step(k == 0, *carry)
        return jax.lax.ppermute(visit, axis_name, on), done

    return jax.lax.fori_loop(0, size, body, (visit, done))


def _is_log(x):
    return isinstance(x, LogSum)


def _add(total, part):
    join = lambda a, b: LogSum(jnp.logaddexp(a.log, b.log)) if _is_log(a) else a + b
    return jax.tree.map(join, total, part, is_leaf=_is_log)


def _nothing(like):
    zero = lambda x: LogSum(zeros_like(x.log) - jnp.inf) if _is_log(x) else zeros_like(x)
    return jax.tree.map(zero, like, is_leaf=_is_log)


def _share(cotangents, part, total):
    """The tangents or cotangents of a part: of a log-sum, times its share in the total."""

    def one(c, part, total):
        if not _is_log(c):
            return c
        none = part.log == -jnp.inf
        share = jnp.exp(jnp.where(none, 0, part.log) - jnp.where(none, 0, total.log))
        return LogSum(jnp.where(none, 0, c.log * share))

    return jax.tree.map(one, cotangents, part, total, is_leaf=_is_log)


def _is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def _floats(args, like=None):
    """Those that have a derivative, or those in the places of the ones that do in `like`."""
    return tuple(x for x, y in zip(args, like or args, strict=True) if _is_float(y))


def _with_floats(args, floats):
    """`args` with other floating numbers."""
    floats = iter(floats)
    return [next(floats) if _is_float(x) else x for x in args]


# --- losses of pairs: each block is a part of the sum -----------------------------------------

_PAIRS = {"contrastive", "siglip", "signal_to_noise_ratio_contrastive"}


def _by_pair(name, at, ring, options):
    loss = getattr(losses, name).__wrapped__

    def slab(own, block):
        embeddings, labels, refs, where = at(own, block)
        terms = loss(embeddings, labels, refs=refs, where=where, **options)
        if name == "siglip":  # divided by the number of anchors, which each block has once more
            size = jax.lax.axis_size(ring.axis_name)
            terms = {n: t._replace(divisor=t.divisor / size) for n, t in terms.items()}
        return terms

    return _streamed(slab, ring)


def _streamed(slab, ring):
    """The terms ``slab(own, block)`` of all blocks; none of them holds an anchor's whole row."""

    def part(visit):
        return {n: t._replace(anchor_weights=None) for n, t in slab(*visit).items()}

    def total(fn, _):
        return ring.total(lambda own, block: fn((own, block)))

    names = []
    jax.eval_shape(lambda block: names.extend(part((jnp.bool_(True), block))), ring.block)
    stream = Stream(part, 0, total=total)
    return {name: StreamedTerm(stream, name) for name in names}


# --- losses of rows: sums over all references come first --------------------------------------


class _Rows(NamedTuple):
    """A loss that sums over an anchor's references.

    Attributes:
        sums: ``(mat, pairs, options)`` -> sums over a block of references, arrays and `LogSum`.
        make: ``(batch, options, *sums)`` -> the term; for a loss with a value for each pair,
            ``(batch, options, mat, pairs, *sums)`` -> the term of a block.
        pairwise: whether it is one of the latter.
    """

    sums: Callable[..., tuple]
    make: Callable[..., Any]
    pairwise: bool = False


def _by_row(name, at, ring, options):
    rows, o = _ROWS[name], SimpleNamespace(**options)
    function = f"losses.{name}"

    def meet(own, block):
        batch = prepare(function, *at(own, block))
        pairs = pairs_of(function, batch, None, o.match)
        return batch, compare(o.distance, batch), pairs

    def sums(own, block):
        _, mat, pairs = meet(own, block)
        return rows.sums(mat, pairs, o)

    done = ring.total(sums)
    if not rows.pairwise:
        batch = prepare(function, *at(True, ring.block))
        o.anywhere = lambda x: jax.lax.psum(jnp.sum(x), ring.axis_name) > 0
        return {"loss": rows.make(batch, o, *done)}

    def slab(own, block):
        batch, mat, pairs = meet(own, block)
        return {"loss": rows.make(batch, o, mat, pairs, *done)}

    return _streamed(slab, ring)


def _log_sum(x, weights):
    return LogSum(jnp.where(exists(weights), logsumexp(x, weights), -jnp.inf))


def _or_zero(some: LogSum):
    """The logarithm of a sum, 0 for one of nothing, and whether there was anything."""
    any_ = some.log != -jnp.inf
    return jnp.where(any_, some.log, 0), any_


def _one_more(some: LogSum):
    """``log(1 + sum)``."""
    log, any_ = _or_zero(some)
    return jnp.where(any_, softplus(log), 0)


def _ntxent_sums(mat, pairs, o):
    return (_log_sum(farther(o.distance, 0, mat) / o.temperature, pairs.negative),)


def _ntxent(batch, o, mat, pairs, negatives):
    logits = farther(o.distance, 0, mat) / o.temperature
    log, any_ = (x[:, None] for x in _or_zero(negatives))
    values = jnp.where(any_, softplus(log - logits), 0)
    return pair_term(term, batch, values, pairs.positive)


def _sup_con_sums(mat, pairs, o):
    logits = farther(o.distance, 0, mat) / o.temperature
    positive, negative = pairs
    return (
        _log_sum(logits, positive + negative),
        jnp.sum(positive * logits, 1),
        jnp.sum(positive, 1),
        jnp.sum(negative, 1),
    )


def _sup_con(batch, o, everything, logits, positives, negatives):
    some = (positives > 0) & o.anywhere(negatives)
    values = jnp.where(some, _or_zero(everything)[0] - safe_divide(logits, positives), 0)
    return active_term(values, batch.weights, anchor_weights=batch.weights)


def _multi_similarity_sums(mat, pairs, o):
    return (
        _log_sum(o.alpha * farther(o.distance, mat, o.base), pairs.positive),
        _log_sum(o.beta * farther(o.distance, o.base, mat), pairs.negative),
    )


def _multi_similarity(batch, o, pos, neg):
    return row_term(_one_more(pos) / o.alpha + _one_more(neg) / o.beta, batch.weights)


def _lifted_sums(mat, pairs, o):
    return (
        _log_sum(farther(o.distance, mat, o.pos_margin), pairs.positive),
        _log_sum(farther(o.distance, o.neg_margin, mat), pairs.negative),
    )


def _lifted(batch, o, pos, neg):
    return row_term(jax.nn.relu(_or_zero(pos)[0] + _or_zero(neg)[0]), batch.weights)


def _circle_sums(mat, pairs, o):
    now = jax.lax.stop_gradient(mat)
    return (
        _log_sum(-o.gamma * jax.nn.relu(1 + o.m - now) * (mat - (1 - o.m)), pairs.positive),
        _log_sum(o.gamma * jax.nn.relu(now + o.m) * (mat - o.m), pairs.negative),
    )


def _circle(batch, o, pos, neg):
    (pos, any_pos), (neg, any_neg) = _or_zero(pos), _or_zero(neg)
    values = jnp.where(any_pos & any_neg, softplus(pos + neg), 0)
    return active_term(values, batch.weights, anchor_weights=batch.weights)


def _nca_sums(mat, pairs, o):
    closeness = o.softmax_scale * farther(o.distance, 0, mat)
    return tuple(_log_sum(closeness, w) for w in pairs)


def _nca(batch, o, own, others):
    (own, has_own), (others, rivalled) = _or_zero(own), _or_zero(others)
    values = jnp.where(rivalled, softplus(others - own), 0)
    return row_term(values, jnp.where(has_own, batch.weights, 0))


_ROWS = {
    "circle": _Rows(_circle_sums, _circle),
    "generalized_lifted_structure": _Rows(_lifted_sums, _lifted),
    "multi_similarity": _Rows(_multi_similarity_sums, _multi_similarity),
    "nca": _Rows(_nca_sums, _nca),
    "ntxent": _Rows(_ntxent_sums, _ntxent, pairwise=True),
    "sup_con": _Rows(_sup_con_sums, _sup_con),
}
