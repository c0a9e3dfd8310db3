"""Random changes of images for training, as pure functions of a key.

Each takes an image ``[H, W, C]`` or a batch ``[N, H, W, C]``, of floats in [0, 1], and returns the
same dtype in [0, 1]. Every image of a batch gets random numbers of its own. Shapes are static, so
all of them run inside of `jax.jit` and `jax.vmap`. The usual recipes are:

- supervised retrieval: `random_resized_crop` with ``scale=(0.2, 1.0)``, `random_horizontal_flip`
- SimCLR: `random_resized_crop`, `random_horizontal_flip`, `color_jitter` of strength 0.8, and
  `random_grayscale`. (SimCLR also changes the hue and blurs images.)

Example:
    >>> import jax, jax.numpy as jnp
    >>> from metricjax.datasets import augment
    >>> @jax.jit
    ... def view(key, images):
    ...     keys = jax.random.split(key, 4)
    ...     images = augment.random_resized_crop(keys[0], images, 8)
    ...     images = augment.random_horizontal_flip(keys[1], images)
    ...     images = augment.color_jitter(keys[2], images, brightness=0.8, contrast=0.8)
    ...     return augment.random_grayscale(keys[3], images)
    >>> print(view(jax.random.key(0), jnp.ones((5, 16, 16, 3))).shape)
    (5, 8, 8, 3)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from metricjax._core.check import check_at_least
from metricjax._core.refs import spread_as
from metricjax._core.types import Scalar

Images = Float[Array, "*n h w c"]
LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""


def random_horizontal_flip(
    key: PRNGKeyArray, images: Images, *, probability: Scalar = 0.5
) -> Images:
    r"""Mirrors left and right.

    .. math::
        y_{ij} = x_{i,\, W - 1 - j} \quad \text{with probability } p

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> image = jnp.array([[[0.0], [0.5], [1.0]]])
        >>> flipped = augment.random_horizontal_flip(jax.random.key(0), image, probability=1.0)
        >>> print(flipped[0, :, 0])
        [1.  0.5 0. ]

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, C]`` or ``[N, H, W, C]``, floats in [0, 1].
        probability: p, in [0, 1].
    """

    def flip(key, image):
        return jnp.where(jax.random.uniform(key) < probability, image[:, ::-1], image)

    return _each("random_horizontal_flip", flip, key, images)


def random_crop(
    key: PRNGKeyArray, images: Images, size: int | tuple[int, int], *, padding: int = 0
) -> Images:
    r"""Cuts out a random part, after padding with zeros on all sides.

    .. math::
        y_{ij} = x_{i + a,\, j + b} \qquad
        a \sim U\{-p, \dots, H + p - h\} \qquad b \sim U\{-p, \dots, W + p - w\}

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> images = jnp.ones((5, 8, 8, 3))
        >>> print(augment.random_crop(jax.random.key(0), images, 8, padding=1).shape)
        (5, 8, 8, 3)

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, C]`` or ``[N, H, W, C]``, floats in [0, 1].
        size: h and w, or one number for both; at most the size of the padded image.
        padding: p, the number of pixels to add on each side, >= 0.

    Raises:
        ValueError: if `size` is larger than the padded image.
    """
    name = "random_crop"
    height, width = _size(name, size)
    check_at_least(f"datasets.augment.{name}", "padding", padding, 0)

    def crop(key, image):
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        down, right = padded.shape[0] - height, padded.shape[1] - width
        if min(down, right) < 0:
            raise ValueError(
                f"datasets.augment.{name}: `size` must be at most that of the padded image, "
                f"{padded.shape[:2]}, got {(height, width)}. Give a larger `padding`, or larger "
                f"images."
            )
        row, column = jax.random.randint(key, (2,), 0, jnp.array([down, right]) + 1)
        return jax.lax.dynamic_slice(padded, (row, column, 0), (height, width, image.shape[2]))

    return _each(name, crop, key, images)


def random_resized_crop(
    key: PRNGKeyArray,
    images: Images,
    size: int | tuple[int, int],
    *,
    scale: tuple[Scalar, Scalar] = (0.08, 1.0),
    ratio: tuple[Scalar, Scalar] = (3 / 4, 4 / 3),
) -> Images:
    r"""Cuts out a random part of random area and proportions, and scales it to one size.

    .. math::
        A \sim U(s_0, s_1) H W \qquad \log r \sim U(\log r_0, \log r_1) \qquad
        w = \min(\sqrt{A r}, W) \qquad h = \min(\sqrt{A / r}, H)

    The place of the part is uniform. Pixels are interpolated linearly, and averaged where the part
    is shrunk. A part that would be too wide or too high is cut off at the border, where torchvision
    draws again.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> images = jnp.ones((5, 16, 24, 3))
        >>> print(augment.random_resized_crop(jax.random.key(0), images, 8).shape)
        (5, 8, 8, 3)

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, C]`` or ``[N, H, W, C]``, floats in [0, 1].
        size: the height and width of the result, or one number for both.
        scale: the smallest and the largest share of the area, in (0, 1]. A network that should
            find details needs a larger share than SimCLR's 0.08, such as 0.2.
        ratio: the smallest and the largest width divided by the height, > 0.

    References:
        Szegedy et al., `Going Deeper with Convolutions <https://arxiv.org/abs/1409.4842>`_, 2014.
    """
    name = "random_resized_crop"
    height, width = _size(name, size)

    def crop(key, image):
        full = jnp.array(image.shape[:2], jnp.float32)
        area, log_ratio, *place = jax.random.uniform(key, (4,))
        area = (scale[0] + area * (scale[1] - scale[0])) * full[0] * full[1]
        low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
        r = jnp.exp(low + log_ratio * (high - low))
        part = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / r, r])), full)
        start = jnp.stack(place) * (full - part)
        zoom = jnp.array([height, width], jnp.float32) / part
        shape = height, width, image.shape[2]
        scaled = jax.image.scale_and_translate(
            image.astype(jnp.float32), shape, (0, 1), zoom, -start * zoom, "linear"
        )
        return scaled.astype(image.dtype)

    return _each(name, crop, key, images)


def color_jitter(
    key: PRNGKeyArray,
    images: Images,
    *,
    brightness: Scalar = 0.4,
    contrast: Scalar = 0.4,
    saturation: Scalar = 0.4,
) -> Images:
    r"""Changes brightness, contrast and saturation by random factors, in this order.

    .. math::
        x \leftarrow b x \qquad x \leftarrow c x + (1 - c) \operatorname{mean}(g(x)) \qquad
        x \leftarrow s x + (1 - s) g(x)

    g is the gray image. Each factor is uniform in ``[max(0, 1 - strength), 1 + strength]``, and
    each result is clipped to [0, 1]. torchvision has the three in random order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> image = jnp.full((2, 2, 3), 0.5)
        >>> same = augment.color_jitter(
        ...     jax.random.key(0), image, brightness=0.0, contrast=0.0, saturation=0.0
        ... )
        >>> print(bool(jnp.allclose(same, image)))
        True

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, 3]`` or ``[N, H, W, 3]``, floats in [0, 1]; or with 1 channel.
        brightness, contrast, saturation: strengths, >= 0; 0 changes nothing.
    """
    name = "color_jitter"

    def jitter(key, image):
        strength = jnp.stack([jnp.float32(x) for x in (brightness, contrast, saturation)])
        low, high = jnp.maximum(0, 1 - strength), 1 + strength
        b, c, s = (low + jax.random.uniform(key, (3,)) * (high - low)).astype(image.dtype)
        image = jnp.clip(b * image, 0, 1)
        image = jnp.clip(c * image + (1 - c) * jnp.mean(_gray(image)), 0, 1)
        return jnp.clip(s * image + (1 - s) * _gray(image), 0, 1)

    return _each(name, jitter, key, images, channels=(1, 3))


def random_grayscale(key: PRNGKeyArray, images: Images, *, probability: Scalar = 0.2) -> Images:
    r"""Replaces all channels by the gray image.

    .. math::
        g = 0.299 R + 0.587 G + 0.114 B \quad \text{with probability } p

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
        >>> print(augment.random_grayscale(jax.random.key(0), red, probability=1.0)[0, 0])
        [0.299 0.299 0.299]

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, 3]`` or ``[N, H, W, 3]``, floats in [0, 1]; or with 1 channel.
        probability: p, in [0, 1].
    """

    def gray(key, image):
        return jnp.where(jax.random.uniform(key) < probability, _gray(image), image)

    return _each("random_grayscale", gray, key, images, channels=(1, 3))


def gaussian_noise(key: PRNGKeyArray, images: Images, *, sigma: Scalar = 0.1) -> Images:
    r"""Adds independent Gaussian noise to every value, and clips to [0, 1].

    .. math::
        y = \operatorname{clip}(x + \sigma \varepsilon) \qquad \varepsilon \sim N(0, 1)

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metricjax.datasets import augment
        >>> noisy = augment.gaussian_noise(jax.random.key(0), jnp.full((50, 50, 3), 0.5))
        >>> print(f"{noisy.std():.2f}")
        0.10

    Args:
        key: a key of `jax.random`.
        images: ``[H, W, C]`` or ``[N, H, W, C]``, floats in [0, 1].
        sigma: the standard deviation, >= 0.
    """

    def noise(key, image):
        added = sigma * jax.random.normal(key, image.shape)
        return jnp.clip(image + added.astype(image.dtype), 0, 1)

    return _each("gaussian_noise", noise, key, images)


def _gray(image):
    """Returns the gray image in every channel."""
    if image.shape[2] == 1:
        return image
    gray = jnp.tensordot(image, jnp.array(LUMA, image.dtype), 1)
    return jnp.broadcast_to(gray[..., None], image.shape)


def _size(name, size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    check_at_least(f"datasets.augment.{name}", "size", min(height, width), 1)
    return int(height), int(width)


def _each(name, change, key, images, channels=None):
    """Calls ``change(key, image)`` for an image, or for each of a batch with a key of its own."""
    function = f"datasets.augment.{name}"
    if jnp.ndim(images) not in (3, 4):
        raise ValueError(
            f"{function}: `images` must have shape [H, W, C] or [N, H, W, C], got "
            f"{jnp.shape(images)}. For more axes use `jax.vmap`."
        )
    if channels is not None and images.shape[-1] not in channels:
        raise ValueError(
            f"{function}: `images` must have 1 or 3 channels at the end, got {images.shape}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"{function}: `images` must be floats in [0, 1], got {images.dtype}. Divide pixels by "
            f"255."
        )
    images = jnp.asarray(images)
    if images.ndim == 3:
        return change(key, images)
    keys = spread_as(jax.random.split(key, len(images)), images)
    return jax.vmap(change)(keys, images)
