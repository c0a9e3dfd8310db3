"""Fonts: letters and digits in the fonts of one designer."""

import string
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.data import pack
from benchmarks.data._fetch import debian, module

SOURCE = "apt:fonts-aenigma"
LICENSE = "free to use, change and distribute with attribution: Brian Kent, 1995-2008"
CHARACTERS = string.ascii_uppercase + string.digits
PIXELS, POINTS = 32, 24
"""The size of an image, and that of its letter: wide letters need the room around them."""


def fonts():
    """The font is the class, so the letters of a class differ."""
    images, names, _ = glyphs()
    return pack(images, names)


def letters():
    """The letter is the class, and its font differs."""
    images, _, characters = glyphs()
    return pack(images, characters)


def glyphs():
    """Returns images ``[N, 32, 32, 1]`` with ink 255, the name of the font, and the character."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(debian("fonts-aenigma", Path(folder)).rglob("*.ttf"))
        images = [drawn(file, character) for file in files for character in CHARACTERS]
    names = np.repeat([file.stem for file in files], len(CHARACTERS))
    return np.stack(images)[..., None], names, np.tile(list(CHARACTERS), len(files))


def drawn(file, character):
    image, draw, font = (
        module(f"PIL.{name}", "Pillow") for name in ("Image", "ImageDraw", "ImageFont")
    )
    out = image.new("L", (PIXELS, PIXELS))
    middle = (PIXELS / 2, PIXELS / 2)
    draw.Draw(out).text(middle, character, 255, font.truetype(str(file), POINTS), anchor="mm")
    return np.asarray(out)
