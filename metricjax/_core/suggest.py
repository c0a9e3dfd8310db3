"""Error messages for names that a module does not have."""

import difflib
import re
import sys
from typing import NoReturn

KIND = re.compile(r"(loss|miner|sampler|reducer|regularizer|distance)$")
ELSEWHERE = {
    "crossbatchmemory": "metricjax.nn.CrossBatchMemory",
    "multiplelosses": "metricjax.merge",
    "selfsupervised": "metricjax.self_supervised",
}
"""Classes of PyTorch Metric Learning whose counterpart has another name in another module."""


def plain(name: str) -> str:
    """Returns a name without case, underscores and its kind, such as "loss" or "miner".

    Classes of PyTorch Metric Learning are functions here. ``TripletMarginLoss`` and
    ``triplet_margin`` become the same name.
    """
    return KIND.sub("", name.replace("_", "").lower())


class Missing:
    """The ``__getattr__`` of a module."""

    def __init__(self, module: str):
        self.module = module

    def __call__(self, name: str) -> NoReturn:
        public = {plain(x): x for x in vars(sys.modules[self.module]) if not x.startswith("_")}
        error = f"module {self.module!r} has no attribute {name!r}"
        if not name.startswith("_"):
            if same := public.get(plain(name)):
                error += f"; it is {self.module}.{same}"
            elif plain(name) in ELSEWHERE:
                error += f"; it is {ELSEWHERE[plain(name)]}"
            elif near := difflib.get_close_matches(plain(name), public, 3, 0.7):
                error += f"; there is {', '.join(public[x] for x in near)}"
            error += ". docs/migration.md lists the names of other libraries."
        raise AttributeError(error)


def for_missing_names(module: str) -> None:
    """Makes the error for a name that `module` does not have suggest the name that is meant."""
    # not written as a function in the module: type checkers would then allow any name in it
    sys.modules[module].__getattr__ = Missing(module)  # type: ignore[method-assign]
