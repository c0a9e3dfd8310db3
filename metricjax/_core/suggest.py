"""What to say of a name that a module does not have."""

import difflib
import re
import sys
from collections.abc import Callable
from typing import NoReturn

KIND = re.compile(r"(loss|miner|sampler|reducer|regularizer|distance)$")
ELSEWHERE = {
    "crossbatchmemory": "metricjax.nn.CrossBatchMemory",
    "multiplelosses": "metricjax.merge",
    "selfsupervised": "metricjax.self_supervised",
    "donothing": "metricjax.LossDict (terms that nothing has reduced)",
    "sum": "metricjax.reducers.sum",
}
"""Classes of PyTorch Metric Learning whose counterpart has another name or another place."""


def suggest(module: str) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of a module: an error with the name that is meant.

    Classes of PyTorch Metric Learning are functions here: ``TripletMarginLoss``, without what kind
    of thing it is, and without case and underscores, is ``triplet_margin``.
    """
    plain = lambda name: KIND.sub("", name.replace("_", "").lower())

    def missing(name: str) -> NoReturn:
        public = {plain(x): x for x in vars(sys.modules[module]) if not x.startswith("_")}
        error = f"module {module!r} has no attribute {name!r}"
        if not name.startswith("_"):
            if same := public.get(plain(name)):
                error += f"; it is {module}.{same}"
            elif plain(name) in ELSEWHERE:
                error += f"; it is {ELSEWHERE[plain(name)]}"
            elif near := difflib.get_close_matches(plain(name), public, 3, 0.7):
                error += f"; there is {', '.join(public[x] for x in near)}"
            error += ". docs/migration.md lists the names of other libraries."
        raise AttributeError(error)

    return missing
