"""Words: the definition of one word by two dictionaries."""

import base64
import gzip
import re
import tempfile
from pathlib import Path

from benchmarks.data import pack
from benchmarks.data._fetch import debian

SOURCE = "apt:wordnet-base and apt:dict-gcide"
LICENSE = "WordNet: Princeton's license, with attribution; GCIDE: GPL-3.0-or-later"
RUN = 4
"""GCIDE copies a part of WordNet: a pair that shares this many words in a row is left out."""


def packed():
    """Pairs the definitions of words that each dictionary defines once."""
    with tempfile.TemporaryDirectory() as folder:
        root = debian("wordnet-base", Path(folder)) / "usr/share/wordnet"
        one = wordnet([root / f"data.{part}" for part in ("noun", "verb", "adj", "adv")])
        other = gcide(debian("dict-gcide", Path(folder)) / "usr/share/dictd")
    both = sorted(one.keys() & other.keys())
    kept = [word for word in both if not copied(one[word], other[word])]
    texts = [text for word in kept for text in (one[word], other[word])]
    return pack(texts, [word for word in kept for _ in range(2)])


def wordnet(files):
    """Returns ``{word: definition}`` of words with one sense."""
    found = {}
    for file in files:
        for line in file.read_text().splitlines():
            if not line.startswith("  "):  # the license
                data, gloss = line.split(" | ", 1)
                fields = data.split()
                for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
                    found.setdefault(word.lower(), []).append(gloss.split('; "')[0].strip())
    return only(found)


def gcide(folder):
    """Returns ``{word: definition}`` of words with one entry."""
    text, found = gzip.decompress((folder / "gcide.dict.dz").read_bytes()), {}
    for line in (folder / "gcide.index").read_text(errors="replace").splitlines():
        word, start, length = line.split("\t")
        start, length = number(start), number(length)
        entry = text[start : start + length].decode(errors="replace")
        found.setdefault(word.lower(), []).append(definition(entry))
    return only(found)


def only(found):
    """Keeps the words with one definition, in letters, that does not tell the word."""
    return {
        word: texts[0]
        for word, texts in found.items()
        if len(texts) == 1 and word.isalpha() and len(texts[0].split()) >= RUN
        and word not in texts[0].lower()
    }  # fmt: skip


def number(digits):
    """Decodes a position of the index: digits of base 64, the highest first."""
    padded = digits.rjust(-(-len(digits) // 4) * 4, "A")
    return int.from_bytes(base64.b64decode(padded))


def definition(entry):
    """Returns the first sense of an entry, without its head, sources and quotations."""
    entry = re.sub(r"\[[^\]]*\]|[{}]", "", entry)
    _, *rest = re.split(r"\n\s+(?:1\. )?", entry, maxsplit=1)
    text = re.split(r"\n\s+2\. |\n\s*\n", rest[0])[0] if rest else ""
    return " ".join(text.split())


def copied(one, other):
    """Whether two texts share a run of words."""
    return bool(runs(one) & runs(other))


def runs(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}
