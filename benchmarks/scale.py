"""Times and memory, forward and backward, of very many classes and of very large batches.

    python -m benchmarks.scale
    python -m benchmarks.scale --classes 10000,100000 --losses arcface,proxy_nca --out scale.json

Rows of classes compare with all similarities at once; the row of `embed_in_chunks` with the whole
batch at once, a transformer's. Memory is that of the temporaries, by XLA's own analysis; the peak
of a whole process is measured for arcface with a million classes.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
from flax import linen

import metricjax as mj
from benchmarks._harness import (
    Parser,
    compiled,
    environment,
    integer,
    integers,
    interleaved,
    json_file,
    names,
    print_table,
    quartiles,
    write_json,
)
from benchmarks.losses import CASES, CLASS_SIZE, bound, make_batch, our_step
from metricjax.losses import _class_blocks

CLASS_LOSSES = [name for name, case in CASES.items() if case.takes("class_axis")]
MILLION = """
import resource, jax, jax.numpy as jnp, metricjax as mj
e = jax.random.normal(jax.random.key(0), (256, 64))
w = jax.random.normal(jax.random.key(1), (1_000_000, 64))
total = lambda e, w: mj.reduce(mj.losses.arcface(e, jnp.arange(256), w))[0]
jax.block_until_ready(jax.jit(jax.value_and_grad(total, (0, 1)))(e, w))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Encoder(linen.Module):
    """A transformer of two layers over sequences ``[N, 16, 64]``."""

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            y = linen.LayerNorm()(x)
            x += linen.MultiHeadDotProductAttention(4)(y, y)
            x += linen.Dense(64)(linen.gelu(linen.Dense(256)(linen.LayerNorm()(x))))
        return jnp.mean(x, 1)


def compared(what, n, blocks, whole, args, rounds):
    """One row: what is in blocks against what is done at once."""
    made = {name: compiled(step, *args) for name, step in (("blocks", blocks), ("whole", whole))}
    times = interleaved({name: bound(run, args) for name, (run, _, _) in made.items()}, rounds)
    return {"what": what, "n": n} | {
        f"{name}_{unit}": value
        for name, (_, _, temporaries) in made.items()
        for unit, value in (
            ("ms", 1e3 * quartiles(times[name])[1]),
            ("temp_mib", temporaries / 2**20),
        )
    }


def of_classes(name, classes, rounds):
    """A loss with its classes in blocks, and in one."""
    args = [jnp.asarray(array) for array in make_batch(name, CLASS_SIZE, classes)]

    def at_once(*args):
        block, _class_blocks.BLOCK_ELEMENTS = _class_blocks.BLOCK_ELEMENTS, sys.maxsize
        try:
            return our_step(CASES[name].fn)(*args)
        finally:
            _class_blocks.BLOCK_ELEMENTS = block

    row = compared(name, CLASS_SIZE, our_step(CASES[name].fn), at_once, args, rounds)
    return row | {"m": classes}


def of_embedding(n, chunk, rounds):
    """A transformer in chunks, and at once."""
    model = Encoder()
    x = jax.random.normal(jax.random.key(0), (n, 16, 64))
    params = model.init(jax.random.key(1), x[:1])

    def step(embed):
        total = lambda p, x: mj.reduce(mj.losses.contrastive(embed(p, x), jnp.arange(n) // 4))[0]
        return jax.value_and_grad(total)

    chunked = step(lambda p, x: mj.embed_in_chunks(model.apply, p, x, chunk))
    return compared("embed_in_chunks", n, chunked, step(model.apply), (params, x), rounds) | {
        "m": chunk
    }


def cells(row):
    return {
        "what": row["what"],
        "N": str(row["n"]),
        "C or chunk": str(row["m"]),
        "ms": f"{row['blocks_ms']:.0f}",
        "at once": f"{row['whole_ms']:.0f}",
        "temp MiB": f"{row['blocks_temp_mib']:.0f}",
        "at once ": f"{row['whole_temp_mib']:.0f}",
    }


def parse(argv):
    parser = Parser("benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=names(CLASS_LOSSES), default=["arcface"])
    parser.add_argument("--classes", type=integers(1), default=[100000], help="default: 100000")
    parser.add_argument("--batch", type=integer(1), default=4096, help="to embed; default: 4096")
    parser.add_argument("--chunk", type=integer(1), default=256, help="of it; default: 256")
    parser.add_argument("--rounds", type=integer(1), default=5, help="default: 5")
    parser.add_argument("--out", type=json_file, help="writes the rows to this .json file, too")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    rows = [of_classes(name, c, args.rounds) for name in args.losses for c in args.classes]
    rows.append(of_embedding(args.batch, args.chunk, args.rounds))
    print_table([cells(row) for row in rows])
    out = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True
    )
    gib = int(out.stdout) / 2**20
    print(f"arcface, N=256, C=1,000,000, D=64: the peak memory of the process is {gib:.2f} GiB")
    if args.out:
        rows.append({"what": "arcface", "n": 256, "m": 10**6, "peak_gib": gib})
        write_json(args.out, environment("flax"), rows)


if __name__ == "__main__":
    main()
