"""An immutable gallery of embeddings to search."""

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
    """The result of `Index.nearest`: ``distances [Q, K]`` and ``ids [Q, K]``, nearest first."""

    distances: Float[np.ndarray, "q k"]
    ids: Shaped[np.ndarray, "q k"]


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Index:
    """Embeddings with ids for exact search; `add` and `remove` return a new index.

    Search, matching and the file all use the same `distance`, so normalization is never left out on
    one side. The number of rows is padded for the compiled search. So adding one row usually does
    not cause another compilation.

    Example:
        >>> import numpy as np
        >>> from metricjax import inference
        >>> index = inference.Index(np.eye(3, dtype=np.float32), ["a", "b", "c"])
        >>> index = index.add(np.array([[1, 1, 0]], np.float32), ["d"]).remove(["a"])
        >>> distances, ids = index.nearest(np.array([[2, 1, 0]], np.float32), 2)
        >>> print(ids, distances.round(2))
        [['d' 'b']] [[0.32 1.05]]

    Args:
        embeddings: ``[M, D]``, float16, bfloat16, float32 or float64. They keep their dtype. The
            search runs in float32 (float64 under ``jax_enable_x64``).
        ids: ``[M]`` unique integers or strings; 0, 1, 2, ... by default.
        labels: ``[M]`` integers or strings, optional; see `labels_of`.
        distance: pairwise ``[Q, D], [M, D] -> [Q, M]``. By default the Euclidean distance between
            vectors of length 1. A cosine within 16 eps of 1 counts as 1.
        backend: "jax", or "faiss": then `nearest` uses a flat index of FAISS, in float32 on the
            CPU. It supports only Euclidean distances, dot products and cosines, and it does not
            order equal distances. It needs ``pip install 'metricjax[faiss]'``.

    Raises:
        ValueError: for mismatched shapes, or for equal ids.
        TypeError: for other dtypes, or for a distance that FAISS does not support.
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
        """Returns how many embeddings the index has."""
        return len(self.ids)

    def __repr__(self) -> str:
        (size, features), dtype = self.embeddings.shape, self.embeddings.dtype.name
        what = f"{size} embeddings of {features} {dtype} features"
        return f"Index({what}, distance={self.distance}, backend={self.backend!r})"

    def add(
        self, embeddings: Float[ArrayLike, "a d"], ids: Any = None, *, labels: Any = None
    ) -> "Index":
        """Returns a new index with `embeddings` at the end.

        Args:
            embeddings: ``[A, D]``, with the dtype of the index.
            ids: ``[A]``, none of which is in the index yet. If the index has integer ids, they may
                be left out: the new ids continue from the largest.
            labels: ``[A]``; required if the index has labels, and not allowed otherwise.
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
            if int(last) + len(x) >= 2**63:  # int64 would wrap around to -2**63
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
        """Returns a new index without the embeddings of `ids`, which must all be in the index."""
        kept = np.ones(len(self), bool)
        kept[self._rows("inference.Index.remove", ids)] = False
        labels = None if self.labels is None else self.labels[kept]
        x, left = self.embeddings[kept], self.ids[kept]
        return dataclasses.replace(self, embeddings=x, ids=left, labels=labels)

    def labels_of(self, ids: Any) -> Shaped[np.ndarray, "*shape"]:
        """Returns the labels of `ids`, such as those of neighbors, in the shape of `ids`."""
        name = "inference.Index.labels_of"
        if self.labels is None:
            raise ValueError(
                f"{name}: the index must have labels, got none. Make it with `labels`."
            )
        return self.labels[self._rows(name, ids)]

    def nearest(self, query: Float[ArrayLike, "q d"], k: int) -> Neighbors:
        """Finds the `k` nearest embeddings of every query, nearest first, none of them twice.

        Among equal distances, the embedding that was added first comes first. A NaN distance ranks
        last.

        Args:
            query: ``[Q, D]``.
            k: how many neighbors, from 1 to the size of the index.

        Returns:
            ``distances [Q, K]`` and ``ids [Q, K]``, as numpy arrays.

        Raises:
            ValueError: for a wrong shape, for a `k` that is not positive or larger than the index,
                or for a distance that is not finite if the backend is FAISS.
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
        """Returns which embeddings are within `threshold` of each query.

        Args:
            query: ``[Q, D]``.
            threshold: the largest distance, or smallest similarity, of a match.

        Returns:
            ``[Q, M]`` booleans. The columns are in the order of `ids`, so ``index.ids[row]`` are
            the ids of the matches of a row.
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
        """Returns whether each row of `x` matches the same row of `y`; see `inference.match`."""
        return np.asarray(match(jnp.asarray(x), jnp.asarray(y), threshold, distance=self.distance))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index to one file, which `load` reads.

        A new file is written next to `path` and then replaces it in one step, so a failure while
        writing leaves the old file as it was. The file holds no code: it is numpy's "npz" without
        pickles. The distance is saved by its name and its fields, and must be one of
        `metricjax.distances`. `backend` is not saved.
        """
        _file.save(path, self.embeddings, self.ids, self.labels, self.distance)

    @classmethod
    def load(cls, path: str | os.PathLike, *, backend: str = "jax") -> "Index":
        """Reads an index that `save` wrote.

        Raises:
            ValueError: if the file is damaged, truncated, of a later version, or not an index.
        """
        with _file.opened(path) as fields:
            index = cls(**fields)
        return index if backend == index.backend else dataclasses.replace(index, backend=backend)

    @functools.cached_property
    def _gallery(self):
        """The embeddings on the device, padded with zeros; which rows exist; the search options."""
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
        """Returns the rows of `ids`."""
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
    return x.astype(x.dtype.name, copy=False)  # in the byte order of this machine


def _read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


def _pad(x, least=1):
    """Copies `x` to the device, padded with zeros to one of eight lengths per power of two."""
    step = max(least, 1 << max(0, len(x).bit_length() - 4))
    size = max(1, -(-len(x) // step)) * step
    return jnp.asarray(np.pad(x, [(0, size - len(x)), (0, 0)]))
