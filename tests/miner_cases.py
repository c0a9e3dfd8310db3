"""The one table of miners, as `cases.py` is of losses: a miner that is not here fails the suite."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from metricjax import Pairs, miners
from metricjax._core.types import TripletRule, Triplets
from metricjax.distances import CosineSimilarity


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One miner.

    Attributes:
        miner: the public function.
        form: what it returns.
        pml: its class in pytorch_metric_learning.miners, if there is one.
        options: keeps something of a random batch of unit vectors in few dimensions.
        collapsed: whether pairs are kept when all embeddings are equal.
    """

    miner: Callable[..., Any]
    form: type
    pml: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    collapsed: bool = True

    def __str__(self):
        return self.miner.__name__

    def takes(self, *names):
        return set(names) <= inspect.signature(self.miner).parameters.keys()

    @property
    def random(self):
        return self.takes("key")

    @property
    def any_distance(self):
        return str(self) not in ("angular", "distance_weighted")

    @property
    def numbers(self):
        """The options that are numbers, and so may be traced."""
        parameters = inspect.signature(self.miner).parameters.values()
        default = {p.name: p.default for p in parameters if isinstance(p.default, float)}
        return default | {k: v for k, v in self.options.items() if isinstance(v, float)}

    def __call__(self, x, y, *, key=None, **options):
        key = {"key": key} if self.random else {}
        return self.miner(x, y, **key, **(self.options | options))


CASES = [
    Case(miners.angular, TripletRule, "AngularMiner", collapsed=False),
    Case(miners.batch_easy_hard, Pairs, "BatchEasyHardMiner", collapsed=False),
    Case(miners.batch_hard, Triplets, "BatchHardMiner"),
    Case(miners.distance_weighted, Triplets, "DistanceWeightedMiner"),
    Case(miners.hdc, Pairs, "HDCMiner"),
    Case(miners.multi_similarity, Pairs, "MultiSimilarityMiner"),
    Case(miners.pair_margin, Pairs, "PairMarginMiner", {"neg_margin": 1.2}),
    Case(miners.triplet_margin, TripletRule, "TripletMarginMiner"),
    Case(
        miners.uniform_histogram,
        Pairs,
        "UniformHistogramMiner",
        {"num_bins": 6, "pos_per_bin": 3, "neg_per_bin": 2, "distance": CosineSimilarity()},
    ),
]
