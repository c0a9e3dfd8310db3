"""Large batches, many classes, many devices, forward and backward: time and memory of each tool.

    python -m benchmarks.scale
    python -m benchmarks.scale --parts classes,chunks --rounds 2 --out scale.json

Memory is that of the temporaries, by XLA's own analysis; `huge` and `million` run in a process of
their own, whose peak is measured. A `dense` loss is only compiled where it would not fit. Devices
are made of one CPU, so their times say little. With ``--out`` rows join those of the file.
"""

import dataclasses
import json
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen

import metricjax as mj
from benchmarks._harness import (
    Parser,
    bound,
    check_environment,
    compared,
    compiled,
    environment,
    in_own_process,
    integer,
    json_file,
    memory,
    names,
    print_table,
    write_json,
)
from benchmarks.losses import CASES, CLASS_SIZE, make_batch, our_step
from metricjax._core import tuning

FEATURES = 64
CHUNK = 256
LARGE_BATCH, LARGE_BOUND = 16384, 128
"""The bound is that of temporaries in MiB."""
LARGE = ("ntxent", "sup_con", "multi_similarity", "triplet_margin")
IN_PASSES = (
    "dynamic_soft_margin", "histogram", "intra_pair_variance", "lifted_structure", "sup_con",
    "threshold_consistent_margin",
)  # fmt: skip
MIDDLE_BATCH = 4096
HUGE_BATCH, HUGE_CHUNK = 65536, 16
PEAK_BOUND = 2048
"""MiB, of a process."""
CLASSES = (10_000, 100_000)
DEVICES = (1, 2, 4, 8)
KEYS = ("part", "what", "n", "m", "how")


class Encoder(linen.Module):
    """A transformer of two layers over sequences ``[N, 16, 64]``."""

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            y = linen.LayerNorm()(x)
            x += linen.MultiHeadDotProductAttention(4)(y, y)
            x += linen.Dense(64)(linen.gelu(linen.Dense(256)(linen.LayerNorm()(x))))
        return jnp.mean(x, 1)


AT_ONCE = dataclasses.replace(tuning.CPU, dense_pairs=sys.maxsize, class_block=sys.maxsize)


def at_once(fn):
    """A step without blocks that come by themselves."""

    def step(*args):
        with mock.patch.multiple(tuning, CPU=AT_ONCE, GPU=AT_ONCE, TPU=AT_ONCE):
            return our_step(fn)(*args)

    return step


def measured(key, ways, args, rounds, only_compiled=()):
    """A row for each way to do the same."""
    made = {how: compiled(step, *args) for how, step in ways.items()}
    runs = {how: bound(run, args) for how, (run, *_) in made.items() if how not in only_compiled}
    found, _ = compared(runs, rounds)
    return [
        key | {"how": how, "temp_mib": temporaries / 2**20} | found.get(how, {})
        for how, (*_, temporaries) in made.items()
    ]


def batch_of(name, n, classes=None):
    return [jnp.asarray(array) for array in make_batch(name, n, classes, FEATURES)]


def large(rounds, n=LARGE_BATCH):
    """A batch whose pairs do not fit."""
    for name in LARGE:
        fn = CASES[name].fn
        ways = {
            f"chunked({CHUNK})": our_step(mj.chunked(fn, CHUNK)),
            "as it is": our_step(fn),
            "dense": at_once(fn),
        }
        key = {"part": "large", "what": name, "n": n, "m": n}
        for row in measured(key, ways, batch_of(name, n), rounds, ["dense"]):
            yield row | ({"bound_mib": LARGE_BOUND} if row["how"].startswith("chunked") else {})


def passes(rounds, n=MIDDLE_BATCH):
    """Losses that go over the batch twice."""
    for name in IN_PASSES:
        fn = CASES[name].fn
        ways = {f"chunked({CHUNK})": our_step(mj.chunked(fn, CHUNK)), "dense": at_once(fn)}
        key = {"part": "passes", "what": name, "n": n, "m": n}
        yield from measured(key, ways, batch_of(name, n), rounds)


def chunks(rounds, n=MIDDLE_BATCH):
    """The size of a chunk."""
    fn = CASES["ntxent"].fn
    sizes = [size for size in (16, 64, 256, 1024) if size < n]
    ways = {f"chunked({size})": our_step(mj.chunked(fn, size)) for size in sizes}
    ways |= {"as it is": our_step(fn), "dense": at_once(fn)}
    key = {"part": "chunks", "what": "ntxent", "n": n, "m": n}
    yield from measured(key, ways, batch_of("ntxent", n), rounds)


def classes(rounds):
    """Classes in blocks, and all at once."""
    for c in CLASSES:
        fn = CASES["arcface"].fn
        ways = {"as it is": our_step(fn), "dense": at_once(fn)}
        key = {"part": "classes", "what": "arcface", "n": CLASS_SIZE, "m": c}
        yield from measured(key, ways, batch_of("arcface", CLASS_SIZE, c), rounds)


