"""Omniglot: handwritten characters, 20 writers for each of them."""

import io
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.data import pack
from benchmarks.data._fetch import module

SOURCE = "the two small archives of https://github.com/brendenlake/omniglot, folder python"
LICENSE = "MIT, Brenden Lake"
ARCHIVES = "images_background_small1.zip", "images_background_small2.zip"
UNSEEN = "Japanese_(katakana)", "Sanskrit", "Tagalog"
PIXELS = 32


def packed(folder):
    """Reads the two archives of a folder.

    Raises:
        SystemExit: if one is missing.
    """
    images = {}
    for name in ARCHIVES:
        path = Path(folder) / name
        if not path.exists():
            raise SystemExit(
                f"benchmarks.data: no {path}. `--from` must be a folder with "
                f"{' and '.join(ARCHIVES)}, which are {SOURCE}."
            )
        images |= read(path)  # the archives share alphabets
    names = [name for name, _ in sorted(images)]
    samples = [images[key] for key in sorted(images)]
    return pack(samples, names, unseen=lambda name: name.startswith(UNSEEN))


def read(path):
    """Returns ``{(alphabet/character, file): image [32, 32, 1]}`` of an archive; ink is 255."""
    image, out = module("PIL.Image", "Pillow"), {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".png"):
                _, alphabet, character, file = name.split("/")
                with image.open(io.BytesIO(archive.read(name))) as drawn:
                    small = drawn.convert("L").resize((PIXELS, PIXELS), image.Resampling.BILINEAR)
                out[f"{alphabet}/{character}", file] = 255 - np.asarray(small)[..., None]
    return out
