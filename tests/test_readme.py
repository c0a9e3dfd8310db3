"""The README's snippets run as they stand, and its commands are one line each."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import metricjax as mj

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
LABELS = jnp.arange(8) // 2
IMAGES = jax.random.normal(jax.random.key(0), (8, 16))


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


class Linear:
    """What the snippets call a model: `apply(params, images)`."""

    @staticmethod
    def apply(params, images):
        return images @ params


def test_there_are_two_commands_of_one_line():
    commands = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    assert [c.count("\n") for c in commands] == [1, 1]
    assert "metricjax.demo" in commands[0] and "pytest" in commands[1]


def test_functional_step_lowers_the_loss():
    scope = {"model": Linear, "tx": optax.adam(0.1)}
    exec(PYTHON[0], scope)
    params = jax.random.normal(jax.random.key(1), (16, 4))
    state, losses = scope["tx"].init(params), []
    for _ in range(5):
        params, state, parts = scope["step"](params, state, IMAGES, LABELS)
        losses.append(parts["loss"])
    assert losses[-1] < losses[0]


def test_the_three_lines_are_the_recipe():
    scope = {"mj": mj, "embeddings": IMAGES, "labels": LABELS, "beta": jnp.float32(50)}
    exec(PYTHON[1], scope)
    assert sorted(scope["parts"]) == ["loss", "lp_reg"]
    recipe = mj.objective(mj.losses.multi_similarity, miner=mj.miners.multi_similarity)
    assert jnp.allclose(scope["parts"]["loss"], jax.jit(recipe)(IMAGES, LABELS)[0])


def test_flax_step_trains_model_and_class_weights():
    scope = {
        "mj": mj,
        "optax": optax,
        "num_classes": 4,
        "model": nnx.Linear(16, 64, rngs=nnx.Rngs(0)),
    }
    exec(PYTHON[2], scope)
    before = scope["head"].weights[...]
    args = (scope["model"], scope["head"], scope["optimizer"], IMAGES, LABELS)
    losses = [scope["step"](*args)["loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    assert (scope["head"].weights[...] != before).all()


def test_snippet_for_many_devices():
    scope = {"mj": mj}
    exec(PYTHON[3], scope)
    local = lambda x, y: scope["loss_fn"](x, y)[0]
    got = jax.pmap(local, axis_name="batch")(IMAGES.reshape(4, 2, 16), LABELS.reshape(4, 2))
    assert jnp.allclose(got, mj.reduce(mj.losses.ntxent(IMAGES, LABELS))[0])
