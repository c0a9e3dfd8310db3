"""Writes the page, the plots and the tables of the benchmarks from the committed results.

    python -m benchmarks.report
    python -m benchmarks.report --check

It reads every ``benchmarks/results/NAME-DEVICE.json``. `--check` writes nothing, and fails where
something in the repository is not what would be written.
"""

import re
import sys

from benchmarks._accelerators_page import accelerators_page
from benchmarks._harness import Parser
from benchmarks._headline import peers, result
from benchmarks._measured import measured
from benchmarks._page import page, plots
from benchmarks._text import ROOT, paragraph


def headline():
    """How fast it is, in README.md."""
    more = (
        "[All losses, sizes, miners and scales](docs/benchmarks.md); your own run is "
        "`pip install '.[bench]' && python -m benchmarks.losses`."
    )
    return "\n\n".join(map(paragraph, [*result(), more]))


def between(text, name, new):
    """The text with something else between two comments."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
    if not marks.search(text):
        sys.exit(f"benchmarks.report: no <!-- {name} --> and <!-- end of {name} -->.")
    return marks.sub(lambda found: f"{found[1]}{new}\n{found[2]}", text)


def written():
    """``{path: text}`` of all that comes from the results."""
    docs = ROOT / "docs"
    out = {docs / "benchmarks.md": page(), docs / "accelerators.md": accelerators_page()}
    for name, svg in plots().items():
        out[ROOT / "docs" / "benchmarks" / name] = svg
    readme, scale = ROOT / "README.md", ROOT / "docs" / "scale.md"
    out[readme] = between(readme.read_text(), "benchmarks", headline())
    out[readme] = between(out[readme], "peers", peers())
    out[scale] = between(scale.read_text(), "measured", measured())
    return out


def main(argv=None):
    parser = Parser("benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="writes nothing, fails if it would")
    args = parser.parse_args(argv)
    texts = written()
    old = {path: path.read_text() if path.exists() else None for path in texts}
    changed = [path for path, text in texts.items() if text != old[path]]
    for path in changed:
        print(path.relative_to(ROOT))
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path])
    if args.check and changed:
        sys.exit("benchmarks.report: not what the results say; run it without --check.")


if __name__ == "__main__":
    main()
