"""The file of an index: numpy's "npz" without pickles, written completely or not at all."""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision

from metricjax.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LorentzDistance,
    LpDistance,
    PoincareDistance,
    SNRDistance,
)
from metricjax.inference._codes import BinaryCodes, Int8Codes

FORMAT, VERSION = "metricjax.inference.Index", 2
"""Version 2 has `codes` and `truncate`. An index without them is written as version 1."""

CODES = {kind.kind: kind for kind in (Int8Codes, BinaryCodes)}
DISTANCES = (
    CosineSimilarity,
    DotProductSimilarity,
    LorentzDistance,
    LpDistance,
    PoincareDistance,
    SNRDistance,
)


def save(path, arrays, *, distance, codes, truncate) -> None:
    arrays = {name: x for name, x in arrays.items() if x is not None}
    dtype = arrays["embeddings"].dtype.name
    if dtype == "bfloat16":  # which the format does not support
        arrays["embeddings"] = arrays["embeddings"].view(np.uint16)
    about = {"format": FORMAT, "version": 1, "arrays": sorted(arrays), "dtype": dtype}
    about["distance"] = _described(distance)
    if codes is not None or truncate is not None:
        fields = codes and {"kind": codes.kind, "fields": dataclasses.asdict(codes)}
        about |= {"version": 2, "codes": fields, "truncate": truncate}
    with replacing(path) as file:
        # numbers of NumPy are welcome as options, and JSON does not know them
        text = json.dumps(about, default=lambda x: x.item())
        np.savez(file, about=np.array(text), **arrays)


@contextlib.contextmanager
def opened(path) -> Iterator[dict[str, Any]]:
    """Yields the arguments of the index in a file.

    Any error inside the ``with`` block, except `MemoryError`, is reported as an error of the file.
    """
    with open(path, "rb") as file:
        try:
            yield _read(file)
        except MemoryError:
            raise
        except Exception as error:  # damage can cause any error
            raise ValueError(
                f"inference.Index.load: `path` must be a file written by `Index.save`, whole and "
                f"unchanged, got {os.fspath(path)!r}: {str(error) or type(error).__name__}"
            ) from error


def _read(file):
    with zipfile.ZipFile(file) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} is damaged")
        for name in archive.namelist():
            with archive.open(name) as member:
                _check_size(member, os.fstat(file.fileno()).st_size)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].item()) if "about" in arrays else {}
        if about.get("format") != FORMAT:
            raise ValueError("it is of another kind")
        if about["version"] > VERSION:
            raise ValueError(
                f"its version is {about['version']}, and this metricjax reads up to {VERSION}"
            )
        if sorted(set(arrays) - {"about"}) != about["arrays"]:  # the table of contents is damaged
            raise ValueError(f"it must hold the arrays {about['arrays']}")
        embeddings = arrays["embeddings"]
        if about["dtype"] == "bfloat16":
            embeddings = embeddings.view(jnp.bfloat16.dtype)
        options = {"distance": _distance(about["distance"]), "truncate": about.get("truncate")}
        if codes := about.get("codes"):
            options["codes"] = CODES[codes["kind"]](**codes["fields"])
        if "labels" in arrays:
            options["labels"] = arrays["labels"]
        return {"embeddings": embeddings, "ids": arrays["ids"]} | options


def _check_size(member, most):
    """Checks that an array is not larger than the file, because numpy would allocate it.

    The arrays of an index are not compressed, so none of them is larger than the file.
    """
    np.lib.format.read_magic(member)
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if math.prod(shape) * max(1, dtype.itemsize) > most:
        raise ValueError(f"{member.name} says that it is {shape} of {dtype}, more than the file")


def _described(distance):
    """Describes a distance by its name and its fields."""
    if type(distance) not in DISTANCES:
        raise TypeError(
            f"inference.Index.save: `distance` must be one of metricjax.distances to be saved, "
            f"got {distance}. Save the embeddings by `numpy.save`."
        )
    fields = dataclasses.asdict(distance) | {"precision": Precision(distance.precision).name}
    return {"name": type(distance).__name__, "fields": fields}


def _distance(described):
    kind = {kind.__name__: kind for kind in DISTANCES}[described["name"]]
    fields = described["fields"] | {"precision": Precision[described["fields"]["precision"]]}
    for field in dataclasses.fields(kind):  # the classes check few of their values
        value = fields[field.name]
        number = type(value) in (int, float) and not math.isnan(value)
        if not (number if field.type is float else isinstance(value, field.type)):
            raise ValueError(f"`{field.name}` of its distance is {value!r}")
    return kind(**fields)


@contextlib.contextmanager
def replacing(path) -> Iterator[Any]:
    """Yields a file to write, which replaces `path` once all of it is on the disk."""
    path = Path(os.path.realpath(path))  # a link stays a link
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(draft, path.stat().st_mode)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if os.name == "posix":  # other systems cannot open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
