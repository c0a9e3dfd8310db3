"""Training: the steps against formulas, and `fit` against being killed, stopped and given NaN."""

import csv
import functools
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import killed
import numpy as np
import optax
import pytest
from flax import linen, nnx

import metricjax as mj
from metricjax import training

normal = lambda seed, *shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)
X = jnp.array(normal(0, 12, 6))
Y = jnp.array(np.arange(12) % 3)
KERNEL = jnp.array(normal(1, 6, 4))
NAN = float("nan")
CONTRASTIVE = mj.objective(mj.losses.contrastive, neg_margin=1.5)


@pytest.fixture(autouse=True)
def _users_settings():
    with jax.numpy_dtype_promotion("standard"):  # optax is not strict
        yield


def linear(params, x):
    return x @ params


def after_one(step, params, batch=(X, Y), optimizer=optax.sgd(1.0), **options):
    """The gradient by which one step of plain descent moved the parameters, and its metrics."""
    state = training.State.create(params, optimizer, **options)
    new, metrics = jax.jit(step)(state, batch)
    assert new.step == 1
    return jax.tree.map(np.subtract, params, new.params), metrics, new


def same_gradient(got, total, params):
    chex.assert_trees_all_close(got, jax.jit(jax.grad(total))(params), rtol=1e-4, atol=1e-5)


SGD = optax.sgd(1.0)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels

# --- the schemes -----------------------------------------------------------------------------


