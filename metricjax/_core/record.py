"""What the library records about a loss: one record, set by one decorator, found by `record_of`.

A loss is written once, as a function of a batch, and computed in many ways: at once, in blocks of
anchors, or with references that go around devices. `declare` records what a driver needs in order
to choose among these ways. `record_of` finds the record again, also if the loss is inside of a
`functools.partial` or a module of `metricjax.nn`. A function without a record is treated as a loss
whose rows are anchors, and which needs all of its references at once.
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
        name: the name of the public function.
        signature: the signature of the public function.
        body: the function as it is written. It returns its terms, or yields sums first.
        rows: what a row of the terms is, and so what the loss can be split by. A row of "anchors"
            is an anchor, and a row of "classes" is a class with the whole batch. "batch" cannot be
            split: the loss needs the whole batch at once, and `why` is the reason. A row of "pairs"
            needs nothing but itself, so splitting saves nothing.
        ring: whether all sums over references are yielded in an `OverRefs`, so that references can
            come in blocks.
        mined: what `mined` does. It chooses pairs or triplets ("tuples"), or it only weighs
            samples: all samples of a tuple ("samples"), or its anchors ("anchors"). See
            `tuples.sample_weights`.
        refs_first: whether the first sum over anchors is the sum over the references among
            themselves.
        own_mined: ``(mined, n, where) -> mined``, applied to what was mined within the batch.
        by_itself: whether a large batch is split into blocks automatically.
        sums_over_anchors: whether the loss yields sums over all anchors, which need `axis_name`.
        opaque: whether `body` yields nothing, because it is a module of `metricjax.nn`, or a loss
            that `chunked` or `matryoshka` returned.
        options: the requirements of the loss's options.
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

    @property
    def labels_name(self) -> str:
        """Returns the name of the second argument: of labels, or of what stands in their place."""
        return ([*self.signature.parameters][1:] or ["labels"])[0]

    @property
    def takes_one(self) -> bool:
        """Returns whether all arguments but the first must be given by name."""
        others = [*self.signature.parameters.values()][1:]
        return all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in others)

    def has(self, name: str) -> bool:
        """Returns whether the loss has an argument with exactly this name."""
        return name in self.signature.parameters

    def accepts(self, name: str) -> bool:
        """Returns whether the loss has an argument with this name, or takes any keyword."""
        kinds = (p.kind for p in self.signature.parameters.values())
        return self.has(name) or inspect.Parameter.VAR_KEYWORD in kinds

    def needs_whole_batch(self, *, mined: bool = False) -> bool:
        """Returns whether a device's part of the batch, or what is `mined` in it, is not enough."""
        return self.rows in ("classes", "batch") or (mined and self.own_mined is not None)


def record_of(loss) -> Record:
    """Returns the record of a loss.

    The `body` includes the arguments that a partial has bound. For a module, it is the module.
    """
    if isinstance(loss, functools.partial):
        record = record_of(loss.func)
        body = functools.partial(record.body, *loss.args, **loss.keywords)
        required = record.options.required - loss.keywords.keys()
        options = dataclasses.replace(record.options, required=required)
        return dataclasses.replace(record, body=body, options=options)
    if hasattr(loss, "loss"):  # a module passes what the loss requires
        record = record_of(loss.loss)
        options = dataclasses.replace(record.options, required=frozenset())
        return dataclasses.replace(record, body=loss, opaque=True, options=options)
    if hasattr(loss, "record"):
        return loss.record
    return Record(getattr(loss, "__name__", type(loss).__name__), inspect.signature(loss), loss)


def bound(loss, option: str):
    """Returns the value of an option in a `functools.partial` or a module of `metricjax.nn`."""
    while isinstance(loss, functools.partial):
        if option in loss.keywords:
            return loss.keywords[option]
        loss = loss.func
    return dict(getattr(loss, "options", ())).get(option)
