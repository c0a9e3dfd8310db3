"""What losses, miners and metrics are built on, and users do not import.

From the bottom up:

- `types`: the values that flow. `check`, `masked`, `refs`: errors, numeric guards, the batch.
- `stream`: sums over the steps of a loop, which have all derivatives; built on `linear` and
  `jax_internals`. `triplets` visits positives in such a loop.
- `sums`, `visits`: what a loss yields, and how it is summed over blocks of references.
- `record`, `declare`: what the library knows of a loss, and the driver that computes it: at once or
  in blocks. `blocks` deals rows out, `tuning` says how many.
- `halves`: products of rows in half precision, which distances are made of on accelerators.
"""
