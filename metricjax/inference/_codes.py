"""Embeddings as codes: a byte or a bit for each feature, and the search of a gallery of codes.

Codes are searched as `metricjax.evaluation.knn` searches floats, a block of them at a time:

- A block of int8 codes becomes floats right before it is compared. So every distance works.
- Bits are compared as bits: their Hamming distance to the bits of the query is a ``popcount`` of an
  ``xor``. It has only D + 1 values, so it only selects `CANDIDATES` times k rows. These are ranked
  by the distance of the query itself, in floats, to their bits as +1 and -1.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int8, UInt8

from metricjax._core.check import check_at_least, check_embeddings
from metricjax._core.masked import upcast
from metricjax._core.tuning import block_sizes
from metricjax.distances import (
    CosineSimilarity,
    Distance,
    DotProductSimilarity,
    LpDistance,
    row_distances,
)
from metricjax.evaluation._knn import Neighbors, search

CANDIDATES = 4
"""The bits select this many times k rows to rank. Measured in docs/inference.md."""

ELEMENTS = 2**24
"""A search holds at most about this many distances, or decoded features, at once: 64 MiB. It holds
4 k decoded rows if these are more, and twice that for bits.
"""


@dataclasses.dataclass(frozen=True)
class Int8Codes:
    r"""Embeddings as one byte for each feature; `fit` chooses the range of each feature.

    .. math::
        c = \min\left(\max\left(\left\lfloor \frac{x - start}{step} \right\rfloor, 0\right),
        255\right) - 128 \qquad x' = start + (c + 128.5)\, step

    So a code stands for the middle of its step. Distances are those of the decoded features, not of
    the codes: distances of codes would weigh features by 1 / step.

    Example:
        >>> import numpy as np
        >>> from metricjax import inference
        >>> codes = inference.Int8Codes.fit(np.array([[0.0, -1.0], [5.1, 1.55]], np.float32))
        >>> encoded = codes.encode(np.array([[1.0, 0.0]], np.float32))
        >>> print(encoded, codes.decode(encoded).round(3))
        [[-78 -28]] [[1.01  0.005]]

    Attributes:
        start: ``[D]``, the smallest value of each feature.
        step: ``[D]``, 1 / 255 of the range of each feature, above 0.
    """

    start: tuple[float, ...]
    step: tuple[float, ...]
    kind: ClassVar[str] = "int8"

    def __post_init__(self):
        for name in "start", "step":  # tuples of floats are hashable, and static under `jit`
            value = np.asarray(getattr(self, name), np.float32)
            if value.ndim != 1 or not np.isfinite(value).all() or len(value) != len(self.start):
                raise ValueError(
                    f"inference.Int8Codes: `{name}` must be one finite number for each feature, as "
                    f"many as `start` has, got shape {value.shape}. Use `Int8Codes.fit`."
                )
            object.__setattr__(self, name, tuple(value.tolist()))
        if any(step <= 0 for step in self.step):
            raise ValueError(
                f"inference.Int8Codes: `step` must be above 0, got {min(self.step)}. Use "
                f"`Int8Codes.fit`."
            )

    @classmethod
    def fit(cls, x: Float[ArrayLike, "n d"]) -> "Int8Codes":
        """Chooses start and step so that all values of `x` have a code.

        Values outside of the range of `x` get its first or last code. A feature that does not vary
        in `x` is decoded as it is there.

        Args:
            x: ``[N, D]``, at least one row, finite; such as the gallery, or a sample of it.

        Raises:
            ValueError: for a wrong shape, for no rows, or if values are NaN or infinite.
            TypeError: if `x` is not floating.
        """
        rows = _finite("inference.Int8Codes.fit", "x", x)
        if not len(rows):
            raise ValueError(
                f"inference.Int8Codes.fit: `x` must have at least one row, got {rows.shape}. Give "
                f"rows like those to encode."
            )
        low, high = (value.astype(np.float32) for value in (rows.min(0), rows.max(0)))
        # A step of 0 would divide 0 by 0. The least one adds nothing to `start`; a step of 1, which
        # is also in use, would add 0.5: features that are always 0 would have most of the length.
        step = np.maximum((high - low) / 255, np.finfo(np.float32).tiny)
        return cls(tuple(low.tolist()), tuple(step.tolist()))

    @property
    def features(self) -> int:
        """How many features D are encoded."""
        return len(self.start)

    def encode(self, x: Float[ArrayLike, "n d"]) -> Int8[np.ndarray, "n d"]:
        """Returns the codes of finite embeddings, ``[N, D]`` in int8."""
        rows = _finite("inference.Int8Codes.encode", "x", x, self.features)
        start, step = np.asarray(self.start, np.float32), np.asarray(self.step, np.float32)
        codes, size = np.empty(rows.shape, np.int8), max(1, ELEMENTS // max(1, self.features))
        for i in range(0, len(rows), size):
            with np.errstate(over="ignore"):  # far outside: infinity gets the last code, too
                steps = (rows[i : i + size].astype(np.float32) - start[None]) / step[None]
            codes[i : i + size] = np.clip(np.floor(steps), 0, 255) - 128
        return codes

    def decode(self, codes: Int8[ArrayLike, "n d"]) -> Float[Array, "n d"]:
        """Returns the values that codes stand for, ``[N, D]`` in float32."""
        start, step = jnp.float32(self.start), jnp.float32(self.step)
        return start[None] + (jnp.asarray(codes).astype(jnp.float32) + 128.5) * step[None]


@dataclasses.dataclass(frozen=True)
class BinaryCodes:
    r"""Embeddings as one bit for each feature: whether it is above 0.

    .. math:: b = [x > 0] \qquad x' = 2 b - 1

    Bits suit embeddings whose features are centered and of similar variance. Eight features are
    packed into a byte, the first one in its highest bit. The last byte is filled with zeros.

    Example:
        >>> import numpy as np
        >>> from metricjax import inference
        >>> codes = inference.BinaryCodes(features=3)
        >>> encoded = codes.encode(np.array([[0.2, -0.4, 0.3]], np.float32))
        >>> print(encoded, codes.decode(encoded))
        [[160]] [[ 1. -1.  1.]]

    Attributes:
        features: how many features D are encoded.
    """

    features: int
    kind: ClassVar[str] = "binary"

    def __post_init__(self):
        check_at_least("inference.BinaryCodes", "features", self.features, 0)

    def encode(self, x: Float[ArrayLike, "n d"]) -> UInt8[np.ndarray, "n bytes"]:
        """Returns the codes of finite embeddings, ``[N, ceil(D / 8)]`` in uint8."""
        rows = _finite("inference.BinaryCodes.encode", "x", x, self.features)
        return np.packbits(rows > 0, axis=1)

    def decode(self, codes: UInt8[ArrayLike, "n bytes"]) -> Float[Array, "n d"]:
        """Returns +1 and -1 for the bits of codes, ``[N, D]`` in float32."""
        bits = jnp.unpackbits(jnp.asarray(codes), axis=-1, count=self.features)
        return 2 * bits.astype(jnp.float32) - 1


Codes = Int8Codes | BinaryCodes


def chosen(function: str, codes: Any, embeddings: np.ndarray) -> Codes | None:
    """Returns the codes that the argument `codes` asks for."""
    if codes is None or isinstance(codes, Codes):
        return codes
    if codes not in ("int8", "binary"):
        raise ValueError(
            f"{function}: `codes` must be None, 'int8', 'binary', or an `Int8Codes` or "
            f"`BinaryCodes`, got {str(codes)[:80]!r}."
        )
    if codes == "binary":
        return BinaryCodes(embeddings.shape[1])
    if not len(embeddings):
        raise ValueError(
            f"{function}: `embeddings` must have rows from which `codes='int8'` takes the range of "
            f"each feature, got {embeddings.shape}. Give some, or `Int8Codes.fit(rows)`."
        )
    return Int8Codes.fit(_finite(function, "embeddings", embeddings))


def check(function: str, codes: Codes, distance: Distance, backend: str) -> None:
    """Checks that the search of codes supports the distance and the backend."""
    if backend == "faiss":
        raise ValueError(
            f"{function}: `codes` must be None with FAISS, got {codes.kind!r}. Leave out `backend`."
        )
    euclidean = isinstance(distance, LpDistance) and distance.p == 2 and distance.power > 0
    ordered = euclidean or isinstance(distance, CosineSimilarity | DotProductSimilarity)
    if isinstance(codes, BinaryCodes) and not ordered:
        # all rows of +1 and -1 have one length, so these three order them alike, and by their bits
        raise TypeError(
            f"{function}: `distance` must be LpDistance(p=2), DotProductSimilarity or "
            f"CosineSimilarity for binary codes, got {distance}. Use `codes='int8'` for others."
        )


def made_by(codes: Any, x: np.ndarray) -> bool:
    """Whether `x` are codes already; floats are embeddings to encode."""
    return isinstance(codes, Codes) and x.dtype == (np.int8 if codes.kind == "int8" else np.uint8)


def encoded(function: str, codes: Codes, x: np.ndarray) -> np.ndarray:
    """Returns the codes of embeddings, or the codes that they are already."""
    if not made_by(codes, x):
        return codes.encode(_finite(function, "embeddings", x, codes.features))
    width = codes.features if codes.kind == "int8" else -(-codes.features // 8)
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(
            f"{function}: `embeddings` must have shape [M, {width}] as codes of {codes.features} "
            f"features have, got {x.shape}."
        )
    return x


def gallery(codes: Codes, encoded: Array) -> Array:
    """Returns codes as the search needs them: bits in words of 32, because words are quick.

    512 bits of 256 queries and 65,536 rows took 1.2 s in words on a busy CPU, and 58 s in bytes.
    """
    if isinstance(codes, Int8Codes):
        return encoded
    encoded = jnp.pad(encoded, ((0, 0), (0, -encoded.shape[1] % 4)))
    return jax.lax.bitcast_convert_type(encoded.reshape(len(encoded), -1, 4), jnp.uint32)


def nearest(
    query: Array, reference: Array, k: int, *, codes: Codes, distance: Distance, **which: Any
) -> Neighbors:
    """Finds the `k` nearest codes of every query.

    Args:
        query: ``[Q, D]`` floats.
        reference: the codes, as `gallery` returns them.
        k: how many neighbors; static.
        codes: what made them.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``.
        which: which references exist, and for which query; see `search`.
    """
    query = upcast(query)
    if isinstance(codes, Int8Codes):
        size = max(1, min(block_sizes().search[1], ELEMENTS // max(1, codes.features)))
        options = {"distance": Decoded(distance, codes), "ref_block_size": size}
        return search(query, reference, k=k, **options, **which)
    wanted = min(CANDIDATES * k, len(reference))
    size = max(1, min(block_sizes().search[0], ELEMENTS // (wanted * max(1, codes.features))))
    options = {"distance": _Hamming(), "then": _Ranked(k, codes, distance)}
    bits = gallery(codes, jnp.packbits(query > 0, axis=1))
    return search(bits, reference, query, reference, k=wanted, block_size=size, **options, **which)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The distance of floats to what codes stand for."""

    distance: Distance
    codes: Codes

    @property
    def is_similarity(self) -> bool:
        return self.distance.is_similarity

    def __call__(self, x, y):
        return self.distance(x, _values(self.codes, y).astype(x.dtype))


