"""Emoji: drawings of one name by six designers."""

import collections
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.data import pack
from benchmarks.data._fetch import module, npm

SETS = {  # the version, the license and the designer of each set
    "noto": ("1.2.9", "Apache-2.0", "Google"),
    "noto-v1": ("1.2.5", "Apache-2.0", "Google"),
    "twemoji": ("1.2.5", "CC-BY-4.0", "Twitter"),
    "emojione": ("1.2.3", "CC-BY-4.0", "Emoji One"),
    "fxemoji": ("1.2.2", "Apache-2.0", "Mozilla"),
    "fluent-emoji-flat": ("1.2.6", "MIT", "Microsoft"),
}
"""Sets under share-alike licenses and sets that are not free are left out on purpose."""
SOURCE = ", ".join(f"npm:@iconify-json/{name}@{about[0]}" for name, about in SETS.items())
LICENSE = "; ".join(f"{name}: {about[1]}, {about[2]}" for name, about in SETS.items())
PIXELS = 32
DRAWINGS = 4
"""The fewest drawings of a name: with fewer, most of a class is its query."""


def packed():
    """Renders all drawings."""
    svgs, names = drawings()
    return pack(rendered(svgs, PIXELS), names)


def drawings():
    """Returns the SVG texts and the names of all drawings of names with enough drawings."""
    by_name = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for name, (version, *_) in SETS.items():
            found = npm(f"@iconify-json/{name}@{version}", Path(folder))
            for drawn, svg in icons(json.loads((found / "icons.json").read_text())):
                by_name[drawn].append(svg)
    kept = {name: svgs for name, svgs in sorted(by_name.items()) if len(svgs) >= DRAWINGS}
    names = [name for name, svgs in kept.items() for _ in svgs]
    return [svg for svgs in kept.values() for svg in svgs], names


def icons(of_set):
    """Yields a name and an SVG text for each icon of a set, without variants of the skin tone.

    Names are compared without hyphens, because one set has none.
    """
    for name, icon in of_set["icons"].items():
        if "skin-tone" not in name and not icon.get("hidden"):
            size = {side: icon.get(side, of_set.get(side, 16)) for side in ("width", "height")}
            yield name.replace("-", ""), svg(icon["body"], **size)


def svg(body, width, height):
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="0 0 {width} {height}">{body}</svg>'


def rendered(svgs, pixels):
    """Returns images ``[N, pixels, pixels, 3]`` of bytes, on white."""
    resvg, image = module("resvg_py", "resvg-py"), module("PIL.Image", "Pillow")
    out = np.full((len(svgs), pixels, pixels, 3), 255, np.uint8)
    for row, text in zip(out, svgs, strict=True):
        png = resvg.svg_to_bytes(svg_string=text, width=pixels, height=pixels,
                                 background="white", skip_system_fonts=True)  # fmt: skip
        with image.open(io.BytesIO(bytes(png))) as drawn:
            row[:] = drawn.convert("RGB").resize((pixels, pixels))
    return out
