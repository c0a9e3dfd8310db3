"""Embedding of a whole data set."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from metricjax._core.check import check_rows
from metricjax._optional import needed
from metricjax.evaluation._labels import as_array


def embed(
    apply: Callable[[Any], jax.Array], batches: Iterable, *, progress: bool = False
) -> tuple[np.ndarray, Any]:
    """Embeds a data set batch by batch.

    Every batch is padded with zeros to the size of the largest batch so far, and the padding is
    removed from the embeddings. So a short last batch does not cause another compilation. The next
    batch is computed while the embeddings of the batch before are copied to the host.

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
            of the compiled function. Otherwise they are constants in it.
        batches: an iterable of batches, such as a list or a data loader. A batch is what `apply`
            takes, or a pair ``(x, labels)``, a tuple or a list. Both `x` and the labels are pytrees
            of arrays with the samples along the first axis. Labels may also be lists of numbers or
            strings.
        progress: show a progress bar; needs tqdm.

    Returns:
        The embeddings ``[N, D]`` and the labels ``[N, ...]`` (``None`` if there are none), as NumPy
        arrays on the host.

    Raises:
        ValueError: if there is no batch, or if the arrays of a batch differ in their number of
            rows.
        TypeError: if `batches` is an array or a dict, which would be split into rows or keys.
        ImportError: if `progress` is set and tqdm is not installed.
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
        y = as_array(y)
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
