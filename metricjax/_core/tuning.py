"""The sizes of blocks by platform: every number that was tuned on a machine, and why.

A CPU is fast while a block stays in its caches, so its blocks are small. An accelerator needs about
a microsecond for each operation of each block, so its blocks are as large as memory allows.
"""

import contextlib
import contextvars
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
from jax.sharding import AxisType

Platform = Literal["cpu", "gpu", "tpu"]
PLATFORMS = ", ".join(get_args(Platform))


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """The sizes of blocks on one kind of machine.

    Attributes:
        dense_pairs: a loss with fewer (anchor, reference) pairs is computed at once.
        chunk_pairs: a block of anchors of a larger loss has this many pairs.
        chunk_rows: such a block has at least this many anchors: products of few rows are slow.
        ref_pairs: if such a block has more pairs than this, references are also split into blocks.
        ref_chunk: a block then has this many anchors and this many references.
        class_block: a block of classes has at most this many similarities.
        class_kept: up to this many similarities are one block, and kept for the backward pass.
        search: a search compares this many queries and this many references at a time.
        share: whether k devices that share the pairs of a loss compute k times as many at once.
        half_features: from this many features on, rows in half precision are multiplied as they
            are; see `halves`.
        half_precision: the precision of the products in their gradient.
    """

    dense_pairs: int
    chunk_pairs: int
    chunk_rows: int
    ref_pairs: int
    ref_chunk: tuple[int, int]
    class_block: int
    class_kept: int
    search: tuple[int, int]
    share: bool
    half_features: float = math.inf
    half_precision: jax.lax.Precision = jax.lax.Precision.HIGHEST


CPU = BlockSizes(
    # Two cores, N = 2,048, D = 128, value and gradient: multi_similarity takes 41 ms at once, and
    # 25 ms in blocks; ntxent takes 50 ms and 33 ms. At N = 512 blocks gain nothing.
    dense_pairs=2**20,
    # Blocks of 2^20 pairs take as long, and twice the memory: ntxent takes 36 MiB, 19 with these.
    chunk_pairs=2**19,
    chunk_rows=128,
    ref_pairs=2**25,  # 128 MiB for each array of pairs
    ref_chunk=(1024, 4096),
    class_block=2**21,
    # A call that needs more than about 32 MiB gets fresh memory from the system each time. That
    # takes longer than computing blocks again.
    class_kept=3 * 2**21,
    search=(256, 2**16),
    share=False,  # each device has its own caches
)

GPU = BlockSizes(
    # Measured on an H200, value and gradient, in ms: at once, in small blocks, in larger blocks.
    # N = 2,048, blocks of 256 and of 1,024 anchors: ntxent 0.15, 0.43, 0.31; triplet_margin 0.7,
    # 6.0, 1.8 (the three products alone take 0.14). N = 8,192, blocks of 1,024 and of 4,096: ntxent
    # 1.9, 2.4, 2.1; contrastive 1.8, 3.1, 2.3. N = 16,384, blocks of 1,024 and of 2,048:
    # contrastive 6.8, 9.8, 8.9. At N = 16,384, at once takes 2.5 GiB, 7 times as much as blocks of
    # 2,048. The TPU's compiler estimates the same order.
    dense_pairs=2**27,
    chunk_pairs=2**25,
    chunk_rows=1024,
    ref_pairs=2**27,
    ref_chunk=(2048, 16384),
    # 2,048 samples and 100,000 classes take 8.1 ms in blocks of 2^25, and 4.9 ms in one block. So
    # the limit is the one for pairs.
    class_block=2**27,
    class_kept=2**27,
    # 1,024 queries and 100,000 references take 2.0 ms with the blocks of a CPU, and 1.3 ms with
    # these. 10,000 queries and a million references take 178 ms, and 116 ms with twice the
    # references in a block.
    search=(1024, 2**17),
    share=True,  # in a loop over blocks, devices would exchange numbers in every step
    # Not measured on a GPU. By a GPU's rates, one of the three products then costs nothing.
    half_features=256,
)

# By libtpu's estimate for a v5e, N = 4,096, D = 1,024: ntxent takes 3.9 ms in float32, and 1.9 ms
# in bfloat16. One factor of each product has the digits of bfloat16, so three passes lose nothing.
TPU = dataclasses.replace(GPU, half_precision=jax.lax.Precision.HIGH)


_chosen: contextvars.ContextVar[Platform | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def for_platform(name: Platform) -> Iterator[None]:
    """Gives programs that are traced inside the block sizes of another platform.

    Use it for programs that are compiled here and run elsewhere, for example with `jax.export`. The
    environment variable ``METRICJAX_PLATFORM`` does the same for a whole process. Values do not
    change, but speed and memory do. A function that `jax.jit` has traced before stays as it is.

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj
        >>> loss = jax.jit(lambda x, y: mj.reduce(mj.losses.ntxent(x, y))[0])
        >>> with mj.for_platform("tpu"):
        ...     exported = jax.export.export(loss, platforms=["tpu"])(jnp.eye(4), jnp.arange(4))

    Args:
        name: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
    """
    if name not in get_args(Platform):
        raise ValueError(f"for_platform: `name` must be one of {PLATFORMS}, got {name!r}.")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def block_sizes() -> BlockSizes:
    """Returns the block sizes of the chosen platform, or of JAX's default device."""
    name: Any = _chosen.get() or os.environ.get("METRICJAX_PLATFORM")
    if not name:
        device = getattr(jax.config, "jax_default_device", None)  # or a platform's name
        name = getattr(device, "platform", device) or jax.default_backend()
    elif name not in get_args(Platform):
        raise ValueError(f"`METRICJAX_PLATFORM` must be one of {PLATFORMS}, got {name!r}.")
    return CPU if name == "cpu" else TPU if name == "tpu" else GPU


def pairs_at_once() -> int:
    """Returns how many pairs are computed at once. Devices that share pairs can compute more."""
    sizes, devices = block_sizes(), 1
    if sizes.share:  # over the devices of a mesh, except along axes where each has its own part
        mesh = jax.sharding.get_abstract_mesh()
        kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
        devices = math.prod(count for count, kind in kinds if kind != AxisType.Manual)
    return sizes.dense_pairs * devices


def block_rows(n: int, m: int) -> int:
    """Returns how many of n anchors a block has, if each anchor meets m references."""
    sizes = block_sizes()
    return min(n, max(sizes.chunk_rows, sizes.chunk_pairs // m))
