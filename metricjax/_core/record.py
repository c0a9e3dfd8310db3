"""What the library knows of a loss: one record, set by one decorator and read here alone.

A loss is written once, as a function of a batch, and computed in many ways: at once, in blocks of
anchors, with references that go around devices. `declare` writes down what a driver has to know in
order to choose among them; `record_of` finds it again, under a `functools.partial` or a module of
`metricjax.nn`. A function without a record is taken for a loss of anchors that meets all of its
references at once.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from metricjax._core.check import Options


@dataclasses.dataclass(frozen=True)
class Record:
    """A declared loss.

    Attributes:
        name: of the public function.
        signature: of the public function.
        body: the function as it is written: it returns its terms, or yields sums before.
        rows: what a row of its terms is, and so what it can be split by: an anchor, a class with
            the whole batch, or nothing: it needs the whole batch at once, and `why`. A pair is by
            itself: it needs nothing but its own row, and splitting saves nothing.
        ring: all that it sums over references is in an `OverRefs`, so that it may meet them in
            blocks.
        mined: what is mined chooses pairs or triplets, or only weighs samples: all of a tuple, or
            its anchors (`tuples.sample_weights`).
        refs_first: the first sum over anchors is that of the references among themselves.
        own_mined: ``(mined, n, where) -> mined``, for what was mined within the batch.
        by_itself: takes a large batch in blocks without being asked.
        sums_over_anchors: yields sums over all anchors, for which it takes `axis_name`.
        opaque: `body` yields nothing: it is a module of `metricjax.nn`, or a loss in chunks.
        options: what they must be.
    """

    name: str
    signature: inspect.Signature
    body: Callable[..., Any]
    rows: Literal["anchors", "classes", "batch", "pairs"] = "anchors"
    why: str | None = None
    ring: bool = False
    mined: Literal["tuples", "samples", "anchors"] = "tuples"
    refs_first: bool = False
    own_mined: Callable[..., Any] | None = None
    by_itself: bool = False
    sums_over_anchors: bool = False
    opaque: bool = False
    options: Options = Options()

    def has(self, name: str) -> bool:
        """Whether it has an argument of that very name."""
        return name in self.signature.parameters

    def accepts(self, name: str) -> bool:
        """Whether it has an argument of that name, or takes any."""
        kinds = (p.kind for p in self.signature.parameters.values())
        return self.has(name) or inspect.Parameter.VAR_KEYWORD in kinds

    def needs_whole_batch(self, *, mined: bool = False) -> bool:
        """Whether a device's part of the batch, or of what is `mined` in it, is not enough."""
        return self.rows in ("classes", "batch") or (mined and self.own_mined is not None)


def record_of(loss) -> Record:
    """The record of a loss; its `body` has what a partial has bound, or is the module itself."""
    if isinstance(loss, functools.partial):
        record = record_of(loss.func)
        body = functools.partial(record.body, *loss.args, **loss.keywords)
        required = record.options.required - loss.keywords.keys()
        options = dataclasses.replace(record.options, required=required)
        return dataclasses.replace(record, body=body, options=options)
    if hasattr(loss, "loss"):  # a module gives the loss what it requires
        record = record_of(loss.loss)
        options = dataclasses.replace(record.options, required=frozenset())
        return dataclasses.replace(record, body=loss, opaque=True, options=options)
    if hasattr(loss, "record"):
        return loss.record
    return Record(getattr(loss, "__name__", type(loss).__name__), inspect.signature(loss), loss)


def bound(loss, option: str):
    """What a `functools.partial` or a module of `metricjax.nn` has for an option."""
    while isinstance(loss, functools.partial):
        if option in loss.keywords:
            return loss.keywords[option]
        loss = loss.func
    return dict(getattr(loss, "options", ())).get(option)
