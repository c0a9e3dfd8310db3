"""What the library knows of a loss: one record, set by one decorator and read here alone.

A loss is written once, as a function of a batch, and computed in many ways: at once, in blocks of
anchors, with references that go around devices. `_chunks.declare` writes down what a driver has to
know in order to choose among them; `record_of` finds it again, under a `functools.partial` or a
module of `metricjax.nn`. A function without a record is taken for a loss of anchors that meets all
of its references at once.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Record:
    """A declared loss.

    Attributes:
        body: the function as it is written: it returns its terms, or yields sums before.
        rows: what a row of its terms is, and so what it can be split by: an anchor, a class with
            the whole batch, or nothing: it needs the whole batch at once, and `why`.
        ring: all that it sums over references is in an `OverRefs`, so that it may meet them in
            blocks.
        mined: what is mined chooses pairs or triplets, or only weighs samples: all of a tuple, or
            its anchors (`tuples.sample_weights`).
        refs_first: the first sum over anchors is that of the references among themselves.
        own_mined: ``(mined, n, where) -> mined``, for what was mined within the batch.
        by_itself: takes a large batch in blocks without being asked.
    """

    body: Callable[..., Any]
    rows: Literal["anchors", "classes", "batch"] = "anchors"
    why: str | None = None
    ring: bool = False
    mined: Literal["tuples", "samples", "anchors"] = "tuples"
    refs_first: bool = False
    own_mined: Callable[..., Any] | None = None
    by_itself: bool = False

    @property
    def name(self) -> str:
        return getattr(self.body, "__name__", type(self.body).__name__)

    @property
    def sums_over_anchors(self) -> bool:
        """Whether a declared loss yields sums over all anchors, for which it takes `axis_name`."""
        return self.by_itself and "axis_name" in inspect.signature(self.body).parameters

    def needs_whole_batch(self, *, mined: bool = False) -> bool:
        """Whether a device's part of the batch, or of what is `mined` in it, is not enough."""
        return self.rows != "anchors" or (mined and self.own_mined is not None)


def record_of(loss) -> Record:
    """The record of a loss, or of the one that a partial or a module is made of."""
    loss = pure(loss)
    return getattr(loss, "record", None) or Record(loss)


def body_of(loss):
    """The function as it is written, with what partials have bound; a module is its own body."""
    if isinstance(loss, functools.partial):
        return functools.partial(body_of(loss.func), *loss.args, **loss.keywords)
    return getattr(loss, "record", Record(loss)).body


def pure(loss):
    """The function under a `functools.partial` or a module of `metricjax.nn`."""
    loss = unbound(loss)
    return getattr(loss, "loss", loss)


def unbound(loss):
    """The function or module under a `functools.partial`."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def is_module(loss) -> bool:
    return pure(loss) is not unbound(loss)


def bound(loss, option: str):
    """What a `functools.partial` or a module of `metricjax.nn` has for an option."""
    while isinstance(loss, functools.partial):
        if option in loss.keywords:
            return loss.keywords[option]
        loss = loss.func
    return dict(getattr(loss, "options", ())).get(option)


def accepts(loss, option: str) -> bool:
    """Whether a loss has a parameter of that name, or takes any."""
    parameters = inspect.signature(pure(loss)).parameters
    return option in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def has_parameter(loss, name: str) -> bool:
    """Whether a loss has a parameter of that very name."""
    return name in inspect.signature(pure(loss)).parameters
