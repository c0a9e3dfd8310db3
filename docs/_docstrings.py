"""A Griffe extension: reStructuredText in docstrings becomes Markdown for the site.

A loss that yields sums is a generator in its file and returns terms to its callers: `-> LossDict`.
"""

import re
import textwrap

import griffe

BLOCK = re.compile(r"^( *)\.\. math::(.*\n(?:\1 +.*\n|\s*\n(?=\1 ))*)", re.M)
INLINE = re.compile(r":math:`([^`]+)`")
LINK = re.compile(r"`([^`<]+?)\s*<([^`>]+)>`_")
BARE = re.compile(r"(?<![(<])\bhttps?://[^\s>)]+")
NAME = re.compile(r"(?<!`)`(metricjax\.\w+\.[\w.]+)`(?!`)")
REFERENCES = re.compile(r"^References:\n((?:[ \t]+.*\n|\n)+)", re.M)


def markdown(docstring: str) -> str:
    """Math for MathJax, links, names as links to their entry, sections that Griffe knows."""
    text = docstring + "\n"
    text = BLOCK.sub(_block, text)
    text = INLINE.sub(lambda m: rf"\({' '.join(m[1].split())}\)", text)
    text = LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
    text = BARE.sub(lambda m: f"<{m[0]}>", text)
    text = NAME.sub(r"[`\1`][\1]", text)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    return REFERENCES.sub(lambda m: "**References:** " + textwrap.dedent(m[1]), text)


def _block(match: re.Match) -> str:
    """A formula in lines of its own, where a paragraph that goes on below stays apart."""
    lines = textwrap.dedent(match[2]).strip()
    return textwrap.indent(f"\n$$\n{lines}\n$$\n\n", match[1], lambda line: True)


class Markdown(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_function_instance(self, *, func: griffe.Function, **kwargs) -> None:
        if passes := re.fullmatch(r"Passes\[(.*)\]", str(func.returns)):
            func.returns = passes[1]
