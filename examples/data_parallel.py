"""Eight devices: one batch spread over all of them, the loss and gradient of one device.

    python -m examples.data_parallel

On a machine with a single CPU, JAX makes eight devices of it, so that this runs anywhere; on eight
GPUs it is the same code. The classes are numbers of two digits, and a batch has two samples of each
of 32: a device gets four classes, and if it compared only those it would see few negatives. That is
trained too, to show what gathering is for.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import metricjax as mj
from examples import _shared


def init(key):
    """A network in plain JAX: two matrices."""
    keys, scaled = jax.random.split(key), jax.nn.initializers.he_normal()
    return {"in": scaled(keys[0], (8 * 16, 256)), "out": scaled(keys[1], (256, 64))}


def embed(params, images):
    return jax.nn.relu(images.reshape(len(images), -1) @ params["in"]) @ params["out"]


# Naming the axis is all it takes: `objective` gathers the references, and sums before it divides.
recipe = mj.objective(mj.losses.ntxent, axis_name="batch")


def everyone(params, images, labels):
    """What each device does with its part of the batch: compare it with all parts."""
    return recipe(embed(params, images), labels)[0]


def alone(params, images, labels):
    """What it would do without: a loss of its own part, and then the mean of the devices."""
    return jax.lax.pmean(one_device(params, images, labels), "batch")


def one_device(params, images, labels):
    return mj.reduce(mj.losses.ntxent(embed(params, images), labels))[0]


def train(loss, batches):
    """The losses of all steps, and the parameters after them."""
    adam = optax.adam(1e-3)

    @jax.jit
    def step(params, state, images, labels):
        value, grads = jax.value_and_grad(loss)(params, images, labels)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    params, losses = init(jax.random.key(0)), []
    state = adam.init(params)
    for images, labels in batches:
        params, state, value = step(params, state, images, labels)
        losses.append(float(value))
    return losses, params


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=150, argv=argv)
    (images, labels), (new_images, new_labels) = _shared.load_numbers()
    sampler = mj.samplers.Batches(
        mj.samplers.m_per_class, labels, m=2, batch_size=64, seed=0, steps=options.steps
    )
    batches = [(images[rows], labels[rows]) for rows in sampler]

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(jax.P(), jax.P("batch"), jax.P("batch")),
        out_specs=jax.P(),
    )  # fmt: skip
    ways = {
        "one device": one_device,
        "eight devices": spread(everyone),
        "eight devices, each alone": spread(alone),
    }
    start = init(jax.random.key(0))
    losses, scores = {}, {"untrained": _shared.map_at_r(embed(start, new_images), new_labels)}
    for name, loss in ways.items():
        losses[name], params = train(loss, batches)
        scores[name] = _shared.map_at_r(jax.jit(embed)(params, new_images), new_labels)

    grads = [jax.jit(jax.grad(ways[name]))(start, *batches[0]) for name in list(ways)[:2]]
    apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *grads)
    print(f"largest difference of a gradient: {max(jax.tree.leaves(apart)):.1e}")

    picture = Figure((7, 4), layout="constrained")
    axes = picture.subplots()
    styles = ("-", 5, "0.75"), ("--", 1.5, mj.pictures.BLUE), ("-", 1.5, mj.pictures.ORANGE)
    for (name, values), (line, width, color) in zip(losses.items(), styles, strict=True):
        label = f"{name}: MAP@R {scores[name]:.2f} at the end"
        axes.plot(values, line, linewidth=width, color=color, label=label)
    axes.set(title="The loss of every step", xlabel="step", ylabel="NT-Xent loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _shared.finish(
        "MAP@R on numbers that were never trained on", scores, picture,
        options.out / "data_parallel.png",
    )  # fmt: skip


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)  # before anything else is done with JAX
    main()
