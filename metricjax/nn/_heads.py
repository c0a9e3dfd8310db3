"""Modules that own class weights."""

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
    """Owns ``weights [C, D]`` and passes them to `loss`; subclasses set the loss and the logits.

    Args:
        num_classes: C.
        embedding_size: D.
        rngs: random number generators for the initial weights; required.
        param_dtype: dtype of the weights.
        weight_init: a `jax.nn.initializers` function, called with the shape of the weights.
        **options: static defaults for the options of the loss.
    """

    loss: ClassVar[Callable[..., Any]]
    default_init: ClassVar[Initializer] = staticmethod(nnx.initializers.normal(1.0))
    rows_per_class: ClassVar[str | None] = None
    """The option that sets how many rows of weights a class has; ``None`` means one row."""
    first_state: ClassVar[Any] = None
    """For a loss with a state: a function from the number of classes to the initial state."""

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
        """Returns the loss dict of the pure function; `options` override the constructor's.

        A loss with a state gets the state of the previous call, and the module keeps the new state.
        """
        options = dict(self.options) | options
        if self.first_state is None:
            return self.loss(embeddings, labels, self.weights[...], **options)
        state = self.state.get_value()
        terms, new = self.loss(embeddings, labels, self.weights[...], state=state, **options)
        self.state.set_value(jax.tree.map(lambda x: x.astype(jnp.float32), new))
        return terms

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled cosines to the class centers, without the margin."""
        return self._option("scale") * self._similarities(embeddings)

    def _option(self, name):
        return dict(self.options).get(name, defaults(type(self))[name])

    def _similarities(self, embeddings):
        return similarities(self._option("distance"), embeddings, self.weights[...])


class ArcFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.arcface`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.arcface)


class CosFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.cosface`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.cosface)


class AdaFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.adaface` and its state.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.adaface)
    first_state = staticmethod(lambda _: FIRST)


class MagFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.magface`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.magface)


class CurricularFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.curricularface` and its state.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.curricularface)
    first_state = staticmethod(lambda _: 0.0)


class ElasticFace(_ClassWeights):
    """Owns the class centers of `metricjax.losses.elasticface`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.elasticface)


class CombinedMargin(_ClassWeights):
    """Owns the class centers of `metricjax.losses.combined_margin`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.combined_margin)


class AdaCos(_ClassWeights):
    """Owns the class centers of `metricjax.losses.adacos` and its state, the scale.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.adacos)
    first_state = staticmethod(first_scale)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled cosines to the class centers."""
        return self.state.get_value() * self._similarities(embeddings)


class LargeMarginSoftmax(_ClassWeights):
    """Owns the class weights of `metricjax.losses.large_margin_softmax`.

    Initially the weights are normal with standard deviation 1.
    """

    loss = staticmethod(losses.large_margin_softmax)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled dot products with the class weights, without the margin."""
        x, w = upcast(embeddings), upcast(self.weights[...])
        precision = self._option("distance").precision
        return self._option("scale") * jnp.matmul(x, w.T, precision=precision)


class SphereFace(_ClassWeights):
    """Owns the class weights of `metricjax.losses.sphereface`.

    Initially the weights are normal with standard deviation 1.
    """

    loss = staticmethod(losses.sphereface)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled dot products with the normalized class weights, without the margin."""
        lengths = self._option("scale") * norms(embeddings)
        return lengths[:, None] * self._similarities(embeddings)


class NormalizedSoftmax(_ClassWeights):
    """Owns the class weights of `metricjax.losses.normalized_softmax`.

    Initially the weights are normal with standard deviation 1.
    """

    loss = staticmethod(losses.normalized_softmax)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the similarities to the normalized class weights, divided by the temperature."""
        temperature, distance = self._option("temperature"), self._option("distance")
        return unit_similarities(embeddings, self.weights[...], distance) / temperature


