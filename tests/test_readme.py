"""The README's lines run as they stand and find more of each digit; it is short."""

import re
from pathlib import Path

import jax
import pytest

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def test_there_are_two_commands_of_one_line():
    commands = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    assert [c.count("\n") for c in commands] == [1, 1]
    assert "metricjax.demo" in commands[0] and "pytest" in commands[1]


def test_it_is_short():
    assert len(TEXT.splitlines()) < 120


@pytest.mark.slow
@pytest.mark.optimized
def test_the_lines_raise_the_score_as_far_as_the_text_says():
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    before, after = map(float, re.search(r"MAP@R rises from ([\d.]+) to ([\d.]+)\.", TEXT).groups())
    scope = {}
    with jax.numpy_dtype_promotion("standard"):
        exec(code, scope)
        trained = scope["weights"]
        untrained = jax.random.normal(jax.random.key(0), trained.shape)
        for weights, said in ((untrained, before), (trained, after)):
            scores = scope["mj"].evaluation.retrieval_metrics(
                scope["images"][1000:] @ weights, scope["labels"][1000:]
            )
            assert abs(scores["mean_average_precision_at_r"] - said) < 0.02
