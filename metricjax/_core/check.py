"""Checks at the door of public functions, while they are traced.

Shapes, dtypes and names are always known. Values are known of what lies in the memory of the host
(`on_host`): then labels, weights and indices are checked, too, and no array is copied for it.
"""

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metricjax._core.types import PerClass, PerSample, Scalar

CODES = "np.unique(labels, return_inverse=True)[1]"


def on_host(x: Any) -> np.ndarray | None:
    """`x` as a NumPy array, if its values are known and in the memory of the host.

    NumPy arrays, lists and numbers are, and JAX arrays on CPUs. A tracer has no values, and those
    of an array on an accelerator would have to be waited for and copied: `None`.
    """
    if isinstance(x, jax.Array):
        known = not isinstance(x, jax.core.Tracer) and x.is_fully_addressable
        if not known or any(device.platform != "cpu" for device in x.devices()):
            return None
    return np.asarray(x)


def check_embeddings(function, name, x):
    if jnp.ndim(x) != 2:
        advice = "For one vector use x[None]." if jnp.ndim(x) == 1 else "Batch with `jax.vmap`."
        raise ValueError(
            f"{function}: `{name}` must have shape [N, D], got {jnp.shape(x)}. {advice}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{function}: `{name}` must be floating, got {x.dtype}.")


def check_known_size(function, n):
    """Not the symbolic size of `jax.export`, for what is computed in blocks, or sorted."""
    if not isinstance(n, int):
        raise TypeError(
            f"{function}: `embeddings` must have a known number of rows, got the symbolic {n}. "
            f"Export it for one size of the batch."
        )


def check_row_by_row(function, x, y):
    check_embeddings(function, "x", x)
    check_embeddings(function, "y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"{function}: `y` must have shape {x.shape} to match `x` row by row, got {y.shape}. To "
            f"compare all with all, call `distance(x, y)`."
        )


def check_rows(function, name, x, of, n, *, class_ids=False):
    """`x`, an array or a pytree of arrays, must have the leading axis of `of`, or be class ids."""
    if class_ids and x is None:
        raise ValueError(f"{function}: `{name}` are needed.")
    for leaf in jax.tree.leaves(x):
        shape = jnp.shape(leaf)
        if shape[:1] != (n,) or (class_ids and len(shape) > 1):
            match = "" if of == name else f" to match `{of}`"
            raise ValueError(f"{function}: `{name}` must have shape [{n}]{match}, got {shape}.")
        if class_ids and not jnp.issubdtype(leaf.dtype, jnp.integer):
            raise TypeError(f"{function}: `{name}` must be integer class ids, got {leaf.dtype}.")


def as_labels(function, name, labels, of, n, *, class_ids=False):
    """Labels as JAX arrays, checked as by `check_rows`: of an array, a list or a pytree of arrays.

    Where n is ``None``, there is nothing but the labels, and so as many rows as they have.

    Integers become those of JAX's default width. Larger ones would be cut off, and two classes
    become one, so they are refused.
    """
    if isinstance(labels, list | tuple) and not any(map(jnp.ndim, jax.tree.leaves(labels))):
        try:
            labels = np.asarray(labels)
        except ValueError:
            raise ValueError(
                f"{function}: `{name}` must have rows of equal length, got a ragged list."
            ) from None
    integer = jnp.iinfo(jax.dtypes.canonicalize_dtype(int))

    def coded(x):
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        real = jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)
        if not real and x.dtype != bool:
            raise TypeError(
                f"{function}: `{name}` must be numbers, got {x.dtype}. Code them: {CODES}."
            )
        if not jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(x)
        if isinstance(x, np.ndarray) and np.any((x < integer.min) | (x > integer.max)):
            raise ValueError(
                f"{function}: `{name}` must fit {integer.dtype}, got {x.min()} to {x.max()}; "
                f"different classes would become one. Code them: {CODES}."
            )
        return jnp.asarray(x.astype(integer.dtype))

    labels = jax.tree.map(coded, labels)
    n = jnp.shape(jax.tree.leaves(labels)[0])[0] if n is None else n
    check_rows(function, name, labels, of, n, class_ids=class_ids)
    return labels


