"""A gallery of embeddings to search, as an immutable value."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Shaped

from metricjax._core.check import check_at_least, check_choice, check_embeddings
from metricjax._core.names import column, names
from metricjax._core.tuning import block_sizes
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation import knn
from metricjax.inference import _faiss, _file
from metricjax.inference._pairs import check_distance, check_number, match, rounded, within

DTYPES = ("bfloat16", "float16", "float32", "float64")
SEARCH_ELEMENTS = 2**24
"""A search holds at most about this many distances at once."""


class Neighbors(NamedTuple):
    """What `Index.nearest` found: ``distances [Q, K]`` and ``ids [Q, K]``, nearest first."""

    distances: Float[np.ndarray, "q k"]
    ids: Shaped[np.ndarray, "q k"]


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Index:
    """Embeddings with ids, to be searched exactly; `add` and `remove` give a new index.

    Search, matches and the file all use one `distance`, so that normalization is never left out on
    one side. Lengths are padded for the compiled search: growing an index by one compiles nothing
    most of the time.

    Example:
        >>> import numpy as np
        >>> from metricjax import inference
        >>> index = inference.Index(np.eye(3, dtype=np.float32), ["a", "b", "c"])
        >>> index = index.add(np.array([[1, 1, 0]], np.float32), ["d"]).remove(["a"])
        >>> distances, ids = index.nearest(np.array([[2, 1, 0]], np.float32), 2)
        >>> print(ids, distances.round(2))
        [['d' 'b']] [[0.32 1.05]]

    Args:
        embeddings: ``[M, D]``, float16, bfloat16, float32 or float64. They keep their dtype; the
            search is in float32 (float64 under ``jax_enable_x64``).
        ids: ``[M]`` integers or strings, no two equal; 0, 1, 2, ... by default.
        labels: ``[M]`` integers or strings that go along, if any; see `labels_of`.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. By default the Euclidean distance between
            vectors of length 1. A cosine within 16 eps of 1 counts as 1.
        backend: "jax", or "faiss" for `nearest` by a flat index of that library, in float32 on the
            CPU: Euclidean distances, dot products and cosines only, and no order among equal
            distances. It needs ``pip install 'metricjax[faiss]'``.

    Raises:
        ValueError: for mismatched shapes or equal ids.
        TypeError: for other dtypes, or a distance that FAISS does not have.
    """

    embeddings: Float[np.ndarray, "m d"]
    ids: Shaped[np.ndarray, " m"]
    labels: Shaped[np.ndarray, " m"] | None
    distance: Distance
    backend: str

    def __init__(
        self,
        embeddings: Float[ArrayLike, "m d"],
        ids: Any = None,
        *,
        labels: Any = None,
        distance: Distance = LpDistance(),
        backend: str = "jax",
    ):
        name = "inference.Index"
        check_choice(name, "backend", backend, ("jax", "faiss"))
        check_distance(name, distance)
        if backend == "faiss":
            _faiss.check(name, distance)
        x = _read_only(_embeddings(name, "embeddings", embeddings))
        ids = np.arange(len(x)) if ids is None else ids
        ids = _read_only(column(name, "ids", ids, "embeddings", len(x)))
        distinct, counts = np.unique(ids, return_counts=True)
        if twice := distinct[counts > 1].tolist():
            raise ValueError(
                f"{name}: `ids` must be unique, got {twice[0]!r} twice. Give the second one "
                f"another id, or `remove` the first."
            )
        if labels is not None:
            labels = _read_only(column(name, "labels", labels, "embeddings", len(x)))
        fields = {"embeddings": x, "ids": ids, "labels": labels}
        vars(self).update(fields, distance=distance, backend=backend)

    def __len__(self) -> int:
        """How many embeddings there are."""
        return len(self.ids)

    def __repr__(self) -> str:
        (size, features), dtype = self.embeddings.shape, self.embeddings.dtype.name
        what = f"{size} embeddings of {features} {dtype} features"
        return f"Index({what}, distance={self.distance}, backend={self.backend!r})"

    def add(
        self, embeddings: Float[ArrayLike, "a d"], ids: Any = None, *, labels: Any = None
    ) -> "Index":
        """A new index with `embeddings` at the end.

        Args:
            embeddings: ``[A, D]``, of the dtype of those that are there.
            ids: ``[A]``, not used so far. Integers may be left out: they continue from the largest.
            labels: ``[A]``; given exactly if the index has labels.
        """
        name = "inference.Index.add"
        x = self._checked(name, "embeddings", embeddings)
        if x.dtype != self.embeddings.dtype:
            raise TypeError(
                f"{name}: `embeddings` must be {self.embeddings.dtype} as the index is, got "
                f"{x.dtype}. Use `.astype`."
            )
        if ids is None:
            if self.ids.dtype.kind == "U":
                raise ValueError(
                    f"{name}: `ids` are needed, as those of the index are strings. Give [{len(x)}]."
                )
            last = self.ids.max(initial=-1)
            if int(last) + len(x) >= 2**63:  # int64 would continue at -2**63
                raise ValueError(
                    f"{name}: `ids` must be given, got none, as fewer than {len(x)} are left "
                    f"between the largest, {last}, and 2**63."
                )
            ids = last + np.arange(1, len(x) + 1)
        if (labels is None) != (self.labels is None):
            raise ValueError(
                f"{name}: `labels` must be given if and only if the index has labels, got "
                f"{'none' if labels is None else 'some'}. "
                f"{'Give them' if labels is None else 'Leave them out'}."
            )
        ids = self._join(name, "ids", self.ids, ids)
        if labels is not None:
            labels = self._join(name, "labels", self.labels, labels)
        x = np.concatenate([self.embeddings, x])
        return dataclasses.replace(self, embeddings=x, ids=ids, labels=labels)

    def remove(self, ids: Any) -> "Index":
        """A new index without the embeddings of these ids, each of which must be there."""
        kept = np.ones(len(self), bool)
        kept[self._rows("inference.Index.remove", ids)] = False
        labels = None if self.labels is None else self.labels[kept]
        x, left = self.embeddings[kept], self.ids[kept]
        return dataclasses.replace(self, embeddings=x, ids=left, labels=labels)

    def labels_of(self, ids: Any) -> Shaped[np.ndarray, "*shape"]:
        """The labels of these ids, in their shape: those of neighbors, say."""
        name = "inference.Index.labels_of"
        if self.labels is None:
            raise ValueError(
                f"{name}: the index must have labels, got none. Make it with `labels`."
            )
        return self.labels[self._rows(name, ids)]

    def nearest(self, query: Float[ArrayLike, "q d"], k: int) -> Neighbors:
        """The `k` nearest embeddings of every query, nearest first, no one twice.

        Among equal distances the one that was added first comes first. A NaN distance ranks last.

        Args:
            query: ``[Q, D]``.
            k: how many neighbors, from 1 to the size of the index.

        Returns:
            ``distances [Q, K]`` and ``ids [Q, K]``, as numpy arrays.

        Raises:
            ValueError: for a wrong shape, for a `k` that is not positive or larger than the index,
                or if FAISS meets a distance that is not finite.
        """
        name = "inference.Index.nearest"
        x = self._checked(name, "query", query)
        check_at_least(name, "k", k, 1)
        if k > len(self):
            raise ValueError(
                f"{name}: `k` must be at most the index's size {len(self)}, got {k}. Use "
                f"`min(k, len(index))`."
            )
        if self.backend == "faiss":
            distances, rows = _faiss.search(self._flat, x, k, self.distance)
        else:
            reference, exists, options = self._gallery
            found = knn(_pad(x), reference, k, where=exists, **options)
            distances, rows = map(np.asarray, found)
        distances, rows = distances[: len(x)], rows[: len(x)]
        if np.any(rows < 0):
            raise ValueError(
                f"{name}: distances to `query` must be finite, got NaN or infinity. Normalize or "
                f"scale the embeddings."
            )
        return Neighbors(distances, self.ids[rows])

    def matches(self, query: Float[ArrayLike, "q d"], threshold: float) -> Bool[np.ndarray, "q m"]:
        """Which embeddings are within `threshold` of each query.

        Args:
            query: ``[Q, D]``.
            threshold: the largest distance, or smallest similarity, of a match.

        Returns:
            ``[Q, M]``; the columns are in the order of `ids`, so ``index.ids[row]`` names matches.
        """
        name = "inference.Index.matches"
        x = self._checked(name, "query", query)
        check_number(name, "threshold", threshold)
        reference, _, options = self._gallery
        found = _matches(_pad(x), reference, threshold, **options)
        return np.asarray(found)[: len(x), : len(self)]

    def match(
        self, x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "n d"], threshold: float
    ) -> Bool[np.ndarray, " n"]:
        """Whether each row of `x` matches the same row of `y`, by `inference.match`."""
        return np.asarray(match(jnp.asarray(x), jnp.asarray(y), threshold, distance=self.distance))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index to one file, which `load` reads.

        The file is written beside `path` under another name and then takes its place at once, so a
        failure on the way leaves what was there. It holds no code: it is numpy's "npz", without
        pickles. The distance is saved by its name and fields and must be of
        `metricjax.distances`; `backend` is not saved.
        """
        _file.save(path, self.embeddings, self.ids, self.labels, self.distance)

    @classmethod
    def load(cls, path: str | os.PathLike, *, backend: str = "jax") -> "Index":
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is damaged, cut short, of a later version or no index at all.
        """
        with _file.opened(path) as fields:
            index = cls(**fields)
        return index if backend == index.backend else dataclasses.replace(index, backend=backend)

    @functools.cached_property
    def _gallery(self):
        """Embeddings on the device, some zeros at the end; which exist; and how to search them."""
        x = _pad(self.embeddings, least=16)
        block_size = min(block_sizes().search[0], max(1, SEARCH_ELEMENTS // len(x)))
        distance = rounded("inference.Index", self.distance)
        options = {"distance": distance, "block_size": block_size}
        return x, jnp.arange(len(x)) < len(self), options

    @functools.cached_property
    def _flat(self):
        return _faiss.build(self.embeddings, self.distance)

    @functools.cached_property
    def _order(self):
        return np.argsort(self.ids)

    def _rows(self, function, ids):
        """Where these ids are."""
        ids = names(function, "ids", ids)
        if not ids.size:
            return np.zeros(ids.shape, int)
        comparable = ids.dtype.kind == self.ids.dtype.kind
        known = np.isin(ids, self.ids) if comparable else np.zeros(ids.shape, bool)
        if not known.all():
            raise ValueError(
                f"{function}: `ids` must be in the index, got {ids[~known].ravel()[0].item()!r}. "
                f"`index.ids` has those that are."
            )
        return self._order[np.searchsorted(self.ids, ids, sorter=self._order)]

    def _checked(self, function, name, x):
        x = _embeddings(function, name, x)
        if x.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"{function}: `{name}` must have {self.embeddings.shape[1]} features as the index "
                f"has, got {x.shape}. Embed both by the same network."
            )
        return x

    def _join(self, function, name, old, new):
        new = names(function, name, new)
        if len(old) and len(new) and old.dtype.kind != new.dtype.kind:
            kinds = {"i": "integers", "U": "strings"}
            raise TypeError(
                f"{function}: `{name}` must be {kinds[old.dtype.kind]} as those of the index are, "
                f"got {kinds[new.dtype.kind]}. Convert them."
            )
        return np.concatenate([x for x in (old, new) if len(x)] or [old])


@functools.partial(jax.jit, static_argnames=("distance", "block_size"))
def _matches(query, reference, threshold, *, distance, block_size):
    one = lambda x: within(distance(x[None], reference)[0], threshold, distance)
    return jax.lax.map(one, query, batch_size=block_size)


def _embeddings(function, name, x):
    x = np.asarray(x)
    check_embeddings(function, name, x)
    if x.dtype.name not in DTYPES:
        raise TypeError(
            f"{function}: `{name}` must be of {', '.join(DTYPES)}, got {x.dtype}. Use `.astype`."
        )
    return x.astype(x.dtype.name, copy=False)  # in this machine's byte order


def _read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


def _pad(x, least=1):
    """`x` on the device, with zeros at the end: one of eight lengths between powers of two."""
    step = max(least, 1 << max(0, len(x).bit_length() - 4))
    size = max(1, -(-len(x) // step)) * step
    return jnp.asarray(np.pad(x, [(0, size - len(x)), (0, 0)]))
