"""Modules that own the weights of classes."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from metricjax import losses
from metricjax._core.masked import upcast
from metricjax._core.types import LossDict
from metricjax.distances import LpDistance, normalize
from metricjax.losses._centers import nearest, softmax_mean
from metricjax.losses._classes import norms, similarities
from metricjax.losses.classes._adacos import first_scale
from metricjax.losses.classes._adaface import FIRST
from metricjax.losses.classes._normalized_softmax import unit_similarities
from metricjax.nn._options import checked, defaults

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

    loss: ClassVar[Callable[..., Any]]
    default_init: ClassVar[Initializer] = staticmethod(nnx.initializers.normal(1.0))
    rows_per_class: ClassVar[str | None] = None
    """The option that says how many rows of weights a class has, if not one."""
    first_state: ClassVar[Any] = None
    """A function of the number of classes: the state at the start, of a loss that has one."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        weight_init: Initializer | None = None,
        **options,
    ):
        self.options = tuple(sorted(checked(type(self), options).items()))
        if rngs is None:
            raise TypeError(
                f"nn.{type(self).__name__}: `rngs` must be given for the initial weights: "
                f"rngs=nnx.Rngs(0)."
            )
        rows = num_classes * (self._option(self.rows_per_class) if self.rows_per_class else 1)
        init = weight_init or type(self).default_init
        weights = init(rngs.params(), (rows, embedding_size), jnp.promote_types(param_dtype, "f4"))
        self.weights = nnx.Param(weights.astype(param_dtype))
        if self.first_state is not None:
            self.state = nnx.BatchStat(jax.tree.map(jnp.float32, self.first_state(num_classes)))

    def __call__(
        self, embeddings: Float[Array, "n d"], labels: Int[Array, " n"], **options
    ) -> LossDict:
        """The loss dict of the pure function; `options` override those of the constructor.

        A loss that has a state is given that of the call before, and its new one is kept.
        """
        options = dict(self.options) | options
        if self.first_state is None:
            return self.loss(embeddings, labels, self.weights[...], **options)
        state = self.state.get_value()
        terms, new = self.loss(embeddings, labels, self.weights[...], state=state, **options)
        self.state.set_value(jax.tree.map(lambda x: x.astype(jnp.float32), new))
        return terms

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the class centers, without the margin."""
        return self._option("scale") * self._similarities(embeddings)

    def _option(self, name):
        return dict(self.options).get(name, defaults(type(self))[name])

    def _similarities(self, embeddings):
        return similarities(self._option("distance"), embeddings, self.weights[...])


class ArcFace(_ClassWeights):
    """`metricjax.losses.arcface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.arcface)


class CosFace(_ClassWeights):
    """`metricjax.losses.cosface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.cosface)


class AdaFace(_ClassWeights):
    """`metricjax.losses.adaface`, its class centers, normal at first, and its state."""

    loss = staticmethod(losses.adaface)
    first_state = staticmethod(lambda _: FIRST)


class MagFace(_ClassWeights):
    """`metricjax.losses.magface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.magface)


class CurricularFace(_ClassWeights):
    """`metricjax.losses.curricularface`, its class centers, normal at first, and its state."""

    loss = staticmethod(losses.curricularface)
    first_state = staticmethod(lambda _: 0.0)


class ElasticFace(_ClassWeights):
    """`metricjax.losses.elasticface` and its class centers, normal with deviation 1 at first."""

    loss = staticmethod(losses.elasticface)


class CombinedMargin(_ClassWeights):
    """`metricjax.losses.combined_margin` and its class centers, normal at first."""

    loss = staticmethod(losses.combined_margin)


class AdaCos(_ClassWeights):
    """`metricjax.losses.adacos`, its class centers, normal at first, and its state, the scale."""

    loss = staticmethod(losses.adacos)
    first_state = staticmethod(first_scale)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Scaled cosines to the class centers."""
        return self.state.get_value() * self._similarities(embeddings)


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

    def logits(self, embeddings):
        """Raises a `TypeError`: proxies belong to no class."""
        raise TypeError("nn.Manifold: `logits` do not exist, as proxies belong to no class.")
