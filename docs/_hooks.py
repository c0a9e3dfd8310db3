"""MkDocs hooks: what the site has besides the files in `docs/`, and what is changed in its pages.

- The front page is README.md.
- Files outside `docs/` that the pages link to become a part of the site.
- MathJax comes from a package, so formulas need no other host.
- Each cell of a table has the title of its column, which style.css shows on a phone.
"""

import html
import itertools
import re
from importlib import resources
from pathlib import Path

from mkdocs.structure.files import File

OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")
INSIDE = re.compile(r"\]\((?!docs/|https?:|#)")
MATHJAX = "assets/mathjax"
MATHJAX_PARTS = ("LICENSE", "es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2")
TABLE = re.compile(r"<table>.*?</table>", re.S)
TAG = re.compile(r"<[^>]+>")


def on_files(files, config):
    root = Path(config.config_file_path).parent
    files.append(File.generated(config, "index.md", content=front_page(root)))
    pages = [file.content_string for file in files.documentation_pages() if "/" not in file.src_uri]
    for link in sorted({link for page in pages for link in OUTSIDE.findall(page)}):
        files.append(File.generated(config, link, abs_src_path=str(root / link)))
    for uri, path in mathjax():
        files.append(File.generated(config, uri, abs_src_path=path))
    return files


def front_page(root):
    """README.md, with links as a page in `docs/` has them."""
    text = INSIDE.sub("](../", (root / "README.md").read_text())
    return text.replace("](docs/", "](")


def mathjax():
    """The address in the site and the path of each file that formulas need."""
    folder = Path(str(resources.files("mathjax"))) / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        path = folder / part
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            uri = file.relative_to(folder).as_posix().removeprefix("es5/")
            yield f"{MATHJAX}/{uri}", str(file)


def on_page_markdown(markdown, page, **kwargs):
    return markdown if "/" in page.file.src_uri else OUTSIDE.sub(r"](\1)", markdown)


def on_page_content(content, **kwargs):
    return TABLE.sub(lambda table: labeled(table[0]), content)


def labeled(table):
    """A table whose cells have the titles of their columns."""
    titles = re.findall(r"<th\b[^>]*>(.*?)</th>", table, re.S)
    plain = lambda title: html.escape(html.unescape(TAG.sub("", title)), quote=True)
    labels = itertools.cycle(map(plain, titles))
    return re.sub(r"<td\b", lambda cell: f'<td data-label="{next(labels)}"', table)


def on_post_page(output, **kwargs):
    """The theme asks GitHub for the stars of a repository whose link has this attribute."""
    return output.replace(' data-md-component="source"', "")
