"""The batches of a sampler as an object for data loaders."""

import numpy as np


class Batches:
    """Iterates over the batches of a sampler: for `for` loops, torch's DataLoader and Grain.

    It binds all arguments of a sampler except `step`. An iteration starts where the last one
    stopped, and yields an index array for each step. ``batches[step]`` is the index array of any
    step. Several steps are computed at a time, which is faster than a call of the sampler for each.

    Example:
        >>> from metricjax import samplers
        >>> labels = [0, 0, 1, 1, 2, 2]
        >>> batches = samplers.Batches(
        ...     samplers.m_per_class, labels, m=2, batch_size=4, seed=0, steps=3
        ... )
        >>> for batch in batches:  # an epoch, which the next loop continues with another one
        ...     print(batch)
        [2 3 1 0]
        [4 5 3 2]
        [1 0 4 5]
        >>> print(batches.step, batches[1])
        3 [4 5 3 2]

    Args:
        sampler: a function of `metricjax.samplers`.
        *data: positional arguments of the sampler, such as labels.
        steps: the number of steps in an epoch, after which an iteration ends; endless by default.
        start: the first step, to resume where another run stopped.
        **options: options of the sampler.

    Attributes:
        step: the next step. This is the only state. To resume, pass it as `start`. If a loader
            reads ahead, store and pass the number of steps that were trained instead.
    """

    def __init__(self, sampler, *data, steps=None, start=0, **options):
        self.sampler, self.data, self.options = sampler, data, options
        self.steps, self.step = steps, start
        self._block = None, None
        self[start]  # wrong arguments raise here

    def __getitem__(self, step):
        number, within = divmod(step, _BLOCK)
        known, block = self._block  # read once, because loaders call this from several threads
        if known != number:
            rows = np.arange(number * _BLOCK, (number + 1) * _BLOCK)
            block = self.sampler(*self.data, **self.options, step=rows)
            self._block = number, block
        return block[within]

    def __iter__(self):
        """Yields the rest of the epoch."""
        end = None if self.steps is None else self.step - self.step % self.steps + self.steps
        while self.step != end:
            self.step += 1
            yield self[self.step - 1]

    def __len__(self):
        if self.steps is None:
            raise TypeError("samplers.Batches: no length without `steps`.")
        return self.steps

    def __repr__(self):
        """Omits the data. It is the same in every process, because Grain compares it on restore."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Batches({self.sampler.__name__}{options}, steps={self.steps})"


_BLOCK = 64
