"""Internals that losses, miners and metrics are built on. Users do not import them.

From the bottom up:

- `types`: the values that flow between functions. `check`, `masked`, `refs`: errors, numeric
  guards, the batch.
- `stream`: sums over the steps of a loop, with all derivatives. They are built on `linear` and
  `jax_internals`. `triplets` visits positives in such a loop.
- `sums`, `visits`: what a loss yields, and how it is summed over blocks of references.
- `record`, `declare`: what the library records about a loss, and the driver that computes the loss
  at once or in blocks. `blocks` splits rows into blocks, and `tuning` sets the block sizes.
- `halves`: products of rows in half precision. Distances use them on accelerators.
"""
