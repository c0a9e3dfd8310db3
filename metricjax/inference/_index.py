"""An immutable gallery of embeddings to search."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Shaped

from metricjax._core.check import check_at_least, check_choice, check_embeddings
from metricjax._core.names import column, names
from metricjax._core.rounding import check_distance, rounded
from metricjax.distances import Distance, LpDistance
from metricjax.evaluation import Ignore
from metricjax.evaluation._knn import as_ignores, search
from metricjax.inference import _codes, _faiss, _file
from metricjax.inference._codes import BinaryCodes, Int8Codes
from metricjax.inference._pairs import check_number, match, within

DTYPES = ("bfloat16", "float16", "float32", "float64")


class Neighbors(NamedTuple):
    """The result of `Index.nearest`: ``distances [Q, K]`` and ``ids [Q, K]``, nearest first."""

    distances: Float[np.ndarray, "q k"]
    ids: Shaped[np.ndarray, "q k"]


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Index:
    """Embeddings with ids to search; `add` and `remove` return a new index.

    Search, matching and the file all use the same `distance`, so normalization is never left out on
    one side. The number of rows is padded for the compiled search. So adding one row usually does
    not cause another compilation.

    With `codes`, the index keeps a byte or a bit for each feature, in memory, on the device and in
    the file. Distances are then those of the query, in floats, to what the codes stand for.

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
        codes: "int8" keeps a byte for each feature, in steps of 1 / 255 of the range that the
            feature has in `embeddings`; `Int8Codes` sets the ranges. "binary" keeps a bit for each
            feature. Bits support only Euclidean distances, dot products and cosines. They select
            4 times `k` rows to rank, so `nearest` may miss some of the nearest rows. Codes must
            represent finite embeddings. `embeddings` may be codes already if `codes` is the
            `Int8Codes` or `BinaryCodes` that made them.
        truncate: the index keeps and compares only this many of the first features, as of
            embeddings that were trained with `metricjax.matryoshka`. All rows and queries are
            truncated.

    Attributes:
        embeddings: ``[M, D]``, what the index keeps: the embeddings, or their codes.
        ids, labels, distance, backend, truncate: as given.
        codes: ``None``, or the `Int8Codes` or `BinaryCodes` that encode and decode.

    Raises:
        ValueError: for mismatched shapes, for equal ids, for fewer features than `truncate`, or for
            codes of embeddings that are NaN or infinite.
        TypeError: for other dtypes, or for a distance that FAISS or the codes do not support.
    """

    embeddings: Shaped[np.ndarray, "m d"]
    ids: Shaped[np.ndarray, " m"]
    labels: Shaped[np.ndarray, " m"] | None
    distance: Distance
    backend: str
    codes: Int8Codes | BinaryCodes | None
    truncate: int | None

    def __init__(
        self,
        embeddings: Float[ArrayLike, "m d"],
        ids: Any = None,
        *,
        labels: Any = None,
        distance: Distance = LpDistance(),
        backend: str = "jax",
        codes: str | Int8Codes | BinaryCodes | None = None,
        truncate: int | None = None,
    ):
        name = "inference.Index"
        check_choice(name, "backend", backend, ("jax", "faiss"))
        check_distance(name, distance)
        if backend == "faiss":
            _faiss.check(name, distance)
        x = np.asarray(embeddings)
        if not _codes.made_by(codes, x):
            x = _embeddings(name, "embeddings", x, truncate)
        elif isinstance(codes, Int8Codes | BinaryCodes) and truncate not in (None, codes.features):
            raise ValueError(
                f"{name}: `truncate` must be None or the {codes.features} features of the codes, "
                f"got {truncate}. Encode truncated embeddings."
            )
        codes = _codes.chosen(name, codes, x)
        if codes is not None:
            _codes.check(name, codes, distance, backend)
            x = _codes.encoded(name, codes, x)
        x = _read_only(x)
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
        fields = {"embeddings": x, "ids": ids, "labels": labels, "distance": distance}
        vars(self).update(fields, backend=backend, codes=codes, truncate=truncate)

    def __len__(self) -> int:
        """Returns how many embeddings the index has."""
        return len(self.ids)

    def __repr__(self) -> str:
        kind = self.embeddings.dtype.name if self.codes is None else self.codes.kind
        what = f"{len(self)} embeddings of {self._features} {kind} features"
        return f"Index({what}, distance={self.distance}, backend={self.backend!r})"

    def add(
        self, embeddings: Float[ArrayLike, "a d"], ids: Any = None, *, labels: Any = None
    ) -> "Index":
        """Returns a new index with `embeddings` at the end.

        Args:
            embeddings: ``[A, D]``, with the dtype of the index. An index of codes encodes them, in
                the ranges that it has.
            ids: ``[A]``, none of which is in the index yet. If the index has integer ids, they may
                be left out: the new ids continue from the largest.
            labels: ``[A]``; required if the index has labels, and not allowed otherwise.
        """
        name = "inference.Index.add"
        x = self._checked(name, "embeddings", embeddings)
        if self.codes is not None:
            x = _codes.encoded(name, self.codes, x)
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
        ids = self._join(name, "ids", self.ids, ids, len(x))
        if labels is not None:
            labels = self._join(name, "labels", self.labels, labels, len(x))
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

    def nearest(
        self,
        query: Float[ArrayLike, "q d"],
        k: int,
        *,
        ignore: Ignore | None = None,
        rerank: Callable[..., Any] | None = None,
    ) -> Neighbors:
        """Finds the `k` nearest embeddings of every query, nearest first, none of them twice.

        Among equal distances, the embedding that was added first comes first. A NaN distance ranks
        last.

        Args:
            query: ``[Q, D]``.
            k: how many neighbors, from 1 to the size of the index.
            ignore: pairs of a query and an embedding that are left out; the values of
                ``ignore.reference`` are in the order of `ids`. See `metricjax.evaluation.Ignore`.
            rerank: a search to use instead, ``rerank(query, reference, k)``, which returns the
                distances and the rows of the reference, both ``[Q, K]``. Its reference is the
                embeddings in the order of `ids`, decoded in float32 if the index has codes. An
                example is ``functools.partial(metricjax.evaluation.rerank.k_reciprocal, k1=20)``.
                It has a `distance` of its own. It cannot be combined with `ignore`.

        Returns:
            ``distances [Q, K]`` and ``ids [Q, K]``, as numpy arrays.

        Raises:
            ValueError: for a wrong shape, for a `k` that is not positive or larger than the index,
                if `ignore` leaves a query fewer than `k` embeddings, or for a distance that is not
                finite if the backend is FAISS.
            TypeError: if `ignore` is not an `Ignore`, or if `rerank` returns anything else.
        """
        name = "inference.Index.nearest"
        x = self._checked(name, "query", query)
        check_at_least(name, "k", k, 1)
        if k > len(self):
            raise ValueError(
                f"{name}: `k` must be at most the index's size {len(self)}, got {k}. Use "
                f"`min(k, len(index))`."
            )
        ignores = as_ignores(name, ignore, "query", len(x), len(self))
        if ignores and (rerank is not None or self.backend == "faiss"):
            raise ValueError(
                f"{name}: `ignore` must be None with `rerank` or FAISS, which cannot leave out "
                f"pairs, got an `Ignore`. Leave out `rerank` and `backend`."
            )
        if rerank is not None:
            found = self._reranked(x, k, rerank)
        elif self.backend == "faiss":
            found = _faiss.search(self._flat, x, k, self.distance)
        else:
            found = self._search(x, k, ignores)
        distances, rows = (np.asarray(part)[: len(x)] for part in found)
        if np.any(rows < 0) and ignores:
            left = np.sum(rows >= 0, 1)
            raise ValueError(
                f"{name}: `k` must be at most the number of embeddings that `ignore` leaves to "
                f"every query, got {k} and {left.min()} of query {left.argmin()}. Reduce `k`."
            )
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
            threshold: the largest distance, or smallest similarity, of a match. With `codes`, it
                is one for distances to codes, which differ from those of embeddings.

        Returns:
            ``[Q, M]`` booleans. The columns are in the order of `ids`, so ``index.ids[row]`` are
            the ids of the matches of a row.
        """
        name = "inference.Index.matches"
        x = self._checked(name, "query", query)
        check_number(name, "threshold", threshold)
        reference, _, distance = self._gallery
        if self.codes is not None:
            distance = _codes.Decoded(distance, self.codes)
        queries = _pad(x)
        block_size = max(1, _codes.ELEMENTS // max(len(queries), self._features))
        options = {"distance": distance, "block_size": min(len(reference), block_size)}
        found = _matches(queries, reference, threshold, **options)
        return np.asarray(found)[: len(x), : len(self)]

    def match(
        self, x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "n d"], threshold: float
    ) -> Bool[np.ndarray, " n"]:
        """Returns whether each row of `x` matches the same row of `y`; see `inference.match`."""
        name = "inference.Index.match"
        x, y = (
            jnp.asarray(_embeddings(name, side, z, self.truncate))
            for side, z in (("x", x), ("y", y))
        )
        return np.asarray(match(x, y, threshold, distance=self.distance))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index to one file, which `load` reads.

        A new file is written next to `path` and then replaces it in one step, so a failure while
        writing leaves the old file as it was. The file holds no code: it is numpy's "npz" without
        pickles. The distance is saved by its name and its fields, and must be one of
        `metricjax.distances`. `backend` is not saved.
        """
        arrays = {"embeddings": self.embeddings, "ids": self.ids, "labels": self.labels}
        options = {"distance": self.distance, "codes": self.codes, "truncate": self.truncate}
        _file.save(path, arrays, **options)

    @classmethod
    def load(cls, path: str | os.PathLike, *, backend: str = "jax") -> "Index":
        """Reads an index that `save` wrote.

        Raises:
            ValueError: if the file is damaged, truncated, of a later version, or not an index.
        """
        with _file.opened(path) as fields:
            index = cls(**fields)
        return index if backend == index.backend else dataclasses.replace(index, backend=backend)

    @property
    def _features(self):
        return self.embeddings.shape[1] if self.codes is None else self.codes.features

    @functools.cached_property
    def _gallery(self):
        """What the index keeps, on the device and padded with zeros; which rows exist; distance."""
        x = _pad(self.embeddings, least=16)
        exists = jnp.arange(len(x)) < len(self)
        x = x if self.codes is None else _codes.gallery(self.codes, x)
        return x, exists, rounded("inference.Index", self.distance)

    def _search(self, x, k, ignores):
        """The neighbors of the padded queries."""
        reference, exists, distance = self._gallery
        queries = lambda v: _pad(np.asarray(v))
        # by copies of the last value: `listed` needs rows in ascending order
        references = lambda v: _pad(np.asarray(v), 16, mode="edge")
        ignores = tuple(
            Ignore(
                jax.tree.map(queries, each.query),
                jax.tree.map(references, each.reference),
                each.relation,
            )
            for each in ignores
        )
        options = {"k": k, "distance": distance, "where": exists, "ignores": ignores}
        if self.codes is None:
            return search(_pad(x), reference, **options)
        return _codes.nearest(_pad(x), reference, codes=self.codes, **options)

    def _reranked(self, x, k, rerank):
        reference = jnp.asarray(self.embeddings)
        if self.codes is not None:
            reference = self.codes.decode(reference)
        found = rerank(jnp.asarray(x), reference, k)
        if not isinstance(found, tuple) or [np.shape(part) for part in found] != [(len(x), k)] * 2:
            raise TypeError(
                f"inference.Index.nearest: `rerank` must return distances and rows, both "
                f"[{len(x)}, {k}], got {jax.tree.map(np.shape, found)}. To search with other "
                f"queries, return `evaluation.knn(expanded, reference, k)`."
            )
        return found

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
        x = _embeddings(function, name, x, self.truncate)
        if x.shape[1] != self._features:
            raise ValueError(
                f"{function}: `{name}` must have {self._features} features as the index has, got "
                f"{x.shape}. Embed both by the same network."
            )
        return x

    def _join(self, function, name, old, new, n):
        new = column(function, name, new, "embeddings", n)
        if len(old) and len(new) and old.dtype.kind != new.dtype.kind:
            kinds = {"i": "integers", "U": "strings"}
            raise TypeError(
                f"{function}: `{name}` must be {kinds[old.dtype.kind]} as those of the index are, "
                f"got {kinds[new.dtype.kind]}. Convert them."
            )
        return np.concatenate([x for x in (old, new) if len(x)] or [old])


@functools.partial(jax.jit, static_argnames=("distance", "block_size"))
def _matches(query, reference, threshold, *, distance, block_size):
    one = lambda y: within(distance(query, y[None])[:, 0], threshold, distance)
    return jax.lax.map(one, reference, batch_size=block_size).T


def _embeddings(function, name, x, truncate=None):
    x = np.asarray(x)
    check_embeddings(function, name, x)
    if x.dtype.name not in DTYPES:
        raise TypeError(
            f"{function}: `{name}` must be of {', '.join(DTYPES)}, got {x.dtype}. Use `.astype`."
        )
    if truncate is not None:
        check_at_least(function, "truncate", truncate, 1)
        if x.shape[1] < truncate:
            raise ValueError(
                f"{function}: `{name}` must have at least the {truncate} features that `truncate` "
                f"keeps, got {x.shape}. Reduce `truncate`."
            )
    return x[:, :truncate].astype(x.dtype.name, copy=False)  # in the byte order of this machine


def _read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


def _pad(x, least=1, mode="constant"):
    """Copies rows to the device, padded to one of eight lengths per power of two."""
    step = max(least, 1 << max(0, len(x).bit_length() - 4))
    size = max(1, -(-len(x) // step)) * step
    return jnp.asarray(np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), mode))
