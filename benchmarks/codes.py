"""How much of an exact search an index of codes finds, by bytes for each embedding.

    python -m benchmarks.codes

The gallery is scikit-learn's 1,797 digits less every sixth, which are the queries. An embedding is
a random projection of the centered pixels to 256 features. Recall@10 is the share of the ten
nearest embeddings, by the cosine in float32, that are found. Accuracy is the share of queries whose
nearest embedding is of their class.
"""

import numpy as np

from benchmarks._harness import Parser, print_table
from metricjax.distances import CosineSimilarity
from metricjax.inference import Index

FEATURES = 256
KINDS = ("float32", "float16", "int8", "binary")


def data():
    """Embeddings of the queries and of the gallery, and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    is_query = np.arange(len(labels)) % 6 == 0
    pixels = pixels - pixels[~is_query].mean(0)
    projection = np.random.default_rng(0).normal(size=(pixels.shape[1], FEATURES))
    x = (pixels @ projection).astype(np.float32)
    return x[is_query], labels[is_query], x[~is_query], labels[~is_query]


def index(kind, gallery):
    """An index that keeps embeddings in a dtype or as codes."""
    if kind in ("int8", "binary"):
        return Index(gallery, codes=kind, distance=CosineSimilarity())
    return Index(gallery.astype(kind), distance=CosineSimilarity())


def measure():
    query, query_labels, gallery, labels = data()
    exact = index("float32", gallery).nearest(query, 10).ids
    for kind in KINDS:
        kept = index(kind, gallery)
        ids = kept.nearest(query, 10).ids
        recall = np.mean([len(np.intersect1d(*both)) / 10 for both in zip(exact, ids, strict=True)])
        yield {
            "kept as": kind,
            "bytes": str(kept.embeddings.nbytes // len(gallery)),
            "recall@10": f"{recall:.3f}",
            "accuracy": f"{np.mean(labels[ids[:, 0]] == query_labels):.3f}",
        }


def main(argv=None):
    Parser("benchmarks.codes", description=__doc__.splitlines()[0]).parse_args(argv)
    print_table(list(measure()))


if __name__ == "__main__":
    main()
