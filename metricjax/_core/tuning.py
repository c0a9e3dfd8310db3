"""How large blocks are, by platform: every number that was tuned on a machine, and why.

A CPU is quick while a block stays in its caches, so its blocks are small. An accelerator pays about
a microsecond for each operation of each block, so its blocks are as large as memory allows.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """The sizes of blocks on one kind of machine.

    Attributes:
        dense_pairs: a loss of fewer (anchor, reference) pairs is computed at once.
        chunk_pairs: a block of anchors of a larger one has so many pairs,
        chunk_rows: but at least so many anchors: products of few rows are slow.
        ref_pairs: where that is more pairs than this, references come in blocks, too,
        ref_chunk: and a block is of so many anchors and so many references.
        class_block: a block of classes has at most so many similarities.
        class_kept: up to so many are one block, and kept for the backward pass.
    """

    dense_pairs: int
    chunk_pairs: int
    chunk_rows: int
    ref_pairs: int
    ref_chunk: tuple[int, int]
    class_block: int
    class_kept: int


CPU = BlockSizes(
    # Two cores, N = 2,048, D = 128, value and gradient: multi_similarity 41 ms at once, 25 in
    # blocks; ntxent 50 and 33. At N = 512 blocks gain nothing.
    dense_pairs=2**20,
    # Blocks of 2^20 pairs take as long and twice the memory: ntxent 36 MiB, 19 with these.
    chunk_pairs=2**19,
    chunk_rows=128,
    ref_pairs=2**25,  # 128 MiB for each array of pairs
    ref_chunk=(1024, 4096),
    class_block=2**21,
    # A call that needs more than about 32 MiB gets fresh memory from the system each time, which
    # takes longer than to compute blocks again.
    class_kept=3 * 2**21,
)

ACCELERATOR = BlockSizes(
    # An H200, value and gradient, at once and in blocks of 256 and 1,024 anchors: N = 2,048, ntxent
    # 0.15 ms, 0.43, 0.31, triplet_margin 0.7, 6.0, 1.8 (the three products alone 0.14). N = 8,192,
    # at once and in blocks of 1,024 and 4,096: ntxent 1.9, 2.4, 2.1, contrastive 1.8, 3.1, 2.3.
    # N = 16,384, at once and in blocks of 1,024 and 2,048: contrastive 6.8, 9.8, 8.9; at once takes
    # 2.5 GiB, 7 times as much as blocks of 2,048. The TPU's compiler estimates the same order.
    dense_pairs=2**27,
    chunk_pairs=2**25,
    chunk_rows=1024,
    ref_pairs=2**27,
    ref_chunk=(2048, 16384),
    class_block=2**25,
    class_kept=2**26,
)


def block_sizes() -> BlockSizes:
    """Those of JAX's default backend."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR
