"""The loss and the miner of CONTRIBUTING.md are added as it says, and pass what all others pass."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^   ```python\n(.*?)^   ```$", re.M | re.S)
LAYOUTS = """
import pytest
from cases import CASES
from test_layouts import check_layout

CASE = next(c for c in CASES if str(c) == "{name}")


@pytest.mark.parametrize("how", ["auto", "explicit in chunks", "shard_map", "ring"])
def test_layout(how):
    check_layout(how, (CASE,), "float32")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "title, name, package, rows",
    [
        ("## How to add a loss", "logistic", "losses", "cases.py"),
        ("## How to add a miner", "band", "miners", "miner_cases.py"),
    ],
)
def test_three_places_are_enough(title, name, package, rows, tmp_path):
    for part in "metricjax", "tests", "docs", "benchmarks", "examples":
        skip = shutil.ignore_patterns("__pycache__", Path(__file__).name)
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skip)
    for part in "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml":
        shutil.copy(ROOT / part, tmp_path)
    section = (ROOT / "CONTRIBUTING.md").read_text().partition(title)[2].partition("\n## ")[0]
    file, line, row = map(textwrap.dedent, BLOCK.findall(section))

    where, _, code = file.partition("\n")
    (tmp_path / where.removeprefix("# ")).write_text(code)
    init = tmp_path / "metricjax" / package / "__init__.py"
    init.write_text(init.read_text().replace("\n_suggest.", f"{line}\n_suggest.", 1))
    table = tmp_path / "tests" / rows
    table.write_text(re.sub(r"\]\n\Z", textwrap.indent(row, "    ") + "]\n", table.read_text()))

    if package == "losses":
        (tmp_path / "tests/test_its_layouts.py").write_text(LAYOUTS.format(name=name))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = lambda *command: subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, check=True, timeout=1200
    )
    run("docs/_tables.py")
    run("-m", "ruff", "check", "metricjax", "--ignore", "I001")  # the line's place among others
    run("-m", "pytest", "-q", "-m", "", "-k", f"{name} or its_layouts or has_a_case or docs_list")
