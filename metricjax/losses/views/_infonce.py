"""InfoNCE between two towers: the losses of CLIP, of sentence-transformers, of GTE and GISTEmbed.

Each row is a query with its document, and maybe with hard negatives of its own. It has up to four
pools of rivals, all of them rows of products:

    query_to_doc     the query with all documents, and with the negatives of all queries
    query_to_query   the query with all other queries
    doc_to_query     its document with all queries
    doc_to_doc       its document with all other documents, and all negatives of other queries
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from metricjax._core.check import check_choice
from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp, softplus
from metricjax._core.types import AxisName, LossDict, Scalar
from metricjax.distances import CosineSimilarity, Distance
from metricjax.losses._classes import similarities
from metricjax.losses._documents import prepare_documents
from metricjax.losses._row_blocks import by_rows
from metricjax.losses._terms import row_term
from metricjax.losses._views import prepare_views

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
POOLS = {
    "query_to_doc": (("query", "docs"), ("query", "negatives")),
    "query_to_query": (("query", "queries"),),
    "doc_to_query": (("doc", "queries"),),
    "doc_to_doc": (("doc", "docs"), ("doc", "negatives")),
}
HARD = (None, "in_batch", "own", "all")


class _Rows(NamedTuple):
    """Queries, their documents, and H negatives of each."""

    query: Float[Array, "n d"]
    document: Float[Array, "n d"]
    negatives: Float[Array, "n h d"]
    weights: Float[Array, " n"]
    guide: Any = None
    """What a guide makes of them, as other `_Rows`."""


@declare(
    rows="batch",
    why="each row meets all rows of the other tower, and the other way round",
    within={"temperature": "(0, inf)"},
)
def infonce(
    embeddings: Float[Array, "n d"],
    ref_embeddings: Float[Array, "n d"],
    negatives: Float[Array, "n h d"] | None = None,
    *,
    where: Num[Array, " n"] | None = None,
    temperature: Scalar = 0.07,
    directions: Sequence[Direction] = ("query_to_doc", "doc_to_query"),
    joint: bool = False,
    hardness: Literal["in_batch", "own", "all"] | None = None,
    strength: Scalar = 5.0,
    margin: Scalar | None = None,
    relative: bool = False,
    guide: Sequence[Float[Array, "..."]] | None = None,
    distance: Distance = CosineSimilarity(),
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> LossDict:
    r"""Picks the other half of each pair out among the batch, in both directions: CLIP's loss.

    .. math::
        \ell_i = \tfrac12 \Big( -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}
        - \log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ji} / \tau}} \Big)

    With `negatives`, all of them join the first sum. With `joint`, there is one sum over all that
    the `directions` name, :math:`\ell_i = \log \sum e^{s / \tau} - s_{ii} / \tau`:

    - query_to_doc: the query with every document, and with the negatives of every query;
    - query_to_query: the query with every other query;
    - doc_to_query: its document with every query, its own once more;
    - doc_to_doc: its document with every other document, and the negatives of other queries.

    A distance is used with its sign changed. For pairs that share a label use `ntxent` or `siglip`
    with references. A large batch is computed in blocks of rows by itself.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> x, negatives = jnp.eye(3), jnp.ones((3, 1, 3))
        >>> loss, _ = mj.reduce(mj.losses.infonce(x, x, temperature=1.0))
        >>> print(f"{loss:.4f}")
        0.5514
        >>> one_way = {"directions": ("query_to_doc",), "temperature": 1.0}
        >>> print(f"{mj.reduce(mj.losses.infonce(x, x, negatives, **one_way))[0]:.4f}")
        1.3088

    Args:
        embeddings: ``[N, D]``, of queries, or images.
        ref_embeddings: ``[N, D]``, of their documents, or texts: row i belongs to row i.
        negatives: ``[N, H, D]``, H documents for each query that look right and are not.
        where: ``[N]`` sample weights; 0 is padding, with its negatives.
        temperature: divides the similarities, > 0; may be learned.
        directions: which pools there are, query_to_doc among them; static.
        joint: one sum over all pools, or the mean of a loss for each of query_to_doc and
            doc_to_query; static.
        hardness: which logits of query_to_doc rise with their own similarity: those of other rows'
            documents and negatives, "in_batch"; of the row's own negatives; or "all" but the
            positive. Static.
        strength: by how much: it times the similarity is added, constant for the gradient. LLaVE
            has 9 with "in_batch", EmbeddingGemma 5 with "own".
        margin: takes rivals for false negatives and leaves them out if they are more similar than
            the positive less this; ``None`` leaves in all, a `guide` alone means 0.
        relative: the margin is a share of the positive's similarity; static.
        guide: what a better model makes of the same queries, documents and, if there are any,
            negatives, in its own number of features: its cosines then tell which are false.
            Constant for the gradient.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any; rivals
            are those of all devices.
        chunk_size: at most so many rows at a time; static. By default all of a small batch.

    Returns:
        ``{"loss": [N]}``, divided by the number of pairs. A row without rivals has 0.

    Notes:
        - when: pairs of two towers (CLIP, text retrieval), no labels
        - miner: none taken
        - cost: N²(1 + H)
        - setting: default; it learns the temperature. Text: 0.05 or 0.01, query_to_doc alone

    References:
        Radford et al., `Learning Transferable Visual Models From Natural Language Supervision
        <https://arxiv.org/abs/2103.00020>`_, 2021; van den Oord et al., `Representation Learning
        with Contrastive Predictive Coding <https://arxiv.org/abs/1807.03748>`_, 2018; Li et al.,
        `Towards General Text Embeddings with Multi-stage Contrastive Learning
        <https://arxiv.org/abs/2308.03281>`_, 2023; Solatorio, `GISTEmbed
        <https://arxiv.org/abs/2402.16829>`_, 2024.
    """
    directions = tuple(directions)
    _check(directions, joint, hardness)
    name = "losses.infonce"
    rows = _rows(name, embeddings, ref_embeddings, negatives, where)
    if guide is not None:
        what = ("queries", "documents", "negatives")[: 2 + (negatives is not None)]
        if len(guide) != len(what):
            raise ValueError(f"{name}: `guide` must be of {', '.join(what)}, got {len(guide)}.")
        theirs = _rows(f"{name}, guide", guide[0], guide[1], (*guide, None)[2], where)
        rows = rows._replace(guide=jax.lax.stop_gradient(theirs))
        margin = 0.0 if margin is None else margin

    names = [name for d in directions for name in POOLS[d]]
    if negatives is None:
        names = [(side, others) for side, others in names if others != "negatives"]

    def block(some: _Rows, numbers, everything: _Rows) -> LossDict:
        n, h, _ = everything.negatives.shape
        own = numbers[:, None] == jnp.arange(n)[None, :]
        own_negative = jnp.repeat(own, h, 1)
        mats = _similarities(distance, names, some, everything)
        positive = jnp.sum(jnp.where(own, mats["query", "docs"], 0), 1)

        there = jnp.broadcast_to(everything.weights[None, :], own.shape)

        def weights(side, others):
            """Of the rivals in a pool."""
            if others == "negatives":
                negatives = jnp.repeat(there, h, 1)
                return negatives if side == "query" else jnp.where(own_negative, 0, negatives)
            again = joint and (side, others) == ("doc", "queries")  # holds the positive, too
            return there if again else jnp.where(own, 0, there)

        rivals = {name: weights(*name) for name in names}
        if margin is not None:
            seen = mats
            if guide is not None:
                seen = _similarities(CosineSimilarity(), names, some.guide, everything.guide)
            seen = jax.lax.stop_gradient(seen)
            limit = jnp.sum(jnp.where(own, seen["query", "docs"], 0), 1)
            limit -= margin * (jnp.abs(limit) if relative else 1)
            for name in names:
                false = seen[name] > limit[:, None]
                false = false if name[1] == "negatives" else false & ~own
                rivals[name] = jnp.where(false, 0, rivals[name])

        def harder(name):
            """Which logits of a pool rise with their similarity."""
            if hardness is None or name[0] == "doc" or name[1] == "queries":
                return False
            its_own = own_negative if name[1] == "negatives" else own
            return {"all": True, "own": its_own & (name[1] == "negatives")}.get(hardness, ~its_own)

        def log_sum(name):
            logits, rise = mats[name] / temperature, harder(name)
            if rise is not False:
                more = strength * jax.lax.stop_gradient(mats[name])
                logits += jnp.where(rise, more, 0)
            return logsumexp(logits, rivals[name])

        def cross_entropy(names):
            sums = jnp.stack([log_sum(name) for name in names], 1)
            return softplus(logsumexp(sums, sums > -jnp.inf) - positive / temperature)

        one_by_one = [[name for name in names if name in POOLS[d]] for d in directions]
        values = [cross_entropy(pool) for pool in ([names] if joint else one_by_one)]
        return {"loss": row_term(sum(values) / len(values), some.weights)}

    per_row = 1 + rows.negatives.shape[1]
    pairs = sum(per_row if direction.endswith("doc") else 1 for direction in directions)
    return by_rows(name, block, rows, pairs=pairs, chunk_size=chunk_size, axis_name=axis_name)


def _similarities(distance, names, some: _Rows, everything: _Rows):
    """The pools of rivals: similarities ``[n, N]``, and ``[n, N * H]`` to the negatives."""
    sides = {"query": some.query, "doc": some.document}
    negatives = everything.negatives.reshape(-1, everything.query.shape[1])
    others = {"queries": everything.query, "docs": everything.document, "negatives": negatives}

    def mat(side, other):
        if (side, other) == ("doc", "queries"):
            # of queries to a document, as the distance need not be symmetric; for all rows at once
            # it is the transpose of a product that is there already
            return similarities(distance, everything.query, some.document).T
        return similarities(distance, sides[side], others[other])

    return {name: mat(*name) for name in names}


def _rows(name, query, document, negatives, where) -> _Rows:
    q, d, weights = prepare_views(name, query, document, where)
    if negatives is None:
        negatives = jnp.zeros((len(q), 0, q.shape[1]), q.dtype)
    else:
        negatives = prepare_documents(name, query, negatives, where, "negatives")[1]
    return _Rows(q, d, negatives, weights)


def _check(directions, joint, hardness):
    for name in directions:
        check_choice("losses.infonce", "directions", name, tuple(POOLS))
    if "query_to_doc" not in directions:
        raise ValueError(
            f"losses.infonce: `directions` must hold 'query_to_doc', got {directions}."
        )
    if not joint and (alone := {*directions} & {"query_to_query", "doc_to_doc"}):
        raise ValueError(
            f"losses.infonce: `joint` must be true with {', '.join(sorted(alone))}, which hold no "
            f"positive and are no loss by themselves."
        )
    check_choice("losses.infonce", "hardness", hardness, HARD)
