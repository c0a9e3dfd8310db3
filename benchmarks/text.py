"""The losses of queries and documents, forward and backward, beside sentence-transformers.

    pip install '.[text]' && python -m benchmarks.text
    python -m benchmarks.text --sizes 128 --rounds 3

Both get the same embeddings, must agree on the loss, and take turns. The model of
sentence-transformers is one that returns what it is given: only the losses are timed.
"""

import functools

import jax.numpy as jnp
import numpy as np

import metricjax as mj
from benchmarks._beside import command, side_by_side

FEATURES, NEGATIVES = 128, 4


def batch(n):
    """Queries, documents near them, hard negatives, targets from 0 to 1, a teacher's scores, and a
    guide's embeddings of queries and documents ``[2, N, D / 2]``.
    """
    rng = np.random.default_rng(0)
    query = rng.normal(size=(n, FEATURES))
    doc = query + rng.normal(size=query.shape)
    negatives = query[:, None] + 2 * rng.normal(size=(n, NEGATIVES, FEATURES))
    targets, teacher = rng.random(n), rng.normal(size=(n, 1 + NEGATIVES))
    guide = np.stack([query, doc])[:, :, ::2] + 2 * rng.normal(size=(2, n, FEATURES // 2))
    return [x.astype(np.float32) for x in (query, doc, negatives, targets, teacher, guide)]


def documents(doc, negatives):
    return jnp.concatenate([doc[:, None], negatives], 1)


def orthogonal(query, doc):
    """The terms of queries and of documents, half of each."""
    half = functools.partial(mj.regularizers.global_orthogonal, weight=0.5)
    return mj.merge(half(query, name="query"), half(doc, name="doc"))


L = mj.losses
QUERY_TO_DOC = {"directions": ("query_to_doc",), "temperature": 0.05}
GISTEMBED = {"directions": ("query_to_doc", "query_to_query", "doc_to_doc"), "joint": True}
DIMS = 128, 64, 32
OURS = {  # of queries, documents, hard negatives, targets, a teacher's scores, a guide
    "infonce": lambda q, d, v, t, s, g: L.infonce(q, d, **QUERY_TO_DOC),
    "infonce (symmetric)": lambda q, d, v, t, s, g: L.infonce(q, d, temperature=0.05),
    "infonce (hard negatives)": lambda q, d, v, t, s, g: L.infonce(q, d, v, **QUERY_TO_DOC),
    "infonce (guide)": lambda q, d, v, t, s, g: L.infonce(
        q, d, guide=tuple(g), temperature=0.01, **GISTEMBED
    ),
    "matryoshka (infonce)": lambda q, d, v, t, s, g: mj.matryoshka(L.infonce, DIMS)(
        q, d, **QUERY_TO_DOC
    ),
    "cosent": lambda q, d, v, t, s, g: L.cosent(q, d, t),
    "angle": lambda q, d, v, t, s, g: L.angle(q, d, t),
    "cosine_mse": lambda q, d, v, t, s, g: L.cosine_mse(q, d, t),
    "margin_mse": lambda q, d, v, t, s, g: L.margin_mse(q, d, v, s),
    "distill_kl": lambda q, d, v, t, s, g: L.distill_kl(q, documents(d, v), s),
    "global_orthogonal": lambda q, d, v, t, s, g: orthogonal(q, d),
}
THEIRS = {  # the class, whether it gets negatives, and its labels
    "infonce": ("MultipleNegativesRankingLoss", False, None),
    "infonce (symmetric)": ("MultipleNegativesSymmetricRankingLoss", False, None),
    "infonce (hard negatives)": ("MultipleNegativesRankingLoss", True, None),
    "infonce (guide)": ("GISTEmbedLoss", False, None),
    "matryoshka (infonce)": ("MatryoshkaLoss", False, None),
    "cosent": ("CoSENTLoss", False, "targets"),
    "angle": ("AnglELoss", False, "targets"),
    "cosine_mse": ("CosineSimilarityLoss", False, "targets"),
    "margin_mse": ("MarginMSELoss", True, "scores"),
    "distill_kl": ("DistillKLDivLoss", True, "scores"),
    "global_orthogonal": ("GlobalOrthogonalRegularizationLoss", False, None),
}


MOST = {"infonce (guide)": 512}
"""The largest N of a loss: `GISTEmbedLoss` holds arrays of N * N * D numbers."""


def sentence_transformers(name, query, doc, negatives, targets, teacher, guide):
    """One step of their loss, with the gradients of all embeddings."""
    import torch
    from sentence_transformers.sentence_transformer import losses
    from transformers import PreTrainedTokenizerBase

    class Tokenizer(PreTrainedTokenizerBase):
        """A tokenizer that does nothing: `GISTEmbedLoss` requires one."""

        def get_vocab(self):
            return {}

    class AsItIs(torch.nn.Module):
        """A model that returns embeddings which are in its inputs."""

        tokenizer, max_seq_length = Tokenizer(), 1

        def __init__(self, key="sentence_embedding"):
            super().__init__()
            self.key = key

        def get_embedding_dimension(self):
            return FEATURES

        def forward(self, features):
            features["sentence_embedding"] = features[self.key]
            return features

    cls, takes_negatives, labels = THEIRS[name]
    model, make = AsItIs(), getattr(losses, cls)
    if name == "infonce (guide)":
        loss = make(model, AsItIs("guide"))
    elif name == "matryoshka (infonce)":
        loss = make(model, losses.MultipleNegativesRankingLoss(model), DIMS)
    else:
        loss = make(model)
    arrays = [query, doc, *(negatives.swapaxes(0, 1) if takes_negatives else ())]
    columns = [torch.tensor(x, requires_grad=True) for x in arrays]
    guides = [torch.tensor(x) for x in guide] if name == "infonce (guide)" else []
    labels = {"targets": targets, "scores": teacher}.get(labels)
    labels = None if labels is None else torch.tensor(labels)

    def step():
        features = [{"sentence_embedding": x} for x in columns]
        for given, x in zip(features, guides, strict=False):
            given["guide"] = x
        value = loss(features, labels)
        value = sum(value.values()) if isinstance(value, dict) else value
        torch.autograd.grad(value, columns)
        return value.detach()

    return step


def measure(name, n, rounds):
    """The rows of one loss and size."""
    args = batch(n)
    used = (0, 1, 2) if THEIRS[name][1] else (0, 1)
    m = n * (1 + NEGATIVES) if "hard" in name else n
    theirs = sentence_transformers(name, *args)
    return side_by_side(name, n, m, OURS[name], args, used, "sentence_transformers", theirs, rounds)


def main(argv=None):
    packages = "torch", "sentence-transformers"
    about = __doc__.splitlines()[0]
    command(argv, "benchmarks.text", about, "text", packages, OURS, measure, "cosine_mse", MOST)


if __name__ == "__main__":
    main()