def test_metric_loss_only_trains_class_weights_with_an_optimizer_of_their_own():
    loss = mj.objective(mj.losses.arcface)
    params = {"network": KERNEL, "loss": jnp.eye(3, 4)}
    names = {"network": "network", "loss": "loss"}
    optimizer = optax.partition({"network": optax.sgd(1.0), "loss": optax.sgd(10.0)}, names)
    step = training.metric_loss_only(linear, loss, optimizer)
    got, metrics, _ = after_one(step, params, optimizer=optimizer)
    total = lambda params: loss(linear(params["network"], X), Y, params["loss"])[0]
    grads = jax.jit(jax.grad(total))(params)
    chex.assert_trees_all_close(got, grads | {"loss": 10 * grads["loss"]}, rtol=1e-4, atol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert metrics["loss"] == metrics["metric_loss"] == metrics["metric_loss/loss"]


def test_keys_differ_by_step_and_call_and_variables_are_carried():
    def network(params, x, key, variables):
        return x @ params, variables | {"keys": jax.random.key_data(key), "n": variables["n"] + 1}

    def loss(x, y, key):
        return jnp.sum(x) * 0, {"used": jax.random.uniform(key)}

    step = jax.jit(training.metric_loss_only(network, loss, SGD))
    variables = {"n": jnp.int32(0), "keys": jnp.zeros(2, jnp.uint32)}
    key = jax.random.key(5)
    state = training.State.create({"network": KERNEL}, SGD, key=key, variables=variables)
    seen = []
    for _ in range(2):
        before = state
        state, metrics = step(state, (X, Y))
        again = step(before, (X, Y))[1]
        assert again["metric_loss/used"] == metrics["metric_loss/used"]
        seen += [float(metrics["metric_loss/used"]), tuple(state.variables["keys"].tolist())]
    assert len(set(seen)) == 4
    assert state.variables["n"] == 2 and state.key == key


@pytest.mark.slow
def test_a_classifier_and_scheduled_weights():
    head = normal(2, 4, 3)
    params = {"network": KERNEL, "classifier": head}
    weights = {"classifier_loss": optax.linear_schedule(0.5, 1.5, 1), "metric_loss": 2.0}
    step = training.with_classifier(linear, linear, CONTRASTIVE, SGD, weights=weights)
    step = jax.jit(step)
    for at, weight in ((0, 0.5), (1, 1.5)):
        state = training.State.create(params, SGD)._replace(step=jnp.int32(at))
        new, metrics = step(state, (X, Y))

        def total(params, weight=weight):
            x = linear(params["network"], X)
            classes = cross_entropy(linear(params["classifier"], x), Y).mean()
            return 2 * CONTRASTIVE(x, Y)[0] + weight * classes

        want, grads = jax.jit(jax.value_and_grad(total))(params)
        got = jax.tree.map(np.subtract, params, new.params)
        chex.assert_trees_all_close(got, grads, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)


@pytest.mark.slow
def test_cascaded_parts_are_mined_from_what_the_part_before_has_mined():
    hdc = functools.partial(mj.miners.hdc, filter_percentage=0.5)
    stage = training.Stage
    arcface = mj.objective(mj.losses.arcface)
    stages = [
        stage(1, CONTRASTIVE, mj.miners.pair_margin),
        stage(2, CONTRASTIVE, hdc, classifier=linear),
        stage(1, arcface),
    ]
    params = {"network": KERNEL, "classifier_1": jnp.ones((2, 3)), "loss_2": jnp.eye(3, 1)}
    weights = {"metric_loss_1": 3.0}
    step = training.cascaded(linear, stages, SGD, weights=weights)
    got, metrics, _ = after_one(step, params, key=jax.random.key(0))  # which nothing here takes

    def total(params):
        x = linear(params["network"], X)
        first = mj.miners.pair_margin(x[:, :1], Y)
        second = mj.miners.hdc(x[:, 1:3], Y, mined=first, filter_percentage=0.5)
        return (
            CONTRASTIVE(x[:, :1], Y, mined=first)[0]
            + 3 * CONTRASTIVE(x[:, 1:3], Y, mined=second)[0]
            + cross_entropy(x[:, 1:3] @ params["classifier_1"], Y).mean()
            + arcface(x[:, 3:], Y, params["loss_2"])[0]
        )

    same_gradient(got, total, params)
    with pytest.raises(ValueError, match="must give 3 features.*got 4"):
        after_one(training.cascaded(linear, stages[:2], SGD), dict(list(params.items())[:2]))


@pytest.mark.slow
def test_two_streams_compare_anchors_with_the_others_alone():
    loss = mj.objective(mj.losses.contrastive, miner=mj.miners.batch_hard)
    params = {"network": KERNEL}
    others = X[::-1] + 0.1
    step, batch = training.two_streams(linear, loss, SGD), (X, others, Y)
    got, _, _ = after_one(step, params, batch, key=jax.random.key(0))  # which nothing here takes

    def total(params):
        anchors, positives = linear(params["network"], X), linear(params["network"], others)
        refs = mj.Refs(positives, Y)
        mined = mj.miners.batch_hard(anchors, Y, refs=refs)
        return mj.reduce(mj.losses.contrastive(anchors, Y, refs=refs, mined=mined))[0]

    same_gradient(got, total, params)


LABELS_OF_ONE_TRIPLET = jnp.array([0, 0, 1])  # of each anchor but the last, which has none
GENERATED = {
    "trunk": normal(3, 6, 5),
    "embedder": normal(4, 5, 4),
    "generator": normal(5, 15, 5),
    "classifier": normal(6, 4, 2),
}


def adversarial(optimizer=SGD, **options):
    return training.deep_adversarial(
        linear, linear, linear, CONTRASTIVE, optimizer, classifier=linear, triplets_per_anchor=2,
        adv_margin=0.3, synth_loss=mj.objective(mj.losses.triplet_margin, margin=0.4), **options,
    )  # fmt: skip


def adversarial_losses(params):
    """By their formulas, for the two triplets that there are."""
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    h = X[:3] @ params["trunk"]
    f = lambda x: x @ params["embedder"]
    metric, _ = CONTRASTIVE(f(h), LABELS_OF_ONE_TRIPLET)
    classes = cross_entropy(f(h) @ params["classifier"], LABELS_OF_ONE_TRIPLET).mean()
    a, p, n = h[jnp.array([0, 1])], h[jnp.array([1, 0])], h[jnp.array([2, 2])]
    made = jnp.concatenate([a, p, n], 1) @ params["generator"]
    dist = lambda x, y: jnp.linalg.norm(unit(f(x)) - unit(f(y)), axis=1)
    ap, an = dist(a, p), dist(a, made)
    hinge = lambda x: jnp.sum(jnp.maximum(x, 0)) / jnp.maximum(jnp.sum(x > 0), 1)
    square = lambda y: jnp.mean((unit(made) - unit(y)) ** 2)
    adv, synth = hinge(an - ap - 0.3), hinge(ap - an + 0.4)
    return metric + classes, adv + 2 * square(a) + square(n), synth


@pytest.mark.slow
def test_deep_adversarial_has_three_phases_without_compiling_again():
    step = jax.jit(adversarial(metric_steps=1, generator_steps=1, weights={"g_hard_loss": 2.0}))
    batch = X[:3], LABELS_OF_ONE_TRIPLET
    start = training.State.create(GENERATED, SGD, key=jax.random.key(0))
    total = [
        lambda params: adversarial_losses(params)[0],
        lambda params: adversarial_losses(GENERATED | {"generator": params["generator"]})[1],
        lambda params: sum(adversarial_losses(params)),
    ]
    for at in range(3):
        new, metrics = step(start._replace(step=jnp.int32(at)), batch)
        got = jax.tree.map(np.subtract, GENERATED, new.params)
        want, grads = jax.jit(jax.value_and_grad(total[at]))(GENERATED)
        chex.assert_trees_all_close(got, grads, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    assert metrics["g_adv_loss"] > 0 or metrics["synth_loss"] > 0
    assert step._cache_size() == 1


@pytest.mark.slow
def test_momentum_is_held_while_the_generator_is_trained_alone():
    active = {"network": lambda i: (i < 2) | (i >= 4), "generator": lambda i: i >= 2}
    parts = {n: optax.conditionally_mask(optax.adam(1e-2), f) for n, f in active.items()}
    names = dict.fromkeys(GENERATED, "network") | {"generator": "generator"}
    optimizer = optax.partition(parts, names)
    step = jax.jit(adversarial(optimizer, metric_steps=2, generator_steps=2))
    state = training.State.create(GENERATED, optimizer, key=jax.random.key(0))
    for at in range(5):
        before = state.params
        state, _ = step(state, (X[:3], LABELS_OF_ONE_TRIPLET))
        moved = {n for n in GENERATED if not np.array_equal(before[n], state.params[n])}
        generator, others = {"generator"}, set(GENERATED) - {"generator"}
        assert moved == (others if at < 2 else generator if at < 4 else set(GENERATED))


def over_devices(step, state, batch):
    everywhere, rows = jax.P(), jax.P("batch")
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(everywhere, rows), out_specs=(everywhere, everywhere)
        )
    )(state, batch)


@pytest.mark.parametrize(
    ("scheme", "way"),
    [
        ("metric_loss_only", "shard_map"),
        pytest.param("metric_loss_only", "pmap", marks=pytest.mark.slow),
        pytest.param("with_classifier", "shard_map", marks=pytest.mark.slow),
        pytest.param("two_streams", "pmap", marks=pytest.mark.slow),
    ],
)
def test_devices_together_do_the_step_of_one(scheme, way):
    batch = {"two_streams": (X, X[::-1], Y)}.get(scheme, (X, Y))
    params = {"network": KERNEL}
    if scheme == "with_classifier":
        params["classifier"] = normal(2, 4, 3)
    networks = [linear] * len(params)

    def step(axis_name=None):
        loss = mj.objective(mj.losses.ntxent, axis_name=axis_name)
        return getattr(training, scheme)(*networks, loss, SGD, axis_name=axis_name)

    state = training.State.create(params, SGD)
    want = jax.jit(step())(state, batch)
    if way == "shard_map":
        got = over_devices(step("batch"), state, batch)
    else:
        parts = jax.tree.map(lambda x: x.reshape(4, 3, *x.shape[1:]), batch)
        got = jax.pmap(step("batch"), "batch", in_axes=(None, 0))(state, parts)
        got = jax.tree.map(lambda x: x[0], got)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["cascaded", "deep_adversarial", "two_streams"])
