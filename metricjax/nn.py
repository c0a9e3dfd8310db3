"""Flax modules that own the class weights of a loss and call the pure function.

A module takes the loss's options as defaults and each call may override them. Those given at
construction are static; give what is traced, scheduled or learned at the call:

    >>> import jax.numpy as jnp, metricjax as mj
    >>> from flax import nnx
    >>> head = mj.nn.ArcFace(10, 64, margin=20.0, rngs=nnx.Rngs(0))
    >>> x, y = jnp.ones((4, 64)), jnp.arange(4)
    >>> loss, parts = mj.reduce(head(x, y, margin=jnp.float32(5.0)))

Linen users get the same modules from ``flax.nnx.bridge.to_linen(mj.nn.ArcFace, 10, 64)``.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from metricjax import losses
from metricjax._check import check_rows
from metricjax._masked import upcast
from metricjax._record import accepts, has_parameter, record_of
from metricjax._types import Labels, LossDict, Mined, Pairs
from metricjax.distances import LpDistance, normalize
from metricjax.losses._centers import nearest, softmax_mean
from metricjax.losses._classes import norms, similarities
from metricjax.losses._normalized_softmax import unit_similarities
from metricjax.memory import MemoryBank
from metricjax.tuples import all_pairs, as_pairs

Initializer = Callable[..., Array]


class _ClassWeights(nnx.Module):
    """Owns ``weights [C, D]`` and feeds them to `loss`; subclasses say which loss and what logits.

    Args:
        num_classes: C.
        embedding_size: D.
        rngs: where the initial weights come from.
        param_dtype: of the weights.
        weight_init: a `jax.nn.initializers` function, called with the shape of the weights.
        **options: defaults of the loss's options; static.
    """

    loss: ClassVar[Callable[..., LossDict]]
    default_init: ClassVar[Initializer] = staticmethod(nnx.initializers.normal(1.0))
    rows_per_class: ClassVar[str | None] = None
    """The option that says how many rows of weights a class has, if not one."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        weight_init: Initializer | None = None,
        **options,
    ):
        self.options = tuple(sorted(_checked(type(self), options).items()))
        rows = num_classes * (self._option(self.rows_per_class) if self.rows_per_class else 1)
        init = weight_init or type(self).default_init
        weights = init(rngs.params(), (rows, embedding_size), jnp.promote_types(param_dtype, "f4"))
        self.weights = nnx.Param(weights.astype(param_dtype))

    def __call__(
        self, embeddings: Float[Array, "n d"], labels: Int[Array, " n"], **options
    ) -> LossDict:
        """The loss dict of the pure function; `options` override those of the constructor."""
        return self.loss(embeddings, labels, self.weights[...], **(dict(self.options) | options))

    def _option(self, name):
        return dict(self.options).get(name, _defaults(type(self))[name])

    def _similarities(self, embeddings):
        return similarities(self._option("distance"), embeddings, self.weights[...])


def _defaults(module):
    data = {"mined", "where", "class_ids", "refs", "match", "histogram", "proxy_ids", "key"}
    parameters = inspect.signature(module.loss).parameters.values()
    options = (p for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in data)
    return {p.name: p.default for p in options}


def _checked(module, options):
    known = _defaults(module)
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                f"nn.{module.__name__}: no option {name!r}; there are {', '.join(known)}."
            )
        if isinstance(value, jax.Array):
            raise TypeError(
                f"nn.{module.__name__}: {name!r} is an array; options given here are static. Give "
                f"a Python number, or the array at the call."
            )
    return options


class ArcFace(_ClassWeights):
    """`metricjax.losses.arcface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.arcface)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the class centers, without the margin."""
        return self._option("scale") * self._similarities(embeddings)


class CosFace(_ClassWeights):
    """`metricjax.losses.cosface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.cosface)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the class centers, without the margin."""
        return self._option("scale") * self._similarities(embeddings)


class LargeMarginSoftmax(_ClassWeights):
    """`metricjax.losses.large_margin_softmax` and its class weights, normal with deviation 1."""

    loss = staticmethod(losses.large_margin_softmax)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled dot products with the class weights, without the margin."""
        x, w = upcast(embeddings), upcast(self.weights[...])
        precision = self._option("distance").precision
        return self._option("scale") * jnp.matmul(x, w.T, precision=precision)


class SphereFace(_ClassWeights):
    """`metricjax.losses.sphereface` and its class weights, normal with deviation 1 at first."""

    loss = staticmethod(losses.sphereface)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled dot products with the normalized class weights, without the margin."""
        lengths = self._option("scale") * norms(embeddings)
        return lengths[:, None] * self._similarities(embeddings)


class NormalizedSoftmax(_ClassWeights):
    """`metricjax.losses.normalized_softmax` and its class weights, normal with deviation 1."""

    loss = staticmethod(losses.normalized_softmax)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Similarities to the normalized class weights, divided by the temperature."""
        temperature, distance = self._option("temperature"), self._option("distance")
        return unit_similarities(embeddings, self.weights[...], distance) / temperature


class SubCenterArcFace(_ClassWeights):
    """`metricjax.losses.subcenter_arcface` and its centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.subcenter_arcface)
    rows_per_class = "sub_centers"

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the nearest center of each class, without the margin."""
        count, distance = self._option("sub_centers"), self._option("distance")
        return self._option("scale") * nearest(distance, embeddings, self.weights[...], count)

    def outliers(
        self, embeddings: Float[Array, "n d"], labels: Int[Array, " n"], threshold: float = 75.0
    ) -> tuple[Bool[Array, " n"], Float[Array, "c d"]]:
        """Samples far from the center that most of their class are nearest to: noisy labels.

        Args:
            embeddings: ``[N, D]``, of the whole data set for a full picture.
            labels: ``[N]`` integers in ``[0, C)``.
            threshold: degrees; samples farther from the dominant center are outliers.

        Returns:
            A mask ``[N]`` of the outliers, and the dominant center of each class ``[C, D]``; 0 for
            a class without samples.
        """
        x, w = jax.lax.stop_gradient((embeddings, self.weights[...]))
        w = w.reshape(-1, self._option("sub_centers"), w.shape[1])
        one = lambda x, w: self._option("distance")(x[None], w)[0]
        cosines = jax.vmap(one)(x, w[labels])
        closest = jnp.argmax(cosines, 1)
        votes = jnp.zeros(w.shape[:2], jnp.int32).at[labels, closest].add(1)
        dominant = jnp.argmax(votes, 1)
        centers = w[jnp.arange(len(w)), dominant]
        own = cosines[jnp.arange(len(x)), dominant[labels]]
        centers = jnp.where(jnp.any(votes > 0, 1, keepdims=True), centers, 0)
        return own < jnp.cos(jnp.deg2rad(threshold)), centers


class SoftTriple(_ClassWeights):
    """`metricjax.losses.soft_triple` and its centers, uniform in +-1/sqrt(C * K) at first."""

    loss = staticmethod(losses.soft_triple)
    rows_per_class = "centers_per_class"
    default_init = staticmethod(nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Softmax-weighted similarities to the centers of each class."""
        count, gamma = self._option("centers_per_class"), self._option("gamma")
        weights, distance = self.weights[...], self._option("distance")
        return softmax_mean(distance, embeddings, weights, count, gamma)


def _uniform_directions(key, shape, dtype):
    return normalize(jax.random.uniform(key, shape, minval=-1.0)).astype(dtype)


class P2SGrad(_ClassWeights):
    """`metricjax.losses.p2s_grad` and its class weights, uniform in +-1 and normalized at first."""

    loss = staticmethod(losses.p2s_grad)
    default_init = staticmethod(_uniform_directions)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Cosines to the class weights."""
        return self._similarities(embeddings)

    def project(self):
        """Brings the weights back to norm 1; call it after an optimizer's step."""
        self.weights[...] = normalize(self.weights[...]).astype(self.weights.dtype)


class ProxyAnchor(_ClassWeights):
    """`metricjax.losses.proxy_anchor` and its proxies, normal with variance 2 / C at first."""

    loss = staticmethod(losses.proxy_anchor)
    default_init = staticmethod(nnx.initializers.variance_scaling(2.0, "fan_in", "normal"))

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Similarities to the proxies (negated distances): larger is better."""
        return self._similarities(embeddings)


class ProxyNCA(_ClassWeights):
    """`metricjax.losses.proxy_nca` and its proxies, normal with deviation 1 at first."""

    loss = staticmethod(losses.proxy_nca)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled and negated distances to the proxies: larger is better."""
        return self._option("softmax_scale") * self._similarities(embeddings)


class Center(_ClassWeights):
    """`metricjax.losses.center` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.center)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Halved and negated squared distances to the centers: larger is better."""
        squared = LpDistance(power=2, normalize_embeddings=False)
        return similarities(squared, embeddings, self.weights[...]) / 2