def as_indices(function, name, x, of, n):
    """Row numbers as a JAX array with the length of `of`; those too large to be any are -1."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    if x.size and not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{function}: `{name}` must be integer row numbers, got {x.dtype}.")
    integer = jnp.iinfo(jax.dtypes.canonicalize_dtype(int))
    small = x.astype(integer.dtype)  # first: an unsigned array takes no -1
    if not isinstance(x, jax.Array):
        small = np.where((x < integer.min) | (x > integer.max), -1, small)
    x = jnp.asarray(small, integer.dtype)
    check_rows(function, name, x, of, n)
    return x


def check_weights(function, name, where, of, n):
    """Weights, if any, one for each row of `of`, must be at least 0 where they are known."""
    if where is not None:
        check_rows(function, name, where, of, n)
        check_not_negative(function, name, where)


def check_not_negative(function, name, weights):
    known = on_host(weights)
    if known is not None and not (known >= 0).all():
        raise ValueError(
            f"{function}: `{name}` must be weights of at least 0, got "
            f"{known[~(known >= 0)].flat[0]}; 0 leaves a sample out."
        )


def check_range(function, name, ids, where, count, of):
    """Of samples that weigh something, known ids must be among the `count` rows of `of`.

    Under `jit` they are not known; then samples with another id weigh nothing.
    """
    known, counts = on_host(ids), on_host(1 if where is None else where)
    if known is None or counts is None:
        return
    outside = known[((known < 0) | (known >= count)) & (counts > 0)]
    if outside.size:
        raise ValueError(
            f"{function}: `{name}` must be from 0 to {count - 1}, as `{of}` has {count} rows, got "
            f"{outside[0]}. To leave a sample out, give it weight 0 in `where`."
        )


@dataclasses.dataclass(frozen=True)
class Options:
    """What must follow the embeddings in a call, read off the signature of a public function.

    Attributes:
        positional: the names of arguments that may come by position.
        required: those that have no default.
        numbers: options that are one number, by name, with their defaults.
        per_sample: those that may be one number for each sample instead.
        per_class: those that may be one for each class, of which the loss knows how many there are.
        paired: samples are anchors that meet references.
        within: intervals such as ``"(0, 1]"``, for numbers whose values are known.
        degrees: angles; one that looks like radians is warned of.
    """

    positional: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    per_sample: frozenset[str] = frozenset()
    per_class: frozenset[str] = frozenset()
    paired: bool = False
    within: Mapping[str, str] = dataclasses.field(default_factory=dict)
    degrees: tuple[str, ...] = ()

    def check(self, function: str, n: int, args: tuple, options: dict[str, Any]) -> dict[str, Any]:
        """The options, with numbers of N anchors as columns ``[N, 1]``, which meet ``[N, M]``."""
        given = dict(zip(self.positional, args, strict=False)) | options
        for name in self.required - given.keys():
            state = 'params["loss"]` of the state in `metricjax.training'
            advice = f" `metricjax.nn` has modules that keep them; they are `{state}`."
            advice = advice if name == "weights" else ""
            raise TypeError(f"{function}: `{name}` must be given, got none.{advice}")
        for name, value in given.items():
            if name in self.numbers and not (value is None and self.numbers[name] is None):
                self._check_number(function, name, value, n)
                if name in options and self.paired and jnp.ndim(value):
                    options = options | {name: jnp.asarray(value)[:, None]}
            if name == "distance":
                check_is_distance(function, value)
        return options

    def _check_number(self, function, name, value, n):
        if not isinstance(value, int | float) and not hasattr(value, "shape"):
            raise TypeError(f"{function}: `{name}` must be a number, got {value!r}.")
        shape, each = getattr(value, "shape", ()), name in self.per_sample
        of_classes = name in self.per_class and len(shape) == 1
        if shape and not of_classes and not (each and shape == (n,)):
            also = f" or have shape [{n}], one for each sample" if each else ""
            raise ValueError(f"{function}: `{name}` must be one number{also}, got shape {shape}.")
        if name in self.within and (known := on_host(value)) is not None:
            low, high = map(float, self.within[name][1:-1].split(","))
            above = known > low if self.within[name][0] == "(" else known >= low
            below = known < high if self.within[name][-1] == ")" else known <= high
            if not np.all(above & below):
                raise ValueError(
                    f"{function}: `{name}` must be in {self.within[name]}, got {value}."
                )
        if name in self.degrees and (known := on_host(value)) is not None:
            if np.any((known > 0) & (known < 1.6)):  # up to a right angle in radians
                warnings.warn(
                    f"{function}: `{name}` is in degrees, got {value}. If these are radians, give "
                    f"`numpy.rad2deg` of them.",
                    stacklevel=2,
                )


def options_of(
    signature: inspect.Signature,
    within: Mapping[str, str] | None = None,
    degrees: tuple[str, ...] = (),
) -> Options:
    """The options of a function: numbers are annotated `Scalar`, `PerSample` or `PerClass`."""
    parameters = signature.parameters.values()
    others = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD][1:]
    each = frozenset(p.name for p in parameters if p.annotation == PerSample)
    classes = frozenset(p.name for p in parameters if p.annotation == PerClass)
    numbers = {p.name for p in parameters if p.annotation in (Scalar, Scalar | None)}
    return Options(
        positional=tuple(p.name for p in others),
        required=frozenset(p.name for p in others if p.default is p.empty),
        numbers={p.name: p.default for p in parameters if p.name in numbers | each | classes},
        per_sample=each,
        per_class=classes,
        paired="refs" in signature.parameters,
        within=within or {},
        degrees=degrees,
    )


def check_is_distance(function, distance):
    """A class can be called, too, and would give instances; a name cannot."""
    if isinstance(distance, type) or not callable(distance):
        got = f"the class {distance.__name__}" if isinstance(distance, type) else repr(distance)
        raise TypeError(
            f"{function}: `distance` must be a distance such as "
            f"metricjax.distances.LpDistance(), got {got}."
        )


def check_distance(function, distance, allowed):
    if not isinstance(distance, allowed):
        raise TypeError(
            f"{function}: `distance` must be {allowed.__name__}, got {type(distance).__name__}."
        )


def check_choice(function, name, value, allowed):
    if value not in allowed:
        raise ValueError(
            f"{function}: `{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}."
        )


def check_similarity(function, distance):
    if not distance.is_similarity:
        raise TypeError(
            f"{function}: `distance` must be a similarity, got {type(distance).__name__}."
        )


def check_at_least(function, name, value, low):
    """`value` is static: an integer, of Python or NumPy, of at least `low`."""
    if not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{function}: `{name}` must be an integer >= {low}, got {value!r}.")


def check_known(function, name, x):
    if isinstance(x, Tracer):
        raise TypeError(
            f"{function}: `{name}` must have known values, got {x.aval.str_short()} under `jit` or "
            f"another transformation. Call the function outside of it."
        )


def check_euclidean(function, distance, *, any_power=False):
    """The loss is defined for the Euclidean distance of unit vectors (to any power)."""
    plain = type(distance).__name__ == "LpDistance" and distance.p == 2
    if not (plain and distance.normalize_embeddings and (any_power or distance.power == 1)):
        power = "" if any_power else "power=1, "
        raise TypeError(
            f"{function}: `distance` must be LpDistance(p=2, {power}normalize_embeddings=True), "
            f"got {distance}."
        )