def test_a_batch_on_an_explicit_mesh_gives_the_step_of_one_device(scheme):
    miner = functools.partial(mj.miners.hdc, filter_percentage=0.5)
    step = {
        "cascaded": lambda: training.cascaded(
            linear, [training.Stage(2, CONTRASTIVE, miner)] * 2, SGD
        ),
        "deep_adversarial": adversarial,
        "two_streams": lambda: training.two_streams(linear, CONTRASTIVE, SGD),
    }[scheme]()
    params = GENERATED if scheme == "deep_adversarial" else {"network": KERNEL}
    batch = (X, X[::-1], Y) if scheme == "two_streams" else (X, Y % 2)
    state = training.State.create(params, SGD, key=jax.random.key(0))
    want = jax.jit(step)(state, batch)
    mesh = jax.make_mesh((4,), ("batch",))
    place = lambda tree, spec: jax.device_put(tree, jax.NamedSharding(mesh, spec))
    got = jax.jit(step)(place(state, jax.P()), place(batch, jax.P("batch")))
    (got, got_metrics), (want, metrics) = got, want
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)
    close((got.params, got_metrics), (want.params, metrics))


@pytest.mark.parametrize(
    ("build", "params", "complaint"),
    [
        (lambda: training.metric_loss_only(linear, CONTRASTIVE, SGD), KERNEL, "dict with network"),
        (
            lambda: training.metric_loss_only(linear, CONTRASTIVE, SGD),
            {"network": KERNEL, "los": KERNEL},
            "got \\['los', 'network'\\]",
        ),
        (adversarial, GENERATED, "needs a key"),
        (
            lambda: training.with_classifier(linear, linear, CONTRASTIVE, SGD, weights={"a": 1}),
            None,
            "weights.*classifier_loss, got \\['a'\\]",
        ),
        (
            lambda: training.metric_loss_only(linear, mj.objective(mj.losses.arcface), SGD),
            {"network": KERNEL},
            r"""arcface: `weights` must be given.*`params\["loss"\]` of the state""",
        ),
        (
            lambda: training.metric_loss_only(linear, mj.losses.contrastive, SGD),
            {"network": KERNEL},
            "`loss` must return a number and a dict of numbers, got dict. Give",
        ),
        (
            lambda: training.metric_loss_only(linear, mj.miners.batch_hard, SGD),
            {"network": KERNEL},
            "`loss` must return a number and a dict of numbers, got ",
        ),
        (
            lambda: training.metric_loss_only(linen.Dense(4), CONTRASTIVE, SGD),
            {"network": KERNEL},
            "`network` must be a function.*got the module Dense",
        ),
        (
            lambda: training.metric_loss_only(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), CONTRASTIVE, SGD),
            {"network": KERNEL},
            "`network` must be a function.*got the module Linear",
        ),
    ],
)
def test_errors_say_what_to_give(build, params, complaint):
    with pytest.raises((ValueError, TypeError), match=complaint) as error:
        after_one(build(), params)
    assert len(str(error.value)) <= 400


# --- optimizers that want more than a gradient ------------------------------------------------


def bowl(params):
    """A function whose gradient is not linear, so that a second look at it shows."""
    return jnp.sum(jnp.cosh(params["x"] - jnp.array([1.0, -2.0, 0.5])))


BEGIN = {"x": jnp.array([0.3, 0.2, -0.4])}
SAM = {"optimizer": optax.sgd(0.1), "adv_optimizer": optax.sgd(0.05)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "extra"),
    [
        (optax.contrib.sam(**SAM), lambda **given: {}),
        (
            optax.contrib.sam(**SAM, opaque_mode=True, reset_state=False),
            lambda **given: {"grad_fn": lambda params, i: jax.grad(bowl)(params)},
        ),
        (optax.lbfgs(), lambda **given: given | {"value_fn": bowl}),
        (optax.contrib.schedule_free_sgd(0.1), lambda **given: {}),
        (optax.MultiSteps(optax.sgd(0.1), 2), lambda **given: {}),
        (
            optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=0, rtol=0.9)),
            lambda **given: {"value": given["value"]},
        ),
    ],
    ids=["sam", "sam_opaque", "lbfgs", "schedule_free", "MultiSteps", "reduce_on_plateau"],
)
def test_what_optax_offers_does_what_it_does_alone(optimizer, extra):
    def alone(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(bowl)(params)
        updates, state = optimizer.update(grads, state, params, **extra(value=value, grad=grads))
        return (optax.apply_updates(params, updates), state), value

    objective = lambda params, state, batch, key: (bowl(params), ({}, None))
    step = training.make_step(objective, optimizer)

    def both(params):
        state = training.State.create(params, optimizer)
        got, metrics = jax.lax.scan(lambda state, _: step(state, None), state, length=5)
        want, values = jax.lax.scan(alone, (params, optimizer.init(params)), length=5)
        return (got.params, metrics["loss"]), (want[0], values)

    got, want = jax.jit(both)(BEGIN)
    chex.assert_trees_all_close(got, want, rtol=1e-6)
    assert want[1][-1] < want[1][0]


@pytest.mark.slow
def test_lookahead_trains_the_fast_parameters():
    optimizer = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced({"network": KERNEL})
    step = jax.jit(training.metric_loss_only(linear, CONTRASTIVE, optimizer))
    state = training.State.create(params, optimizer)
    plain = jax.jit(jax.grad(lambda params: CONTRASTIVE(linear(params, X), Y)[0]))
    fast = KERNEL
    for _ in range(2):
        state, _ = step(state, (X, Y))
        fast -= 0.1 * plain(fast)
    want = {"network": (KERNEL + fast) / 2}
    chex.assert_trees_all_close(state.params.slow, want, rtol=1e-5)
    chex.assert_trees_all_close(state.params.fast, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "axis_name", "complaint"),
    [
        (optax.chain(optax.contrib.sam(**SAM)), None, "argument 'value'. In a chain, hide"),
        (optax.lbfgs(), "batch", "no `value_fn` and `grad_fn` with `axis_name`"),
    ],
)
def test_optimizers_that_cannot_work_are_named(optimizer, axis_name, complaint):
    objective = lambda params, state, batch, key: (bowl(params), ({}, None))
    step = training.make_step(objective, optimizer, axis_name=axis_name)
    state = training.State.create(BEGIN, optimizer)
    if axis_name:
        step = jax.vmap(step, axis_name=axis_name, in_axes=(None, 0), axis_size=2)
    with pytest.raises(TypeError, match="make_step: `optimizer` must work.*" + complaint) as error:
        jax.eval_shape(step, state, None)
    assert len(str(error.value)) <= 400


