"""The snippets of every page in `docs/` run, code in the text is right, no loss is left out.

The blocks of a page share a namespace, in order. What its text and tables quote as `mj. ...` is
traced in the same namespace, and not run: that is quick, and finds wrong names and arguments.
"""

import re
from pathlib import Path

import jax
import pytest

import metricjax as mj

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


@pytest.mark.parametrize("name", PAGES)
def test_page_runs(name):
    blocks, scope = PYTHON.findall(PAGES[name]), {"mj": mj}
    assert re.search(r"^\s*(assert |print\()", "\n".join(blocks), re.M), "nothing can fail"
    for block in blocks:
        exec(block, scope)
    for line in re.findall(r"`(?:\w+=)?(mj\.[^`]*)`", FENCED.sub("", PAGES[name])):
        jax.eval_shape(lambda line=line: [eval(line, scope)] and None)


def test_migration_names_every_loss():
    named = set(re.findall(r"mj\.losses\.(\w+)", PAGES["migration.md"]))
    assert named == {name for name in dir(mj.losses) if not name.startswith("_")}
