"""Retrieval scores as an aligned table."""

from collections.abc import Callable

import jax.numpy as jnp

from metricjax.demo._data import Digits
from metricjax.evaluation import retrieval_metrics

METRICS = {
    "precision@1": "precision_at_1",
    "R-precision": "r_precision",
    "MAP@R": "mean_average_precision_at_r",
}


def table(networks: dict[str, Callable], sets: dict[str, Digits]) -> str:
    """One line for each network and, for each set of images, one column for each metric."""
    row = lambda name, cells, width: name.ljust(17) + "".join(cell.rjust(width) for cell in cells)
    lines = [row("", sets, 3 * 13), row("", list(METRICS) * len(sets), 13)]
    for name, network in networks.items():
        scores = [retrieval_metrics(network(x), jnp.asarray(y)) for x, y in sets.values()]
        lines.append(row(name, [f"{s[m]:.3f}" for s in scores for m in METRICS.values()], 13))
    return "\n".join(lines)