# --- a teacher ---------------------------------------------------------------------------------


def test_a_teacher_is_the_average_of_the_student_and_is_resumed(tmp_path):
    def objective(params, teacher, state, batch, key):
        assert teacher["half"].dtype == jnp.bfloat16
        error = batch @ (params["network"] - teacher["network"]) - state.variables
        loss = jnp.sum(error**2) / 2 + jnp.sum(params["half"]).astype(jnp.float32)
        return loss, ({}, state.variables + 1)

    momentum, optimizer = optax.linear_schedule(0.5, 0.9, 2), optax.sgd(0.0625)
    params = {"network": KERNEL, "half": jnp.ones(3, jnp.bfloat16)}
    teacher = training.Teacher.create(params, variables=jnp.float32(1))
    state = training.State.create(params, optimizer, variables=teacher)
    step = training.with_teacher(objective, optimizer, momentum=momentum)
    for steps in (1, 3):
        done = training.fit(step, state, lambda i: X, steps=steps, folder=tmp_path).state

    student = mean = np.float64(KERNEL)
    half = half_mean = np.ones(3)
    for i, m in enumerate([0.5, 0.7, 0.9]):
        student = student - 0.0625 * X.T @ (X @ (student - mean) - (1 + i))
        half = half - 0.0625
        mean, half_mean = m * mean + (1 - m) * student, m * half_mean + (1 - m) * half
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
    close(done.params["network"], np.float32(student))
    close(done.variables.params, {"network": np.float32(mean), "half": np.float32(half_mean)})
    assert done.variables.variables == 4 and done.params["half"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("momentum", "variables", "complaint"),
    [
        (1.5, None, r"`momentum` must be in \[0, 1\], got 1.5"),
        (0.9, {"a": 1}, "`state.variables` must be a Teacher, got dict. Give"),
    ],
)
def test_wrong_teachers_are_named(momentum, variables, complaint):
    with pytest.raises((ValueError, TypeError), match="with_teacher: " + complaint):
        step = training.with_teacher(lambda *_: (0.0, ({}, None)), SGD, momentum=momentum)
        step(training.State.create(KERNEL, SGD, variables=variables), X)


# --- fit: going on where it was ---------------------------------------------------------------


def run(*trainings):
    """Trains as each ``(folder, when)`` says, one after the other; all but "never" are killed."""
    words = [str(word) for training in trainings for word in training]
    command = [sys.executable, "-W", "error", killed.__file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    want = [0 if when == "never" else -signal.SIGKILL for _, when in trainings]
    assert done.stdout.split() == [str(status) for status in want], done.stderr


def left(folder):
    with np.load(folder / "done.npz") as arrays:
        return {name: x.tolist() for name, x in arrays.items()}, (folder / "log.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run((folder, "never"))
    return left(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [["write:30"], ["write:30", "write:12", "batch:4", "evaluation:0", "write:50"]],
)
def test_a_killed_training_ends_as_one_that_was_not(moments, tmp_path, uninterrupted):
    """Between states, while one is written or deleted, before an evaluation."""
    run(*((tmp_path, when) for when in moments))
    assert not (tmp_path / "done.npz").exists()
    run((tmp_path, "never"))
    assert left(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(2))
def test_killed_at_many_a_write(offset, tmp_path, uninterrupted):
    """Every 13th of the 200 file operations of a training: others of each of its checkpoints."""
    counts = range(1 + 13 * offset, 200, 26)
    for count in counts:
        (tmp_path / str(count)).mkdir()
    run(*((tmp_path / str(c), when) for c in counts for when in (f"write:{c}", "never")))
    for count in counts:
        assert left(tmp_path / str(count)) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 5, 11])
