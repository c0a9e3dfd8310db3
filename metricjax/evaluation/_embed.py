"""Embedding a whole data set."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from metricjax._core.check import check_rows
from metricjax._optional import needed
from metricjax.evaluation._labels import listed


def embed(
    apply: Callable[[Any], jax.Array], batches: Iterable, *, progress: bool = False
) -> tuple[np.ndarray, Any]:
    """Embeds a data set batch by batch.

    Every batch is padded with zeros to the size of the largest so far, and the padding cut off the
    embeddings: a short last batch does not compile again. The next batch is computed while the one
    before is copied.

    Example:
        >>> import numpy as np
        >>> from metricjax.evaluation import embed
        >>> batches = [(np.ones((2, 3)), np.array([0, 1])), (np.ones((1, 3)), np.array([2]))]
        >>> embeddings, labels = embed(lambda x: x.sum(1, keepdims=True), batches)
        >>> print(embeddings.shape, labels)
        (3, 1) [0 1 2]

    Args:
        apply: ``x -> [N, D]``, compiled here. If it is a pytree, such as a Flax module (set to
            evaluation) or ``jax.tree_util.Partial(model.apply, params)``, its arrays are arguments
            of the compiled function; otherwise they are constants in it.
        batches: an iterable, such as a list or a data loader, of what `apply` takes, or of pairs
            ``(x, labels)``, tuples or lists; pytrees of arrays with the samples along the first
            axis. Labels may be lists of numbers or strings.
        progress: show a progress bar; needs tqdm.

    Returns:
        ``[N, D]`` and the labels ``[N, ...]`` (``None`` without any), NumPy arrays on the host.

    Raises:
        ValueError: without any batch, or for a batch whose rows do not agree.
        TypeError: for one array or a dict, which would be taken apart into rows or keys.
        ImportError: if `progress` is asked for without tqdm.
    """
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        raise TypeError(
            f"evaluation.embed: `batches` must be an iterable of batches, got one "
            f"{type(batches).__name__}. Give a list of batches, `[x]` or `[(x, labels)]` for one."
        )
    pytree = jax.tree.leaves(apply) != [apply]
    run = functools.partial(_run, apply) if pytree else jax.jit(apply)
    if progress:
        advice = "`pip install tqdm`, or leave it out."
        tqdm = needed("tqdm", f"evaluation.embed: `progress` needs tqdm. {advice}").tqdm
        batches = tqdm(batches, desc="embedding")
    size, embeddings, labels = 0, [], []
    waiting: list[tuple[jax.Array, int]] = []  # what the device may still be computing
    for batch in batches:
        x, y = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        y = listed(y)
        n = len(jax.tree.leaves(x)[0])
        check_rows("evaluation.embed", "batches", (x, y), "the first array of the batch", n)
        size = max(size, n)
        computed = run(jax.tree.map(functools.partial(_padded, size), x))
        embeddings += [np.asarray(x)[:n] for x, n in waiting]
        waiting = [(computed, n)]
        labels.append(jax.tree.map(np.asarray, y))
    if not labels:
        raise ValueError("evaluation.embed: `batches` must have at least one batch, got none.")
    embeddings += [np.asarray(x)[:n] for x, n in waiting]
    return np.concatenate(embeddings), jax.tree.map(lambda *x: np.concatenate(x), *labels)


@jax.jit
def _run(apply, x):
    return apply(x)


def _padded(size, x):
    x = np.asarray(x)
    return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))
