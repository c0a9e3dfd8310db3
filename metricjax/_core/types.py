"""The values that flow between miners, losses and reducers. All are pytrees of arrays.

Shape letters, here and everywhere: N anchors, M references, D features, C classes, T triplets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jaxtyping import Array, Float, Int, Num


class LossTerm(NamedTuple):
    """The unreduced values of one named part of a loss.

    Attributes:
        values: ``[N]``, ``[N, M]`` or ``[T]``; 0 with zero gradient wherever the weight is 0.
            A 0-d term is already reduced: with any reducer, it becomes ``values / divisor``.
        weights: the same shape. 0 means "does not exist", 2 means "counts twice", and a fraction is
            a soft label or a sample weight.
        divisor: what the loss itself divides the weighted sum by; ``None`` means the sum of the
            weights. Like the weighted sum, it adds up over anchors.
        anchor: which anchor each row of `values` belongs to; ``None`` means row i is anchor i.
        anchor_weights: ``[N]``, the weight of each anchor as a whole, if each row of `values`
            holds everything that belongs to its anchor; ``None`` if not, as for triplets.
    """

    values: Float[Array, "*shape"]
    weights: Float[Array, "*shape"]
    divisor: Float[Array, ""] | None = None
    anchor: Int[Array, " n"] | None = None
    anchor_weights: Float[Array, " n"] | None = None

    def dense(self) -> "LossTerm":
        """Returns the term itself, as the counterpart of a streamed term's `dense()`."""
        return self

    def __repr__(self):  # errors of `jax.grad` print it, and its numbers would fill pages
        values = f"{getattr(self.values, 'dtype', '')}{list(getattr(self.values, 'shape', []))}"
        return f"LossTerm(values={values}, ...; `metricjax.reduce` makes one number of the terms)"


class Term(Protocol):
    """A `LossTerm`, or a streamed term that takes the place of one too large for memory."""

    def dense(self) -> LossTerm:
        """Returns the whole term as arrays."""
        ...


LossDict = dict[str, Term]
"""What a loss returns: its named, unreduced parts. It is a plain dict; join with `|` or `merge`."""

Scalar = float | Float[Array, ""]
"""A number that may be traced: scheduled, learned, differentiated or mapped over."""

PerSample = float | Float[Array, ""] | Float[Array, " n"]
"""A number that may be traced, or one for each sample."""

PerClass = float | Float[Array, ""] | Float[Array, " c"]
"""A number that may be traced, or one for each class."""

Ratio = tuple[Float[Array, ""], Float[Array, ""] | None]
"""A total and its divisor. They are kept apart so that those of chunks and devices can be added."""

Reducer = Callable[[LossTerm], Ratio]

AxisName = str | tuple[str, ...]
"""An axis of `jax.shard_map` or `pmap`, or several axes that are taken as one."""

Labels = Any
"""``[N]`` integers, or any pytree of arrays with leading axis N that a `match` function takes."""

Match = Callable[[Labels, Labels], Num[Array, "n m"]]
"""``(labels, reference labels) -> [N, M]``: which pairs match, boolean or soft (0 to 1)."""


class Refs(NamedTuple):
    """The other side of every pair: a gathered batch, a memory, a second view, a gallery.

    Attributes:
        embeddings: ``[M, D]``.
        labels: ``[M]``; may be ``None`` if `mined` gives the pairs.
        self_index: ``[N]``, the row of anchor i among the references, so that the anchor is never
            paired with itself; ``None`` if the anchors are not among the references.
        where: ``[M]``, the weights of the references; ``None`` means 1 for each.
    """

    embeddings: Float[Array, "m d"]
    labels: Labels = None
    self_index: Int[Array, " n"] | None = None
    where: Num[Array, " m"] | None = None


class Pairs(NamedTuple):
    """Which (anchor, reference) pairs count, as two ``[N, M]`` weight matrices."""

    positive: Num[Array, "n m"]
    negative: Num[Array, "n m"]


class Triplets(NamedTuple):
    """A list of triplets of fixed length T: three index arrays, and weights (0: not there)."""

    anchor: Int[Array, " t"]
    positive: Int[Array, " t"]
    negative: Int[Array, " t"]
    weights: Num[Array, " t"]


class TripletRule(NamedTuple):
    """The triplets that a rule picks from the pairs of two matrices. They are never listed.

    Attributes:
        positive, negative: ``[N, M]`` weights of pairs; a triplet's weight is the product of the
            weights of its two pairs.
        rows: a pytree with leading axis N, the data of each anchor that the rule needs.
        keep: ``keep(rows, j) -> [N, M]``: which negatives make a triplet that counts, if reference
            ``j[i]`` is the positive of anchor i. A `jax.tree_util.Partial`.
    """

    positive: Num[Array, "n m"]
    negative: Num[Array, "n m"]
    rows: Any
    keep: jax.tree_util.Partial


Mined = Pairs | Triplets | TripletRule
"""What a miner returns and a loss takes as `mined=`."""