def test_an_error_in_a_batch_loses_nothing(at, tmp_path):
    def broken(i):
        if i == at:
            raise OSError("disk")
        return killed.batch(i)

    want = killed.train(tmp_path / "whole")
    with pytest.raises(OSError, match="disk"):
        killed.train(tmp_path / "parts", batch=broken)
    got = killed.train(tmp_path / "parts")
    chex.assert_trees_all_equal(killed.named(got), killed.named(want))
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def fit_small(folder=None, *, params=KERNEL, batches=lambda i: (X, Y), optimizer=SGD, **options):
    step = options.pop("step", None) or training.metric_loss_only(linear, CONTRASTIVE, optimizer)
    state = training.State.create({"network": params}, optimizer)
    return training.fit(step, state, batches, folder=folder, **({"steps": 6} | options))


def test_fit_does_the_steps_and_leaves_the_first_state_alone():
    step = training.metric_loss_only(linear, CONTRASTIVE, SGD)
    state = first = training.State.create({"network": KERNEL}, SGD)
    batches = [(X + i, Y) for i in range(3)]
    for batch in batches:
        state, _ = jax.jit(step)(state, batch)
    done = training.fit(step, first, batches, steps=3)
    chex.assert_trees_all_close(done.state, state, rtol=1e-5)
    assert not any(x.is_deleted() for x in jax.tree.leaves(first))
    assert done[1:] == (None, None, False)


# --- fit: what is not finite -------------------------------------------------------------------


def steps_in(folder):
    return sorted(int(path.name) for path in Path(folder).iterdir())


@pytest.mark.parametrize("save_every", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_nan_stops_in_its_step_and_is_not_saved(save_every, tmp_path):
    asked = []

    def batches(i):
        asked.append(i)
        return X.at[0, 0].set(jnp.nan if i == 4 else 0.0), Y

    with pytest.raises(FloatingPointError) as stop:
        fit_small(tmp_path, batches=batches, save_every=save_every)
    message = str(stop.value)
    assert "step 5, with batch 4: " in message
    for name in ("loss", "metric_loss/pos_loss", "metric_loss/neg_loss", "grad_norm"):
        assert f"{name} is nan" in message
    assert message.endswith(f"The last good checkpoint is {tmp_path / '4'}.")
    assert steps_in(tmp_path) == ([3, 4] if save_every == 1 else [4]) and max(asked) <= 5
    state = training.State.create({"network": KERNEL}, SGD)
    good = training.restore(tmp_path, state)
    assert good.step == 4 and jnp.isfinite(good.params["network"]).all()


def test_a_finite_loss_with_a_nan_gradient_stops_in_the_same_step(tmp_path):
    def objective(params, state, batch, key):
        x = jnp.sum(params["network"])
        root = lambda x: jnp.sqrt(x * 0)
        return jax.lax.cond(state.step == 2, root, lambda x: x, x), ({}, None)

    step = training.make_step(objective, SGD)
    with pytest.raises(FloatingPointError, match="step 3, with batch 2: grad_norm is nan"):
        fit_small(tmp_path, step=step, save_every=3)
    assert steps_in(tmp_path) == []
    with pytest.raises(FloatingPointError, match="`folder` was not given"):
        fit_small(step=step)


def test_parameters_that_overflow_are_not_saved(tmp_path):
    optimizer = optax.sgd(lambda i: jnp.where(i == 2, 3e38, 0.0))
    loss = lambda x, y: (100 * jnp.sum(x), {})
    step = training.metric_loss_only(linear, loss, optimizer)
    options = {"step": step, "optimizer": optimizer, "save_every": 1}
    with pytest.raises(FloatingPointError, match="after step 3: params/network. The last.*/2"):
        fit_small(tmp_path, **options)
    assert steps_in(tmp_path) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "moves"),
    [
        (optax.apply_if_finite(SGD, 2), [1, 3]),
        (optax.MultiSteps(SGD, 1, should_skip_update_fn=optax.skip_not_finite), [1, 3]),
    ],
    ids=["apply_if_finite", "MultiSteps"],
)
def test_a_step_that_the_optimizer_skips_does_not_end_the_training(optimizer, moves):
    told, kernels = [], [KERNEL]

    class Logger:
        def __call__(self, step, numbers):
            told.append((step, bool(np.isfinite(numbers["loss"]))))

        def note(self, step, text):
            told.append((step, text))

    def evaluate(state):
        kernels.append(np.asarray(state.params["network"]))
        return {}

    bad = X.at[0, 0].set(NAN)
    run = functools.partial(
        fit_small, optimizer=optimizer, evaluate=evaluate, evaluate_every=1, log_every=1,
        loggers=[Logger()],
    )  # fmt: skip
    done = run(steps=3, batches=lambda i: (bad if i == 1 else X, Y))
    assert [i for i in (1, 2, 3) if (kernels[i] != kernels[i - 1]).any()] == moves
    assert np.isfinite(done.state.params["network"]).all()
    assert [x for x in told if not isinstance(x[1], str)] == [(1, True), (2, False), (3, True)]
    (note,) = [x for x in told if isinstance(x[1], str)]
    assert note[0] == 2 and "in step 2, with batch 1: " in note[1] and "skipped it" in note[1]
    if optimizer.init({}).__class__.__name__ == "ApplyIfFiniteState":  # which bears two in a row
        with pytest.raises(FloatingPointError, match="in step 4, with batch 3"):
            run(steps=6, batches=lambda i: (bad if i else X, Y))


def test_a_gradient_whose_square_overflows_has_a_norm_and_is_no_reason_to_stop():
    objective = lambda params, state, batch, key: (1e25 * jnp.sum(params["network"]), ({}, None))
    optimizer, norms = optax.sgd(1e-30), []
    step = training.make_step(objective, optimizer)
    log = lambda step, numbers: norms.append(numbers["grad_norm"])
    fit_small(step=step, optimizer=optimizer, steps=2, log_every=1, loggers=[log])
    np.testing.assert_allclose(norms, 1e25 * np.sqrt(KERNEL.size), rtol=1e-5)