def embedding(rounds, n=MIDDLE_BATCH, chunk=CHUNK):
    """A transformer in chunks, and at once."""
    model = Encoder()
    x = jax.random.normal(jax.random.key(0), (n, 16, FEATURES))
    params = model.init(jax.random.key(1), x[:1])

    def step(embed):
        total = lambda p, x: mj.reduce(mj.losses.contrastive(embed(p, x), jnp.arange(n) // 4))[0]
        return jax.value_and_grad(total)

    in_chunks = step(lambda p, x: mj.embed_in_chunks(model.apply, p, x, chunk))
    ways = {f"embed_in_chunks({chunk})": in_chunks, "whole batch": step(model.apply)}
    key = {"part": "embedding", "what": "transformer", "n": n, "m": n}
    yield from measured(key, ways, (params, x), rounds)


def devices(rounds, n=MIDDLE_BATCH):
    """The same batch over more and more devices, each number of them in a process of its own."""
    for count in DEVICES:
        flags = ("--own", "spread", "--count", count, "--batch", n, "--rounds", rounds)
        yield from in_own_process("scale", *flags)


def spread(rounds, n, count):
    """On that many devices: one view of the whole, references gathered, references in a ring."""
    jax.config.update("jax_num_cpu_devices", count)
    mesh = jax.make_mesh((count,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = mj.losses.ntxent

    def gathered(x, y):
        refs = mj.gather_refs(x, y, "batch")
        return mj.reduce(loss(x, y, refs=refs), axis_name="batch")[0]

    def around(x, y):
        return mj.reduce(mj.ring(loss)(x, y, axis_name="batch"), axis_name="batch")[0]

    each = lambda local: jax.value_and_grad(
        jax.shard_map(local, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P())
    )
    ways = {"jit": our_step(loss), "gather_refs": each(gathered), "ring": each(around)}
    sharding = jax.sharding.NamedSharding(mesh, jax.P("batch"))
    args = jax.device_put(batch_of("ntxent", n), sharding)
    return measured({"part": "devices", "what": "ntxent", "n": n, "m": count}, ways, args, rounds)


def huge(rounds, n=HUGE_BATCH):
    """A batch that is far too large, in a process of its own."""
    yield in_own_process("scale", "--own", "huge", "--batch", n)


def million(rounds):
    """A million classes, in a process of their own."""
    yield in_own_process("scale", "--own", "million", "--batch", 256, "--count", 1_000_000)


def alone(name, n, count):
    """A single step, and the peak memory of this process."""
    if name == "huge":
        x, y = jax.random.normal(jax.random.key(0), (n, FEATURES)), jnp.arange(n) // 4
        step, args = our_step(mj.chunked(mj.losses.ntxent, HUGE_CHUNK)), (x, y)
        row = {"what": "ntxent", "n": n, "m": n, "how": f"chunked({HUGE_CHUNK})"}
    else:
        shapes = ((n, FEATURES), (count, FEATURES))
        x, w = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
        step, args = our_step(mj.losses.arcface), (x, jnp.arange(n) % count, w)
        row = {"what": "arcface", "n": n, "m": count, "how": "as it is"}
    run, _, temporaries = compiled(step, *args)
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return {
        "part": name,
        **row,
        "ms": 1e3 * (time.perf_counter() - start),
        "rounds": 1,
        "temp_mib": temporaries / 2**20,
        "process_mib": memory("VmHWM"),
        "process_bound_mib": PEAK_BOUND,
    }


PARTS = {
    part.__name__: part
    for part in (large, huge, passes, chunks, devices, classes, million, embedding)
}


def cells(row):
    shown = lambda key: f"{row[key]:.0f}" if key in row else "-"
    return {
        "part": row["part"],
        "what": row["what"],
        "N": str(row["n"]),
        "M": str(row["m"]),
        "how": row["how"],
        "ms": shown("ms"),
        "temp MiB": f"{row['temp_mib']:.1f}",
        "bound": shown("bound_mib"),
        "process MiB": shown("process_mib"),
        "bound ": shown("process_bound_mib"),
    }


def parse(argv):
    parser = Parser("benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=names(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--rounds", type=integer(1), default=3, help="default: 3")
    parser.add_argument("--out", type=json_file, help="puts the rows into this .json file, too")
    parser.add_argument("--batch", type=integer(1), help="of some parts, instead of their own")
    parser.add_argument("--count", type=integer(1), help="of the devices or classes of --own")
    parser.add_argument("--own", choices=("spread", "huge", "million"), help="as JSON, here")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.own == "spread":
        print(json.dumps(spread(args.rounds, args.batch, args.count)))
        return
    if args.own:
        print(json.dumps(alone(args.own, args.batch, args.count)))
        return
    about = environment("flax")
    if args.out:
        check_environment(args.out, about)
    rows = []
    for part in args.parts:
        sizes = [args.batch] if args.batch and part not in ("classes", "million") else []
        for row in PARTS[part](args.rounds, *sizes):
            rows.append(row)
            print(" ".join(cells(row).values()), file=sys.stderr, flush=True)
            if args.out:
                write_json(args.out, about, [row], KEYS)
    print_table([cells(row) for row in rows])


if __name__ == "__main__":
    main()
