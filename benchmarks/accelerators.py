"""Compiles for TPUs and GPUs on a machine that has none, and reads what the programs do.

    python -m benchmarks.accelerators --target v5e
    python -m benchmarks.accelerators --target h100 --only ntxent,arcface --sizes 8192
    python -m benchmarks.accelerators --target v5e --dtypes bfloat16 --features 1024 --sizes 4096

Nothing is run. Microseconds are libtpu's own estimate of each instruction, times how often it runs:
a model, not a clock. It ranks programs and shows why one is slow. XLA gives no estimate for GPUs;
there it is kernels and bytes that are counted. A TPU needs ``pip install 'jax[tpu]'``, a GPU
``pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt`` of JAX's version. With ``--out`` rows
join those that the file already has, and a run that was stopped resumes.
"""

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever this machine has, nothing is run
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # of a driver that is not there
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several processes may compile at once
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the rest keeps libtpu quiet
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

import metricjax as mj
from benchmarks._harness import (
    Parser,
    check_environment,
    environment,
    installed,
    integer,
    integers,
    json_file,
    names,
    one_line,
    print_table,
    read_rows,
    write_json,
)
from benchmarks._hlo import summary
from benchmarks._peers import NO_PRODUCTS
from benchmarks.losses import CASES, FEATURES, PROXIES, our_step
from metricjax._core.types import TripletRule

import miner_cases  # isort: skip  # the folder is known from losses on

CLASSES = 10_000
POSITIVES = 4
"""How often a loop over positives is taken to run: with four samples a class."""
KEYS = ("target", "what", "dtype", "n", "features")

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 patch: 0 }
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_core_limit: 2048 threads_per_warp: 32
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
"""


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes:
        platform: as `metricjax.for_platform` calls it.
        needs: the packages that compile for it.
        topology: keyword arguments of `get_topology_desc`, of four chips where it has a choice.
        clock: cycles a microsecond; ``None`` where cycles are not estimated.
        flops: of a bfloat16 product, each second. A product at full float32 precision takes six.
        bandwidth: bytes to and from memory, each second.
    """

    platform: str
    needs: tuple[str, ...]
    topology: dict[str, Any]
    clock: float | None
    flops: float
    bandwidth: float

    def devices(self):
        return topologies.get_topology_desc(**self.topology).devices


TPU = {"platform": "tpu", "needs": ("libtpu",)}
CUDA = {"platform": "cuda", "target_config": H100, "topology": "1x1x1"}
TARGETS = {
    "v5e": Target(
        topology={"platform": "tpu", "topology_name": "v5e:2x2"},
        clock=1500, flops=197e12, bandwidth=819e9, **TPU,
    ),
    "v6e": Target(
        topology={"platform": "tpu", "topology_name": "v6e:2x2"},
        clock=1750, flops=918e12, bandwidth=1640e9, **TPU,
    ),
    "h100": Target(
        "gpu", ("jax-cuda12-plugin", "jax-cuda12-pjrt"), CUDA, None, 989e12, 3352e9
    ),
}  # fmt: skip


class Chips:
    """Arguments of programs for a target: shapes, and how they lie on its chips."""

    def __init__(self, target, count=None):
        devices = np.array(target.devices()[:count])
        self.count = len(devices)
        self.mesh = Mesh(devices, ("batch",), axis_types=(AxisType.Auto,))

    def array(self, shape, dtype="float32", spec=jax.P()):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))

    def like(self, tree):
        return jax.tree.map(lambda x: self.array(x.shape, x.dtype), tree)


# --- what is compiled: of ``(chips, n, dtype, features)`` a function, its arguments, and how many
# pairs of rows it has to multiply


def batch(chips, n, dtype, features, spec=jax.P()):
    return chips.array((n, features), dtype, spec), chips.array((n,), "int32", spec)


def loss(name):
    case = CASES[name]

    def make(chips, n, dtype, features):
        classes = (PROXIES if name == "manifold" else CLASSES) * case.centers
        params = [chips.array((classes, features), dtype)] if classes else []
        products = 0 if name in NO_PRODUCTS else 3 * n * (classes or n)
        return our_step(case.fn), (*batch(chips, n, dtype, features), *params), products

    return make


def miner(case):
    def mined(x, y):
        return case(x, y, key=jax.random.key(0))

    def by_a_loss(x, y):  # a rule is never listed
        return mj.reduce(mj.losses.triplet_margin(x, y, mined=mined(x, y)))[0]

    mine = by_a_loss if case.form is TripletRule else mined
    return lambda chips, n, *of: (mine, batch(chips, n, *of), n * n)


def knn(chips, n, dtype, features):
    references = chips.array((100_000, features), dtype)
    find = lambda x, y: mj.evaluation.knn(x, y, 10)
    return find, (batch(chips, n, dtype, features)[0], references), n * 100_000


def memory(chips, n, dtype, features):
    rows = 65_536
    bank = jax.eval_shape(lambda: mj.memory.MemoryBank.create(rows, features, dtype=dtype))

    def step(bank, x, y):
        total = lambda x: mj.reduce(mj.losses.contrastive(x, y, refs=bank.refs(x, y)))[0]
        return jax.value_and_grad(total)(x), bank.enqueue(x, y)

    args = chips.like(bank), *batch(chips, n, dtype, features)
    return step, args, 2 * n * (n + rows) + n * n


OVER = jax.P("batch")


def on_mesh(name):
    """`jit` over a mesh: the loss sees the whole batch."""

    def make(chips, n, dtype, features):
        step = our_step(getattr(mj.losses, name))
        return step, batch(chips, n, dtype, features, OVER), 3 * n * n // chips.count

    return make