def test_a_metric_that_is_nan_beside_a_good_gradient_still_ends_it():
    def objective(params, state, batch, key):
        return jnp.sum(params["network"]), ({"a": jnp.float32(NAN)}, None)

    with pytest.raises(FloatingPointError, match="step 1, with batch 0: a is nan. No"):
        fit_small(step=training.make_step(objective, SGD))


# --- fit: evaluation ---------------------------------------------------------------------------


def scored(values):
    return lambda state: {"score": values[int(state.step) - 1]}


@pytest.mark.parametrize(
    ("values", "patience", "best", "last"),
    [
        ([1, 2, 1, 1, 3, 3], 1, 2, 4),  # as in PML: a second one that is not better
        pytest.param([1, 2, 1, 3, 1, 1], 1, 4, 6, marks=pytest.mark.slow),
        # equal is not better
        pytest.param([2, 2, 3, 3, 3, 3], 0, 1, 2, marks=pytest.mark.slow),
        pytest.param([NAN, 1, NAN, NAN, 2, 2], 2, 5, 6, marks=pytest.mark.slow),
        pytest.param([NAN] * 6, 2, None, 3, marks=pytest.mark.slow),
    ],
)
def test_patience_and_the_best_state(values, patience, best, last, tmp_path):
    options = {"evaluate": scored(values), "evaluate_every": 1, "score": "score"}
    options |= {"patience": patience}
    got = [fit_small(tmp_path, **options), fit_small(tmp_path, **options)]  # and again: no step
    for done in got:
        assert (done.best_step, int(done.state.step), done.stopped_early) == (best, last, last < 6)
        assert done.best_score == (None if best is None else values[best - 1])
    assert steps_in(tmp_path) == sorted({best, last - 1, last} - {None})
    like = got[0].state
    if best is None:
        with pytest.raises(FileNotFoundError, match="best state"):
            training.restore(tmp_path, like, best=True)
    else:
        assert training.restore(tmp_path, like, best=True).step == best
    assert training.restore(tmp_path, like).step == last


@pytest.mark.slow
def test_the_smallest_error_is_the_best(tmp_path):
    options = {"evaluate": scored([3, NAN, 1, 2]), "evaluate_every": 1, "score": "score"}
    done = fit_idle(tmp_path, steps=4, mode="min", **options)
    assert (done.best_step, done.best_score) == (3, 1)
    assert training.restore(tmp_path, IDLE, best=True).step == 3


def test_it_is_evaluated_and_logged_when_due_and_at_the_end(capsys, tmp_path):
    seen, evaluated = [], []

    def evaluate(state):
        evaluated.append(int(state.step))
        return {"a": jnp.float32(1.0)}

    fit_small(
        evaluate=evaluate, evaluate_every=4, log_every=3, steps=10, progress=True,
        loggers=[lambda step, numbers: seen.append((step, "eval/a" in numbers, numbers["loss"]))],
    )  # fmt: skip
    assert evaluated == [4, 8, 10]
    assert [x[:2] for x in seen] == [
        (3, False), (4, True), (6, False), (8, True), (9, False), (10, True),
    ]  # fmt: skip
    assert all(type(x[2]) is float for x in seen)
    bar = capsys.readouterr().err
    assert "10/10" in bar and "loss=" in bar and "eval/a=1" in bar


# --- fit: checkpoints --------------------------------------------------------------------------


@pytest.mark.slow
def test_shardings_and_dtypes_come_back_and_the_rest_is_bit_for_bit(tmp_path):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = jax.NamedSharding(mesh, jax.P("batch")), jax.NamedSharding(mesh, jax.P())
    optimizer = optax.adam(1e-2)
    kernel = jax.device_put(
        jnp.zeros((8, 4), jnp.bfloat16), jax.NamedSharding(mesh, jax.P("batch", None))
    )
    state = training.State.create(
        {"network": kernel + 0.5}, optimizer, key=jax.random.key(0, impl="rbg")
    )
    state = jax.tree.map(lambda x: x if x.shape == (8, 4) else jax.device_put(x, everywhere), state)
    x = np.random.default_rng(0).normal(size=(4, 12, 8)).astype(np.float32)
    batches = lambda i: jax.device_put((x[i], np.asarray(Y).repeat(1)), rows)
    network = lambda params, x: x @ params.astype(jnp.float32)
    step = training.metric_loss_only(network, CONTRASTIVE, optimizer)
    run = functools.partial(training.fit, step, state, batches, save_every=1)
    whole = run(steps=4).state
    run(steps=2, folder=tmp_path)
    resumed = run(steps=4, folder=tmp_path).state
    chex.assert_trees_all_equal(killed.named(resumed), killed.named(whole))
    for a, b in zip(*map(jax.tree.leaves, (resumed, state)), strict=True):
        assert a.sharding == b.sharding and a.dtype == b.dtype


@pytest.mark.slow
def test_a_state_that_was_not_placed_may_still_go_to_a_mesh(tmp_path):
    fit_small(tmp_path, steps=2)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.device_put((X, Y), jax.NamedSharding(mesh, jax.P("batch")))
    assert fit_small(tmp_path, batches=lambda i: batch).state.step == 6


def test_a_folder_of_another_model_is_refused(tmp_path):
    fit_small(tmp_path, steps=1)
    with pytest.raises(ValueError, match=r"must hold.*network.: .float32\[6, 2\]"):
        fit_small(tmp_path, params=KERNEL[:, :2])
    with pytest.raises(FileNotFoundError, match="must hold a state"):
        training.restore(tmp_path / "nothing", training.State.create(KERNEL, SGD))


# --- fit: what it resumes from ------------------------------------------------------------------