class Manifold(_ClassWeights):
    """`metricjax.losses.manifold` and its proxies ``weights [K, D]``, normal with deviation 1."""

    loss = staticmethod(losses.manifold)

    def __call__(  # type: ignore[override]
        self,
        embeddings: Float[Array, "n d"],
        proxy_ids: Int[Array, " n"] | None = None,
        **options,
    ) -> LossDict:
        """The loss dict of the pure function; give `proxy_ids` or `key`."""
        options = dict(self.options) | options
        return self.loss(embeddings, self.weights[...], proxy_ids=proxy_ids, **options)


class Margin(nnx.Module):
    """`metricjax.losses.margin` and its boundary ``beta``.

    Args:
        num_classes: C, for a boundary of each class ``[C]``; ``None`` for one.
        beta: its initial value.
        rngs: not needed; taken so that `flax.nnx.bridge.to_linen` can give it.
        param_dtype: of the boundary.
        **options: defaults of the loss's options; static.
    """

    loss: ClassVar[Callable[..., LossDict]] = staticmethod(losses.margin)

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        beta: float = 1.2,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        **options,
    ):
        shape = () if num_classes is None else (num_classes,)
        self.beta = nnx.Param(jnp.full(shape, beta, param_dtype))
        self.options = tuple(sorted(_checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """The loss dict of the pure function; `options` override those of the constructor."""
        return self.loss(embeddings, labels, self.beta[...], **(dict(self.options) | options))


class SigLIP(nnx.Module):
    """`metricjax.losses.siglip`, its ``bias``, and the logarithm of its scale, ``log_scale``.

    Args:
        scale, bias: initial values, the paper's by default.
        rngs: not needed; taken so that `flax.nnx.bridge.to_linen` can give it.
        param_dtype: of both.
        **options: defaults of the loss's options; static.
    """

    loss: ClassVar[Callable[..., LossDict]] = staticmethod(losses.siglip)

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        **options,
    ):
        self.log_scale = nnx.Param(jnp.log(jnp.asarray(scale, param_dtype)))
        self.bias = nnx.Param(jnp.asarray(bias, param_dtype))
        self.options = tuple(sorted(_checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """The loss dict of the pure function; `options` override those of the constructor."""
        options = dict(self.options) | options
        return self.loss(
            embeddings, labels, jnp.exp(self.log_scale[...]), self.bias[...], **options
        )


class DynamicSoftMargin(nnx.Module):
    """`metricjax.losses.dynamic_soft_margin` and its running ``histogram``, a `flax.nnx.BatchStat`.

    Args:
        num_bins: of the histogram.
        rngs: not needed; taken so that `flax.nnx.bridge.to_linen` can give it.
        **options: defaults of the loss's options; static.
    """

    loss: ClassVar[Callable[..., Any]] = staticmethod(losses.dynamic_soft_margin)

    def __init__(self, num_bins: int = 10, *, rngs: nnx.Rngs | None = None, **options):
        self.histogram = nnx.BatchStat(jnp.zeros(num_bins))
        self.options = tuple(sorted(_checked(type(self), options).items()))

    def __call__(self, embeddings: Float[Array, "n d"], labels=None, **options) -> LossDict:
        """The loss dict of the pure function, and one more batch in the histogram."""
        histogram = self.histogram[...]
        options = dict(self.options) | options | {"num_bins": len(histogram)}
        terms, self.histogram[...] = self.loss(embeddings, labels, histogram=histogram, **options)
        return terms


class CrossBatchMemory(nnx.Module):
    """A loss between a batch and the batches before it, which stay in ``bank``.

    Each call enqueues the batch and then compares it with the memory, of which it is now a part: so
    the gradient reaches the anchors only. ``bank`` is a `flax.nnx.Variable` that holds a
    `metricjax.memory.MemoryBank` and no parameter; ``bank.set_value`` starts it anew.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> memory = mj.nn.CrossBatchMemory(mj.losses.contrastive, 1024, 4)
        >>> for _ in range(3):
        ...     loss, parts = mj.reduce(memory(jnp.eye(4), jnp.array([0, 0, 1, 1])))
        >>> print(memory.bank.get_value().where.sum())
        12.0

    Args:
        loss: one of `metricjax.losses` that takes `refs`, a module of this file, or any function of
            that shape; give its options at the call or with `functools.partial`.
        size: how many embeddings the memory holds.
        embedding_size: D.
        miner: ``(embeddings, labels, refs=, ...) -> mined``, chooses pairs or triplets of the batch
            and the memory; ``refs.self_index`` is where the batch is in it.
        rngs: not needed; taken so that `flax.nnx.bridge.to_linen` can give it.
        dtype, labels: see `metricjax.memory.MemoryBank.create`.

    References:
        Wang et al., `Cross-Batch Memory for Embedding Learning
        <https://arxiv.org/abs/1912.06798>`_, 2020.
    """

    def __init__(
        self,
        loss: Callable[..., LossDict],
        size: int,
        embedding_size: int,
        *,
        miner: Callable[..., Mined] | None = None,
        rngs: nnx.Rngs | None = None,
        dtype: Any = jnp.float32,
        labels: Labels = None,
    ):
        if not accepts(loss, "refs"):
            raise TypeError(
                f"nn.CrossBatchMemory: {record_of(loss).name} does not compare with references."
            )
        bank = MemoryBank.create(size, embedding_size, dtype=dtype, labels=labels)
        self.bank = nnx.Variable(bank)
        self.inner, self.miner = loss, miner

    def __call__(
        self,
        embeddings: Float[Array, "n d"],
        labels: Labels,
        *params,
        where: Num[Array, " n"] | None = None,
        enqueue_mask: Bool[Array, " n"] | None = None,
        mined: Mined | None = None,
        key: PRNGKeyArray | None = None,
        axis_name: str | None = None,
        **options,
    ) -> LossDict:
        """The loss dict of the batch against the memory, and the batch in the memory.

        Args:
            embeddings: ``[N, D]``.
            labels: ``[N]``, or the pytree that the memory was created for.
            *params: what the loss takes after the labels.
            where: ``[N]`` sample weights; rows of weight 0 are neither enqueued nor anchors.
            enqueue_mask: ``[N]``: these rows are enqueued, and the others are the anchors; by
                default, all are both.
            mined: pairs or triplets within the batch, added to those of the miner, or to all pairs.
                They are looked up in the memory; rows that were not enqueued are not found.
            key: for random miners.
            axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over: all devices
                enqueue all of it. Then `reduce` with the same, or leave both to `objective`.
            **options: of the loss.
        """
        queued = anchors = where
        if enqueue_mask is not None:
            n = len(embeddings)
            check_rows("nn.CrossBatchMemory", "enqueue_mask", enqueue_mask, "embeddings", n)
            weights = jnp.ones(n) if where is None else jnp.asarray(where)
            none = jnp.zeros_like(weights)
            queued = jnp.where(enqueue_mask, weights, none)
            anchors = jnp.where(enqueue_mask, none, weights)
        bank = self.bank.get_value()
        slots = bank.slots(len(embeddings), queued, axis_name=axis_name)
        bank = bank.enqueue(embeddings, labels, queued, axis_name=axis_name)
        self.bank.set_value(bank)
        rows = embeddings, labels, anchors, slots
        if axis_name is not None and record_of(self.inner).needs_whole_batch():
            rows = jax.lax.all_gather(rows, axis_name, tiled=True)
        elif axis_name is not None and has_parameter(self.inner, "axis_name"):
            options["axis_name"] = axis_name
        embeddings, labels, anchors, slots = rows
        refs = bank.refs(self_index=slots)
        shared: dict[str, Any] = {"refs": refs}
        if anchors is not None:
            shared["where"] = anchors
        relation = {"match": options["match"]} if "match" in options else {}
        chosen = None
        if self.miner is not None:
            random = {} if key is None else {"key": key}
            chosen = self.miner(embeddings, labels, **shared, **relation, **random)
        if mined is not None:
            if chosen is None:
                there = refs._replace(where=bank.where > 0)  # the loss multiplies by the weights
                chosen = all_pairs(labels, there, **relation)
            chosen = _with_tuples_of_batch(chosen, mined, slots)
        if chosen is not None:
            shared["mined"] = chosen
        return self.inner(embeddings, labels, *params, **shared, **options)


def _with_tuples_of_batch(chosen: Mined, mined: Mined, slots) -> Pairs:
    """Pairs of a batch and the memory, and those within the batch, which sits in some slots."""
    if not isinstance(chosen, Pairs):
        raise TypeError(
            f"nn.CrossBatchMemory: `mined` can be added to pairs only, the miner gave "
            f"{type(chosen).__name__}."
        )
    n, size = chosen.positive.shape
    own = as_pairs(mined, (n, n))
    if own.positive.shape != (n, n):
        raise ValueError(
            f"nn.CrossBatchMemory: `mined` must have shape {(n, n)}, within the batch, got "
            f"{own.positive.shape}."
        )
    moved = lambda x: jnp.zeros((n, size), x.dtype).at[:, slots].add(x, mode="drop")
    return Pairs(*(a + moved(b).astype(a.dtype) for a, b in zip(chosen, own, strict=True)))
