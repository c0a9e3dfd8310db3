"""The batches of a sampler as an object that data loaders take."""

import numpy as np


class Batches:
    """The batches of a sampler one after the other: for `for`, torch's DataLoader and Grain.

    A sampler with its arguments, all but `step`. Iterating gives an index array for each step, from
    where the last iteration stopped; ``batches[step]`` is that of any step. Steps are computed some
    at a time, so this is faster than calling the sampler for each.

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
        *data: what it is called with, such as labels.
        steps: after how many steps an iteration ends, an epoch; never by default.
        start: the first step, to go on where another run stopped.
        **options: of the sampler.

    Attributes:
        step: the next one. This is all the state there is: store it, or the number of steps the
            training has done where a loader reads ahead, and give it as `start`.
    """

    def __init__(self, sampler, *data, steps=None, start=0, **options):
        self.sampler, self.data, self.options = sampler, data, options
        self.steps, self.step = steps, start
        self._block = None, None
        self[start]  # wrong arguments raise here

    def __getitem__(self, step):
        number, within = divmod(step, _BLOCK)
        known, block = self._block  # read once: loaders call this from several threads
        if known != number:
            rows = np.arange(number * _BLOCK, (number + 1) * _BLOCK)
            block = self.sampler(*self.data, **self.options, step=rows)
            self._block = number, block
        return block[within]

    def __iter__(self):
        """The rest of the epoch."""
        end = None if self.steps is None else self.step - self.step % self.steps + self.steps
        while self.step != end:
            self.step += 1
            yield self[self.step - 1]

    def __len__(self):
        if self.steps is None:
            raise TypeError("samplers.Batches: no length without `steps`.")
        return self.steps

    def __repr__(self):
        """Without the data. The same in every process: Grain compares it when it restores."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Batches({self.sampler.__name__}{options}, steps={self.steps})"


_BLOCK = 64