IDLE = training.State.create({"network": normal(7, 60, 40)}, SGD)
"""Large enough for an array in a file of its own, where Orbax does not notice a bit that flips."""


def idle(state, batch):
    """A step that is quick to compile."""
    return state._replace(step=state.step + 1), {"loss": jnp.float32(0)}


def fit_idle(folder, *, state=IDLE, **options):
    return training.fit(idle, state, lambda i: None, folder=folder, **({"steps": 3} | options))


def told(caplog):
    return [x.getMessage() for x in caplog.records if x.name == "metricjax"]


def cut(folder, name):
    """Cuts off the second half of files."""
    for path in [x for x in folder.rglob(name) if x.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder, name):
    """Changes a bit of the largest file."""
    path = max((x for x in folder.rglob(name) if x.is_file()), key=lambda x: x.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (cut, "*"),
        pytest.param(flip, "about/*", marks=pytest.mark.slow),
        pytest.param(flip, "d/*", marks=pytest.mark.slow),
        pytest.param(lambda folder, name: shutil.rmtree(folder), "", marks=pytest.mark.slow),
    ],
    ids=["cut", "another progress", "another value", "gone"],
)
def test_a_damaged_state_is_set_aside_and_the_one_before_resumed(damage, name, tmp_path, caplog):
    evaluated = {"evaluate": scored([2, 1, 3, 0]), "evaluate_every": 1, "score": "score"}
    fit_idle(tmp_path, **evaluated)
    assert steps_in(tmp_path) == [1, 2, 3]  # 1 is the best up to 2
    damage(tmp_path / "3" / ("state" if name == "d/*" else ""), name)
    gone = not (tmp_path / "3").exists()
    assert training.restore(tmp_path, IDLE).step == 2
    assert training.restore(tmp_path, IDLE, best=True).step == 1
    assert (tmp_path / "3").exists() != gone and len(told(caplog)) == (0 if gone else 2)
    assert all(f"{tmp_path / '3'} is damaged" in message for message in told(caplog))
    done = fit_idle(tmp_path, steps=4, **evaluated)
    assert (int(done.state.step), done.best_step, done.best_score) == (4, 3, 3)
    assert "resumes after step 2 of 4" in caplog.text and str(tmp_path) in caplog.text
    assert gone or f"set aside: {tmp_path / '3.damaged'}." in caplog.text
    assert training.restore(tmp_path, IDLE).step == 4


def test_a_folder_of_damaged_states_is_refused_and_stays_as_it_is(tmp_path):
    fit_idle(tmp_path, save_every=1)
    for step in ("2", "3"):
        cut(tmp_path / step, "*")
    for call in (fit_idle, lambda folder: training.restore(folder, IDLE)):
        with pytest.raises(
            ValueError, match=r"that can be read.*steps \[2, 3\] are damaged"
        ) as error:
            call(tmp_path)
        assert str(tmp_path) in str(error.value)
    assert steps_in(tmp_path) == [2, 3]


def test_a_training_that_is_refused_deletes_nothing(tmp_path):
    evaluated = {"evaluate": scored([3, 2, 1]), "evaluate_every": 1, "score": "score"}
    fit_idle(tmp_path, **evaluated)
    for step in ("2", "3"):
        cut(tmp_path / step, "*")
    with pytest.raises(ValueError, match="states like the one given"):
        fit_idle(tmp_path, state=training.State.create({"network": KERNEL}, SGD))
    assert steps_in(tmp_path) == [1, 2, 3]
    assert fit_idle(tmp_path, **evaluated).best_step == 1
    assert training.restore(tmp_path, IDLE, best=True).step == 1


def test_it_says_what_it_resumes_from_and_writes_no_row(tmp_path, caplog):
    notes = []
    log = training.CsvLog(tmp_path / "log.csv")
    log_too = lambda step, numbers: None
    log_too.note = lambda step, text: notes.append((step, text))
    options = {"loggers": [log, log_too], "log_every": 1}
    fit_idle(tmp_path / "a", **options)
    assert not notes and not told(caplog)
    table = (tmp_path / "log.csv").read_text()
    fit_idle(tmp_path / "a", **options)
    ((step, text),) = notes
    assert step == 3 and "has nothing left to do after step 3 of 3" in text
    assert str(tmp_path / "a") in text and told(caplog) == [text]
    assert (tmp_path / "log.csv").read_text() == table
    with pytest.raises(ValueError, match="`steps` must be at least 3.*got 2") as error:
        fit_idle(tmp_path / "a", steps=2)
    assert str(tmp_path / "a") in str(error.value)


@pytest.mark.parametrize(
    ("before", "now", "complaint"),
    [
        ({"about": {"lr": 0.1, "loss": "a"}}, {"about": {"lr": 0.2, "loss": "a"}},
         r"about\['lr'\] was 0.1, now 0.2. Give"),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (
            ({"about": {"lr": 0.1}}, {}, r"about\['lr'\] was 0.1, now missing"),
            ({"score": "a"}, {"score": "b"}, "score was 'a', now 'b'"),
            ({"score": "a"}, {"score": "a", "mode": "min"}, "mode was 'max', now 'min'"),
        )),
    ],
    ids=["changed", "missing", "score", "mode"],
)  # fmt: skip
def test_another_recipe_is_refused_unless_it_is_asked_for(before, now, complaint, tmp_path, caplog):
    evaluate = {"evaluate": lambda state: {"a": 1.0, "b": 2.0}}
    run = lambda **options: fit_idle(tmp_path, save_every=1, **evaluate | options)
    run(**before, steps=1)
    run(**before, steps=2)
    with pytest.raises(ValueError, match="must hold the same training.*" + complaint) as error:
        run(**now)
    assert str(tmp_path) in str(error.value) and len(str(error.value)) <= 400 + len(str(tmp_path))
    done = run(**now, allow_changes=True)
    assert re.search("Changed: .*" + complaint.removesuffix(" Give"), told(caplog)[-1])
    assert done.state.step == 3 and done.best_score == {"a": 1, "b": 2}.get(now.get("score"))
    assert run(**now).state.step == 3  # it is the recipe now


