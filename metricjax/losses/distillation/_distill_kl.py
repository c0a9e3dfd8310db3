"""Distillation of a ranking of documents."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from metricjax._core.declare import declare
from metricjax._core.masked import logsumexp
from metricjax._core.types import LossDict, Scalar
from metricjax.distances import Distance, DotProductSimilarity
from metricjax.losses._documents import check_teacher, prepare_documents, scores
from metricjax.losses._terms import row_term


@declare(rows="pairs", within={"temperature": "(0, inf)", "teacher_temperature": "(0, inf)"})
def distill_kl(
    embeddings: Float[Array, "n d"],
    documents: Float[Array, "n k d"],
    teacher: Float[Array, "n k"],
    *,
    where: Num[Array, " n"] | None = None,
    documents_where: Bool[Array, "n k"] | None = None,
    temperature: Scalar = 1.0,
    teacher_temperature: Scalar | None = None,
    distance: Distance = DotProductSimilarity(normalize_embeddings=False),
) -> LossDict:
    r"""Pulls a query's softmax over its documents toward the softmax of a teacher's scores.

    .. math::
        \ell_i = \tau^2 \sum_k p_{ik} (\log p_{ik} - \log s_{ik}) \qquad
        p_i = \mathrm{softmax}(T_i / \tau_T) \qquad
        s_i = \mathrm{softmax}_k(q_i \cdot d_{ik} / \tau)

    The factor :math:`\tau^2` keeps gradients as large as they are at :math:`\tau = 1`.

    Example:
        >>> import jax.numpy as jnp, metricjax as mj
        >>> q, docs = jnp.eye(2), jnp.stack([jnp.eye(2), jnp.ones((2, 2))], 1)
        >>> terms = mj.losses.distill_kl(q, docs, jnp.array([[2.0, 1.0], [1.0, 1.0]]))
        >>> print(f"{mj.reduce(terms)[0]:.4f}")
        0.0555

    Args:
        embeddings: ``[N, D]``, one row for each query.
        documents: ``[N, K, D]``, K documents for each query.
        teacher: ``[N, K]``, the teacher's scores. No gradient flows through them.
        where: ``[N]`` weights of the queries; 0 is padding.
        documents_where: ``[N, K]``, which documents exist; all by default.
        temperature: divides the similarities, > 0.
        teacher_temperature: divides the teacher's scores, > 0; by default `temperature`.
        distance: pairwise distance or similarity; the dot product without normalization by default.

    Returns:
        ``{"loss": [N]}``, divided by the number of queries. The value of a query with one document
        is 0.

    Notes:
        - when: scores of a cross-encoder for each query, learned as a ranking
        - miner: none taken
        - cost: NKD
        - setting: default

    References:
        Hinton et al., `Distilling the Knowledge in a Neural Network
        <https://arxiv.org/abs/1503.02531>`_, 2015.
    """
    name = "losses.distill_kl"
    q, documents, weights = prepare_documents(name, embeddings, documents, where)
    shape = documents.shape[:2]
    teacher = check_teacher(name, teacher, (shape,))
    there = jnp.ones(shape, bool) if documents_where is None else jnp.asarray(documents_where) > 0
    if there.shape != shape:
        raise ValueError(f"{name}: `documents_where` must have shape {shape}, got {there.shape}.")
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    log_softmax = lambda z: z - logsumexp(z, there, empty=0.0)[:, None]
    theirs = log_softmax(jnp.where(there, teacher, 0) / teacher_temperature)
    ours = log_softmax(scores(distance, q, documents) / temperature)
    gaps = jnp.where(there, jnp.exp(theirs) * (theirs - ours), 0)
    return {"loss": row_term(jnp.square(temperature) * jnp.sum(gaps, 1), weights)}