class SubCenterArcFace(_ClassWeights):
    """Owns the centers of `metricjax.losses.subcenter_arcface`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.subcenter_arcface)
    rows_per_class = "sub_centers"

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled cosines to the nearest center of each class, without the margin."""
        count, distance = self._option("sub_centers"), self._option("distance")
        return self._option("scale") * nearest(distance, embeddings, self.weights[...], count)

    def outliers(
        self, embeddings: Float[Array, "n d"], labels: Int[Array, " n"], threshold: float = 75.0
    ) -> tuple[Bool[Array, " n"], Float[Array, "c d"]]:
        """Finds samples far from the dominant center of their class: likely label noise.

        The dominant center of a class is the center that most of its samples are nearest to.

        Args:
            embeddings: ``[N, D]``, best of the whole data set.
            labels: ``[N]`` integers in ``[0, C)``.
            threshold: degrees; samples farther from the dominant center are outliers.

        Returns:
            A mask ``[N]`` of the outliers, and the dominant center of each class ``[C, D]``. The
            center of a class without samples is 0.
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
    """Owns the centers of `metricjax.losses.soft_triple`.

    Initially the centers are uniform in +-1/sqrt(C * K).
    """

    loss = staticmethod(losses.soft_triple)
    rows_per_class = "centers_per_class"
    default_init = staticmethod(nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the softmax-weighted mean similarity to the centers of each class."""
        count, gamma = self._option("centers_per_class"), self._option("gamma")
        weights, distance = self.weights[...], self._option("distance")
        return softmax_mean(distance, embeddings, weights, count, gamma)


def _uniform_directions(key, shape, dtype):
    return normalize(jax.random.uniform(key, shape, minval=-1.0)).astype(dtype)


class P2SGrad(_ClassWeights):
    """Owns the class weights of `metricjax.losses.p2s_grad`.

    Initially the weights are uniform in +-1 and then normalized.
    """

    loss = staticmethod(losses.p2s_grad)
    default_init = staticmethod(_uniform_directions)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the cosines to the class weights."""
        return self._similarities(embeddings)

    def project(self):
        """Brings the weights back to norm 1; call it after each step of the optimizer."""
        self.weights[...] = normalize(self.weights[...]).astype(self.weights.dtype)


class ProxyAnchor(_ClassWeights):
    """Owns the proxies of `metricjax.losses.proxy_anchor`.

    Initially the proxies are normal with variance 2 / C.
    """

    loss = staticmethod(losses.proxy_anchor)
    default_init = staticmethod(nnx.initializers.variance_scaling(2.0, "fan_in", "normal"))

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the similarities (negated distances) to the proxies; larger means closer."""
        return self._similarities(embeddings)


class ProxyNCA(_ClassWeights):
    """Owns the proxies of `metricjax.losses.proxy_nca`.

    Initially the proxies are normal with standard deviation 1.
    """

    loss = staticmethod(losses.proxy_nca)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the scaled and negated distances to the proxies; larger means closer."""
        return self._option("softmax_scale") * self._similarities(embeddings)


class Center(_ClassWeights):
    """Owns the class centers of `metricjax.losses.center`.

    Initially the centers are normal with standard deviation 1.
    """

    loss = staticmethod(losses.center)

    def logits(self, embeddings: Float[Array, "n d"]) -> Float[Array, "n c"]:
        """Returns the halved and negated squared distances to the centers; larger means closer."""
        squared = LpDistance(power=2, normalize_embeddings=False)
        return similarities(squared, embeddings, self.weights[...]) / 2


class Manifold(_ClassWeights):
    """Owns the proxies ``weights [K, D]`` of `metricjax.losses.manifold`.

    Initially the proxies are normal with standard deviation 1.
    """

    loss = staticmethod(losses.manifold)

    def __call__(  # type: ignore[override]
        self,
        embeddings: Float[Array, "n d"],
        proxy_ids: Int[Array, " n"] | None = None,
        **options,
    ) -> LossDict:
        """Returns the loss dict of the pure function; pass `proxy_ids` or `key`."""
        options = dict(self.options) | options
        return self.loss(embeddings, self.weights[...], proxy_ids=proxy_ids, **options)

    def logits(self, embeddings):
        """Raises a `TypeError`, because proxies belong to no class."""
        raise TypeError("nn.Manifold: `logits` do not exist, as proxies belong to no class.")
