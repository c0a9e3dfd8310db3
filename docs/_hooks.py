"""MkDocs hooks: files outside `docs/` that its pages link to become a part of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")


def on_files(files, config):
    pages = [file.content_string for file in files.documentation_pages() if "/" not in file.src_uri]
    root = Path(config.config_file_path).parent
    for link in sorted({link for page in pages for link in OUTSIDE.findall(page)}):
        files.append(File.generated(config, link, abs_src_path=str(root / link)))
    return files


def on_page_markdown(markdown, page, **kwargs):
    return markdown if "/" in page.file.src_uri else OUTSIDE.sub(r"](\1)", markdown)
