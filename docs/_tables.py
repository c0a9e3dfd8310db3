"""Writes what the docs list of the code: ``python docs/_tables.py``, after adding a loss or miner.

A loss says in the notes of its docstring when it is a good choice, which miner suits it, what it
costs, and how its paper sets it. The folder of a loss is its kind. From this come the tables of
docs/which-loss.md, the lists of docs/contents.md, the entries of the API's pages, and the counts in
README.md.
"""

import inspect
import re
from pathlib import Path

import metricjax as mj

ROOT = Path(__file__).parent.parent
KINDS = {
    "pairs": "losses of pairs",
    "triplets": "of triplets",
    "rankings": "of rankings",
    "classes": "with class weights",
    "views": "of two or more views",
    "scored": "of pairs with scores",
    "distillation": "of a teacher",
}
NOTES = re.compile(r"^Notes:\n((?: .*\n)+)", re.M)
NOTE = re.compile(r"^ +- (\w+): (.*(?:\n +[^ -].*)*)", re.M)
PAPER = re.compile(r"References:\s+(.+?)(?: et al\.| and |,).*?(https?://[^\s>]+)", re.S)
YEAR = re.compile(r",\s+((?:19|20)\d\d)\b")
HEAD = "| loss | when | miner | cost | paper | setting |\n|---|---|---|---|---|---|\n"


def functions(module, kind=None):
    """The public functions of a module by name; of one kind of losses only."""
    found = sorted((name, fn) for name, fn in vars(module).items() if inspect.isfunction(fn))
    return {name: fn for name, fn in found if kind in (None, fn.__module__.split(".")[2])}


def row(name, loss):
    """A loss in the table of its kind."""
    doc = inspect.getdoc(loss) + "\n"
    notes, paper = NOTES.search(doc), PAPER.search(doc)
    note = {key: " ".join(text.split()) for key, text in NOTE.findall(notes[1] if notes else "")}
    if list(note) != ["when", "miner", "cost", "setting"] or not paper:
        raise ValueError(
            f"losses.{name}: the docstring needs `Notes:` with lines `- when: `, `- miner: `, "
            f"`- cost: `, `- setting: `, and `References:` with the address of a paper, got {note}."
        )
    year = YEAR.search(doc, paper.start())[1]
    link = f"[`{name}`](api/losses.md#metricjax.losses.{name})"
    cited = f"[{paper[1]} {year}]({paper[2]})"
    cells = link, note["when"], note["miner"], note["cost"], cited, note["setting"]
    return f"| {' | '.join(cells)} |\n"


def pages():
    """The text of each page with what is generated in it, by path."""
    counts = f"{len(functions(mj.losses))} losses, {len(functions(mj.miners))} miners"
    readme = re.sub(r"\d+ losses, \d+ miners", counts, (ROOT / "README.md").read_text())
    contents, which = ((ROOT / f"docs/{x}.md").read_text() for x in ("contents", "which-loss"))
    lists = {title: functions(mj.losses, kind) for kind, title in KINDS.items()}
    for title, found in (lists | {"miners": functions(mj.miners)}).items():
        names = ", ".join(f"`{name}`" for name in found)
        line = re.compile(rf"^(\| {title} \| )[^;|]*?(;.*)?( \|)$", re.M)
        contents = line.sub(rf"\1{names}\2\3", contents)
    for kind in KINDS:
        table = HEAD + "".join(row(*item) for item in functions(mj.losses, kind).items())
        mark = f"<!-- {kind} -->\n\n"
        which = re.sub(f"{mark}(?:\\|.*\n)*", lambda _, new=mark + table: new, which)
    yield ROOT / "README.md", readme
    yield ROOT / "docs/contents.md", contents
    yield ROOT / "docs/which-loss.md", which
    for name in "losses", "miners":
        page = ROOT / f"docs/api/{name}.md"
        found = functions(getattr(mj, name))
        module = getattr(mj, name)
        states = sorted(x for x, cls in vars(module).items() if inspect.isclass(cls))
        entries = "\n".join(f"::: metricjax.{name}.{x}\n" for x in [*found, *states])
        yield page, page.read_text().partition("::: ")[0] + entries


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text)
