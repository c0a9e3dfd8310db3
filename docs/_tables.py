"""Writes what the docs list of the code: `python docs/_tables.py`. With `--check`, only compares.

A loss says in the "Notes" of its docstring when it is a good choice, which miners suit it, what it
costs, and how its paper sets it; its folder is its kind. From this come the tables of
which-loss.md, the lists of README.md, and the pages of the API for losses and miners.
"""

import inspect
import re
import sys
from pathlib import Path

import metricjax as mj

ROOT = Path(__file__).parent.parent
NOTES = re.compile(r"^ *Notes:\n(.*?)\n\n", re.M | re.S)
NOTE = re.compile(r"- (\w+): ([^-].*?)(?=\s+- \w+: |$)", re.S)
WHAT = "when", "miner", "cost", "setting"
PAPER = re.compile(r"References:\s+(.+?)(?: et al\.| and |,).*?(https?://[^\s>]+)", re.S)
YEAR = re.compile(r"\b((?:19|20)\d\d)\b(?!\.\d)")
KINDS = {
    "pairs": "losses of pairs",
    "triplets": "of triplets",
    "rankings": "of rankings",
    "classes": "with class weights",
    "views": "of two views",
}


def functions(module):
    return {name: fn for name, fn in sorted(vars(module).items()) if inspect.isfunction(fn)}


def kind(loss):
    """The folder of a loss: ``metricjax.losses.pairs._circle``."""
    return loss.__module__.split(".")[2]


def row(name, loss):
    """A loss in the table of its kind."""
    doc = inspect.getdoc(loss)
    notes = NOTES.search(doc + "\n\n")
    notes = dict(NOTE.findall(" ".join(notes[1].split()))) if notes else {}
    paper = PAPER.search(doc)
    if tuple(notes) != WHAT or not paper:
        raise SystemExit(
            f"losses.{name}: its docstring needs a section `Notes:` with the lines "
            f"{', '.join(f'`- {x}: ...`' for x in WHAT)}, and `References:` with a paper, got {notes}."
        )
    year = YEAR.search(re.sub(r"https?://\S+", "", doc[paper.start() :]))[1]
    cells = notes["when"], notes["miner"], notes["cost"], f"[{paper[1]} {year}]({paper[2]})"
    return f"| [`{name}`](api/losses.md#metricjax.losses.{name}) | {' | '.join(cells)} | {notes['setting']} |"


def sections():
    """The generated parts by page and mark."""
    losses, miners = functions(mj.losses), functions(mj.miners)
    named = lambda names: ", ".join(f"`{name}`" for name in names)
    of_kind = {k: {n: fn for n, fn in losses.items() if kind(fn) == k} for k in KINDS}
    listed = [f"| {what} | {named(of_kind[k])} |" for k, what in KINDS.items()]
    yield "README.md", "losses", "\n".join(listed)
    ...
