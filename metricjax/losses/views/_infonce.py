"""InfoNCE between two towers: the losses of CLIP, of sentence-transformers, of GTE and GISTEmbed.

Each row is a query with its document, and optionally with its own hard negatives. A row has up to
four pools of rivals. Each pool consists of rows of matrix products:

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
    """Queries, their documents, and H negatives of each query."""

    query: Float[Array, "n d"]
    document: Float[Array, "n d"]
    negatives: Float[Array, "n h d"]
    weights: Float[Array, " n"]
    guide: Any = None
    """The guide's embeddings of the same rows, also as `_Rows`."""


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
    r"""Pulls the two sides of each pair together, and pushes mismatched rows apart: CLIP's loss.

    .. math::
        \ell_i = \tfrac12 \Big( -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}
        - \log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ji} / \tau}} \Big)

    The first sum runs over documents, the second over queries. If `negatives` are given, those of
    all queries join the first sum. With `joint`, there is a single sum over all pools that
    `directions` names, :math:`\ell_i = \log \sum e^{s / \tau} - s_{ii} / \tau`:

    - query_to_doc: the query with every document, and with the negatives of every query;
    - query_to_query: the query with every other query;
    - doc_to_query: the document of the query with every query, and with its own once more;
    - doc_to_doc: the document with every other document, and with the negatives of other queries.

    A distance is negated. For pairs that share a label, use `ntxent` or `siglip` with references. A
    large batch is computed in blocks of rows automatically.

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
        embeddings: ``[N, D]``, the queries or images.
        ref_embeddings: ``[N, D]``, the documents or texts. Row i belongs to row i of `embeddings`.
        negatives: ``[N, H, D]``, H hard negatives for each query: documents that look right but are
            wrong.
        where: ``[N]`` sample weights; a row of weight 0 is padding, and so are its negatives.
        temperature: divides the similarities, > 0; may be learned.
        directions: the pools to use. query_to_doc must be among them. Static.
        joint: if true, one sum over all pools. If false, the mean of one loss for each direction;
            only query_to_doc and doc_to_query are then allowed. Static.
        hardness: the logits of query_to_doc that a multiple of their similarity is added to.
            "in_batch" means those of the documents and negatives of other rows, "own" those of the
            row's own negatives, "all" all but the positive, and ``None`` none. Static.
        strength: this multiple. The gradient treats the added similarity as constant. LLaVE uses 9
            with "in_batch", EmbeddingGemma 5 with "own".
        margin: a rival that is more similar than the positive's similarity minus `margin` is taken
            for a false negative and left out. ``None`` keeps all rivals, but means 0 with a
            `guide`.
        relative: if true, `margin` is a fraction of the absolute value of the positive's
            similarity; static.
        guide: a better model's embeddings of the same queries, documents and, if given, negatives,
            as a sequence; they can have another number of features. Their cosines, instead of the
            similarities, then decide which rivals are false negatives. The gradient treats them as
            constant.
        distance: pairwise distance or similarity.
        axis_name: the `jax.shard_map` or `pmap` axis that the batch is spread over, if any. The
            rivals come from all devices.
        chunk_size: the largest number of rows computed at a time; static. By default, a small batch
            is computed at once.

    Returns:
        ``{"loss": [N]}``, divided by the number of pairs. A row without rivals has loss 0.

    Notes:
        - when: pairs of two towers (CLIP, text retrieval), no labels
        - miner: none taken
        - cost: N²(1 + H)
        - setting: default, with a learned temperature. Text: 0.05 or 0.01, query_to_doc only

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
            """The weights of the rivals in a pool."""
            if others == "negatives":
                negatives = jnp.repeat(there, h, 1)
                return negatives if side == "query" else jnp.where(own_negative, 0, negatives)
            again = joint and (side, others) == ("doc", "queries")  # also holds the positive
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
            """Which logits of a pool a multiple of their similarity is added to."""
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
            # from queries to a document, since the distance need not be symmetric; for all rows at
            # once, this is the transpose of a product that exists already
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