def test_another_optimizer_with_the_same_arrays_is_refused(tmp_path):
    adam, adamw = (training.State.create(KERNEL, f(0.1)) for f in (optax.adam, optax.adamw))
    fit_idle(tmp_path, state=adam, steps=1)
    kinds = r"ScaleByAdamState\+EmptyState\+EmptyState'}, got .*'ScaleByAdamState\+EmptyState'}"
    with pytest.raises(ValueError, match=kinds):
        fit_idle(tmp_path, state=adamw)


@pytest.mark.parametrize("about", [{"loss": linear}, ["lr"], {"x": X}])
def test_about_must_be_what_json_can_hold(about):
    with pytest.raises(TypeError, match="`about` must be a dict"):
        fit_idle(None, about=about)


@pytest.mark.parametrize(
    ("batches", "error", "complaint"),
    [
        ([(X, Y)], ValueError, "for each of 6 steps, got a list of 1. Give"),
        ((X, Y), ValueError, "got a tuple of 2"),
        (iter([(X, Y)]), TypeError, "got list_iterator. An iterator cannot resume"),
        ({"x": X}, ValueError, "got dict without batch 0"),
        (lambda i: {"x": X, "y": Y}, ValueError, r"must be \(inputs, labels\), got dict of 2"),
        (lambda i: X, ValueError, r"must be \(inputs, labels\), got .* of 12"),
    ],
)
def test_wrong_batches_are_named(batches, error, complaint):
    with pytest.raises(error, match="^training.*" + complaint):
        fit_small(batches=batches)


# --- fit: loggers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, complaint",
    [
        (Y + 1, r"losses.arcface: `labels` must be from 0 to 2, .* got 3"),
        pytest.param(
            np.asarray(Y, np.int64) << 40, r"losses.arcface: `labels` must fit int32",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_labels_of_the_first_batch_are_checked(labels, complaint):
    step = training.metric_loss_only(linear, mj.objective(mj.losses.arcface), SGD)
    state = training.State.create({"network": KERNEL, "loss": jnp.eye(3, 4)}, SGD)
    with pytest.raises(ValueError, match=complaint):
        training.fit(step, state, lambda i: (X, labels), steps=1)
    padded = lambda params, state, batch, key: (
        mj.reduce(mj.losses.arcface(X @ params, batch["y"], jnp.eye(3, 4), where=batch["real"]))[0],
        ({}, None),
    )
    step, batch = training.make_step(padded, SGD), {"y": Y.at[0].set(-1), "real": np.arange(12) > 0}
    assert training.fit(step, training.State.create(KERNEL, SGD), lambda i: batch, steps=1)


def test_a_table_replaces_later_rows_and_half_rows_and_takes_new_names(tmp_path):
    path = tmp_path / "new" / "log.csv"
    log = training.CsvLog(path)
    for step in (1, 2, 3):
        log(step, {"a": step / 4} | ({"b": 7.0} if step == 2 else {}))
    with open(path, "a") as file:
        file.write("1,0.")  # a half of step 10, say
    log = training.CsvLog(path)
    log(3, {"a": 9.0})
    log.close()
    log(4, {"a": 1.0})
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("1", "0.25", ""), ("2", "0.5", "7.0"), ("3", "9.0", ""), ("4", "1.0", ""),
    ]  # fmt: skip


def events(folder):
    """Of all files in turn: (step, name, value), and ("purge", step)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(Path(folder).iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            if event.HasField("session_log"):
                yield "purge", event.step
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value
            data = data[16 + length :]


def test_scalars_for_tensorboard_hide_what_is_done_again(tmp_path):
    log = training.TensorBoardLog(tmp_path)
    fit_small(steps=2, log_every=1, loggers=[log])
    log(2, {"loss": 0.5})
    log.close()
    log.note(2, "resumes")
    log.close()
    written = list(events(tmp_path))
    assert [x[0] for x in written if x[1] == "loss"] == [1, 2, 2]
    assert [x for x in written if x[0] == "purge"] == [("purge", 1), ("purge", 2), ("purge", 3)]
    assert (2, "loss", 0.5) in written
    assert any(step == 2 and name.startswith("fit") for step, name, *_ in written)


# --- packages and arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("orbax.checkpoint", lambda: fit_small("folder")),
        ("tqdm", lambda: fit_small(progress=True)),
        ("tensorboardX", lambda: training.TensorBoardLog("folder")),
    ],
)
def test_missing_packages_are_named(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"training\..*pip install 'metricjax\[train\]'"):
        call()


@pytest.mark.slow
def test_importing_metricjax_imports_none_of_them():
    check = "import sys, metricjax; print({'orbax', 'tqdm', 'tensorboardX'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "`steps` must be an integer >= 1"),
        ({"save_every": 0}, "`save_every`"),
        ({"patience": -1}, "`patience`"),
        ({"patience": 1}, "`patience` needs `score`"),
        ({"mode": "least"}, "`mode` must be one of 'max', 'min'"),
        ({"score": "a"}, "`score` needs `evaluate`"),
        ({"evaluate": lambda state: {"b": 1.0}, "score": "a"}, "got 'a'; it gives b"),
        ({"step": lambda s, b: (s._replace(step=s.step + 1), {"x": X})}, "'x' of shape"),
    ],
)
def test_wrong_arguments_are_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        fit_small(**options)
