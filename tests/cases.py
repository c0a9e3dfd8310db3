"""The one table: every loss, its parameters, its options, its counterpart in PML.

`test_losses.py` sweeps every promise over every row, `parity/test_losses.py` every option set. A
public loss that is not here fails `test_every_loss_has_a_case`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from metricjax import losses, nn
from metricjax.distances import CosineSimilarity, LpDistance, SNRDistance

N, D, C = 24, 8, 5


@dataclasses.dataclass(frozen=True)
class Case:
    loss: Callable[..., Any]
    pml: str  # its class in pytorch_metric_learning.losses
    options: tuple[dict[str, Any], ...] = ()  # to check besides the defaults; names are PML's too
    module: type | None = None  # owns its class weights
    pml_weights: str = ""  # the parameter of the PML class: "W" is [D, C], "proxies" [C, D]

    def __str__(self):
        return self.loss.__name__

    def params(self, key, dtype="float32"):
        """Random class weights, for a loss that has them."""
        return (jax.random.normal(key, (C, D), dtype),) if self.module else ()


SIMILARITY_MARGINS = {"pos_margin": 0.9, "neg_margin": 0.1, "distance": CosineSimilarity()}
PLAIN = LpDistance(normalize_embeddings=False)

CASES = [
    Case(
        losses.arcface,
        "ArcFaceLoss",
        ({"margin": 60.0, "scale": 8.0},),
        nn.ArcFace,
        "W",
    ),
    Case(
        losses.contrastive,
        "ContrastiveLoss",
        (
            SIMILARITY_MARGINS,
            {"pos_margin": 0.2, "neg_margin": 3.0, "distance": PLAIN},
            {"distance": LpDistance(p=1)},
            {"distance": LpDistance(p=3, power=2)},
            {"distance": SNRDistance()},
        ),
    ),
    Case(
        losses.multi_similarity,
        "MultiSimilarityLoss",
        (
            {"alpha": 1.5, "beta": 20.0, "base": 0.3},
            {"alpha": 1.5, "beta": 8.0, "base": 1.0, "distance": LpDistance()},
        ),
    ),
    Case(losses.ntxent, "NTXentLoss", ({"temperature": 0.5}, {"distance": LpDistance(power=2)})),
    Case(
        losses.proxy_anchor,
        "ProxyAnchorLoss",
        ({"margin": 0.3, "alpha": 8.0}, {"margin": 0.3, "alpha": 2.0, "distance": LpDistance()}),
        nn.ProxyAnchor,
        "proxies",
    ),
    Case(
        losses.triplet_margin,
        "TripletMarginLoss",
        (
            {"margin": 0.3, "smooth_loss": True},
            {"margin": 0.3, "swap": True},
            {"margin": 0.3, "swap": True, "smooth_loss": True, "distance": CosineSimilarity()},
            {"distance": CosineSimilarity()},
            {"margin": 0.5, "distance": PLAIN},
        ),
    ),
]
