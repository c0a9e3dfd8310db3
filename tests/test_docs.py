"""The snippets of every page in `docs/` run, code in the text is right, no loss is left out.

The blocks of a page share a namespace, in order. What its text and tables quote as `mj. ...` is
traced in the same namespace, and not run: that is quick, and finds wrong names and arguments. What
works on the host cannot be traced, and runs. Every public name is on a page of the API.
"""

import inspect
import re
import runpy
from pathlib import Path

import cases
import jax
import miner_cases
import pytest

import metricjax as mj

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
ON_HOST = ("mj.evaluation.", "mj.inference.", "mj.pictures.", "mj.samplers.")


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_runs(name):
    blocks, scope = PYTHON.findall(PAGES[name]), {"mj": mj}
    assert re.search(r"^\s*(assert |print\()", "\n".join(blocks), re.M), "nothing can fail"
    for block in blocks:
        exec(block, scope)
    for line in re.findall(r"`(?:\w+=)?(mj\.[^`]*)`", FENCED.sub("", PAGES[name])):
        if line.startswith(ON_HOST):
            eval(line, scope)
        else:
            jax.eval_shape(lambda line=line: [eval(line, scope)] and None)


def test_migration_names_what_replaces_every_loss_and_miner():
    named = set(re.findall(r"mj\.(?:losses|miners)\.(\w+)", PAGES["migration.md"]))
    assert {str(case) for case in [*cases.CASES, *miner_cases.CASES] if case.pml} <= named


def test_what_the_docs_list_of_the_code_is_up_to_date():
    write = runpy.run_path(str(DOCS / "_tables.py"))
    for path, text in write["pages"]():
        assert path.read_text() == text, f"{path.name}: run `python docs/_tables.py`"


def _public(module):
    """What a package re-exports, or a module defines; not what it imports to use."""
    package = hasattr(module, "__path__")
    for name, value in vars(module).items():
        inner = inspect.ismodule(value) and value.__name__ == f"{module.__name__}.{name}"
        if inner and module is not mj and not name.startswith("_"):
            yield from _public(value)
        own = package or getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("_") and not inspect.ismodule(value):
            yield f"{module.__name__}.{name}"


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.stem)
def test_every_public_name_is_on_its_page_of_the_api(page):
    module = mj if page.stem == "index" else getattr(mj, page.stem)
    entries = re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    assert sorted(e for e in entries if "._" not in e) == sorted(_public(module))


def test_every_public_module_has_a_page_of_the_api():
    pages = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}
    modules = {name for name, value in vars(mj).items() if inspect.ismodule(value)}
    assert pages == {name for name in modules if not name.startswith("_")} - {"demo"}