def _values(codes, reference):
    """Decodes what `gallery` returned."""
    if isinstance(codes, BinaryCodes):
        reference = jax.lax.bitcast_convert_type(reference, jnp.uint8).reshape(len(reference), -1)
    return codes.decode(reference)


@dataclasses.dataclass(frozen=True)
class _Hamming:
    """How many bits differ; a float because a search needs infinity."""

    is_similarity = False

    def __call__(self, x, y):
        # One term for each word fuses into one pass over [N, M]; an array [N, M, words] might not.
        count = jnp.zeros((len(x), len(y)), jnp.uint32)
        for i in range(x.shape[1]):
            count += jax.lax.population_count(x[:, i][:, None] ^ y[:, i][None, :])
        return count.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """Ranks the rows that bits selected; called by `search` with each block of queries.

    A value and not a function, because `search` compiles once for each value.
    """

    k: int
    codes: BinaryCodes
    distance: Distance

    def __call__(self, selected, query, reference):
        rows = jnp.sort(selected.indices, 1)  # of equal distances the lower row comes first
        y = _values(self.codes, reference[rows.ravel()]).astype(query.dtype)
        x = jnp.repeat(query, rows.shape[1], 0)
        # one pair at a time: equal bits have equal distances, wherever a product would put them
        values = row_distances(x, y, distance=self.distance).reshape(rows.shape)
        missing, similar = rows < 0, self.distance.is_similarity
        values = jnp.where(missing, -jnp.inf if similar else jnp.inf, values)
        # `missing` sorts first, so that a row whose distance is NaN comes before no row
        order = jnp.lexsort((-values if similar else values, missing))[:, : self.k]
        return Neighbors(*(jnp.take_along_axis(x, order, 1) for x in (values, rows)))


def _finite(function, name, x, features=None):
    """Returns embeddings that codes can stand for: no code is NaN or infinity."""
    x = np.asarray(x)
    check_embeddings(function, name, x)
    if features is not None and x.shape[1] != features:
        raise ValueError(
            f"{function}: `{name}` must have {features} features as the codes have, got {x.shape}."
        )
    if not np.isfinite(x).all():
        raise ValueError(
            f"{function}: `{name}` must be finite, got NaN or infinity. Leave such rows out."
        )
    return x