def mapped(recipe, classes=0):
    """`jax.shard_map`: each chip has its part of the batch, and of the classes."""

    def make(chips, n, dtype, features):
        weights = [chips.array((classes, features), dtype, OVER)] if classes else []
        args = *batch(chips, n, dtype, features, OVER), *weights
        local = jax.shard_map(recipe, mesh=chips.mesh, in_specs=OVER, out_specs=jax.P())
        step = jax.value_and_grad(local, (0, 2) if classes else 0)
        return step, args, 3 * n * (classes or n) // chips.count

    return make


def recipe(name, **options):
    fn = mj.objective(getattr(mj.losses, name), axis_name="batch", **options)
    return lambda *args: fn(*args)[0]


def around(x, y):
    terms = mj.ring(mj.losses.ntxent)(x, y, axis_name="batch")
    return mj.reduce(terms, axis_name="batch")[0]


LAYOUTS = {
    "jit over a mesh: ntxent": on_mesh("ntxent"),
    "jit over a mesh: triplet_margin": on_mesh("triplet_margin"),
    "gather_refs: ntxent": mapped(recipe("ntxent")),
    "gather_refs: triplet_margin": mapped(recipe("triplet_margin")),
    "axis_name: sup_con": mapped(recipe("sup_con")),
    "ring: ntxent": mapped(around),
    "class_axis: arcface": mapped(recipe("arcface", class_axis="batch"), 2**20),
}
JOBS = {
    **{name: loss(name) for name in CASES},
    **{f"miners.{case}": miner(case) for case in miner_cases.CASES},
    "knn": knn,
    "MemoryBank": memory,
    **LAYOUTS,
}


def compiled(target, what, n, dtype="float32", features=FEATURES, show=0):
    """The row of a program: what the compiler says of it. Prints its costliest instructions."""
    chips = Chips(target, None if what in LAYOUTS else 1)
    step, args, products = JOBS[what](chips, n, dtype, features)
    start = time.process_time()
    with mj.for_platform(target.platform):
        donate = (0,) if what == "MemoryBank" else ()
        program = jax.jit(step, donate_argnums=donate).lower(*args).compile()
    memory = program.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    passes = 6 if dtype == "float32" else 1
    row = summary(program.as_text(), POSITIVES) | {
        "temporaries": memory.temp_size_in_bytes,
        "ideal_us": 1e6
        * max(2 * products * features * passes / target.flops, moved / target.bandwidth),
        "compile_s": time.process_time() - start,
    }
    cycles, top = row.pop("cycles"), row.pop("top")
    for cost, traffic, instruction in top[:show]:
        print(f"    {cost:9} cycles {traffic / 2**20:8.1f} MiB  {instruction}")
    if target.clock:
        row["us"] = cycles / target.clock
        row["ratio"] = row["us"] / row["ideal_us"]
    return row


def main():
    parser = Parser(prog="python -m benchmarks.accelerators")
    parser.add_argument("--target", choices=TARGETS, default="v5e")
    parser.add_argument("--only", type=names(JOBS), default=list(JOBS))
    parser.add_argument("--sizes", type=integers(1), default=[1024])
    parser.add_argument("--dtypes", type=names(("float32", "bfloat16")), default=["float32"])
    parser.add_argument("--features", type=integer(1), default=FEATURES)
    parser.add_argument("--top", type=integer(0), default=0, help="how many instructions to show")
    parser.add_argument("--out", type=json_file)
    flags = parser.parse_args()
    target = TARGETS[flags.target]
    if not installed(*target.needs):
        sys.exit(f"{flags.target} needs {' and '.join(target.needs)}, which are not installed.")
    about = environment(*target.needs)
    if flags.out:
        check_environment(flags.out, about)
    done = {tuple(row[key] for key in KEYS) for row in read_rows(flags.out)}
    rows = []
    for dtype in flags.dtypes:
        for n in flags.sizes:
            for what in flags.only:
                key = flags.target, what, dtype, n, flags.features
                if key in done:
                    continue
                row = dict(zip(KEYS, key, strict=True))
                try:
                    row |= compiled(target, what, n, dtype, flags.features, flags.top)
                except Exception as error:
                    row["skipped"] = one_line(error)
                rows.append(row)
                print(_line(row), flush=True)
                if flags.out:
                    write_json(flags.out, about, [row], KEYS)
    if rows:
        print_table([_cells(row) for row in rows])


def _line(row):
    return "  ".join(f"{key} {value}" for key, value in _cells(row).items() if value)


def _cells(row):
    mib = lambda name: f"{row[name] / 2**20:.1f}" if name in row else ""
    number = lambda name: f"{row[name]:.1f}" if name in row else ""
    told = lambda name: ", ".join(f"{k} {v}" for k, v in (row.get(name) or {}).items())
    return {
        "what": row["what"],
        "N": str(row["n"]),
        "dtype": row["dtype"],
        "us": number("us"),
        "ideal": number("ideal_us"),
        "ratio": number("ratio"),
        "kernels": str(row.get("kernels", "")),
        "traffic MiB": mib("traffic"),
        "temp MiB": mib("temporaries"),
        "loops": ",".join("?" if k is None else str(k) for k in row.get("loops", ())),
        "collectives": told("collectives"),
        "in loops": told("in_loops"),
        "padding": row.get("padding") or "",
        "skipped": row.get("skipped", ""),
    }


if __name__ == "__main__":
    main()
