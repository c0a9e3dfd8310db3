"""The losses of self-supervision, forward and backward, beside lightly.

    pip install '.[views]' && python -m benchmarks.views
    python -m benchmarks.views --losses dino,swav --sizes 512 --rounds 3

Both get the same embeddings or scores, must agree on the loss, and take turns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import metricjax as mj
from benchmarks._beside import command, side_by_side

FEATURES, PROTOTYPES, CROPS, DIRECTIONS = 64, 1024, 4, 1024
L, R = mj.losses, mj.regularizers


def batch(n):
    """Two views, a student's scores of four crops, a teacher's of two, and directions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, FEATURES))
    other = x + rng.normal(size=x.shape)
    prototypes = rng.normal(size=(FEATURES, PROTOTYPES))
    crops = x + rng.normal(size=(CROPS, n, FEATURES))
    unit = lambda x, axis: x / np.linalg.norm(x, axis=axis, keepdims=True)
    arrays = {
        "x": x,
        "r": other,
        "student": crops @ prototypes / 8,
        "teacher": crops[:2] @ prototypes / 8,
        "scores": unit(crops, -1) @ unit(prototypes, 0),
        "directions": unit(rng.normal(size=(FEATURES, DIRECTIONS)), 0),
    }
    return {name: x.astype(np.float32) for name, x in arrays.items()}


def hypersphere(x, r):
    uniform = functools.partial(R.uniformity, t=1.0, weight=0.5)
    return mj.merge(L.alignment(x, r), one=uniform(x), two=uniform(r))


def dino(student, teacher):
    """The terms, and the new center, which lightly computes, too: it changes nothing here."""
    terms, center = L.dino(student, teacher, center=np.zeros(PROTOTYPES, np.float32))
    none = 0 * jax.lax.stop_gradient(jnp.sum(center))
    return {"loss": terms["loss"]._replace(values=terms["loss"].values + none)}


OURS = {  # a function, what it takes, and how many of these get gradients
    "negative_cosine": (functools.partial(L.negative_cosine, detach=False), ("x", "r"), 2),
    "dino": (dino, ("student", "teacher"), 1),
    "swav": (L.swav, ("scores",), 1),
    "w_mse": (lambda x, r: L.w_mse(jnp.stack([x, r])), ("x", "r"), 2),
    "dcl": (L.dcl, ("x", "r"), 2),
    "dclw": (L.dclw, ("x", "r"), 2),
    "ntxent": (mj.self_supervised(functools.partial(L.ntxent, temperature=0.5)), ("x", "r"), 2),
    "vicreg": (L.vicreg, ("x", "r"), 2),
    "koleo": (R.koleo, ("x",), 1),
    "alignment and uniformity": (hypersphere, ("x", "r"), 2),
    "sigreg": (lambda x, a: R.sigreg(x, directions=a), ("x", "directions"), 1),
}


def lightly(name, args, count):
    """One step of their loss, with the gradients of the first `count` arguments."""
    import torch
    from lightly import loss
    from lightly.loss.hypersphere_loss import HypersphereLoss

    tensors = [torch.tensor(x, requires_grad=i < count) for i, x in enumerate(args)]
    n = args[0].shape[-2]

    fixed = loss.SIGReg(num_vectors=DIRECTIONS)
    fixed._generate_unit_vectors = lambda *_, **__: tensors[1]
    whitened = loss.WMSELoss(embedding_dim=FEATURES, w_size=max(n, 2 * FEATURES))
    swav, dino = loss.SwaVLoss(), loss.DINOLoss(output_dim=PROTOTYPES)

    def centered(student, teacher):
        dino.center.data.zero_()
        return dino(list(teacher), list(student))

    fn = {
        "negative_cosine": loss.NegativeCosineSimilarity(),
        "dino": centered,
        "swav": lambda scores: swav(list(scores[:2]), list(scores[2:])).squeeze(),
        "w_mse": lambda x, r: whitened(torch.cat([x, r])),
        "dcl": loss.DCLLoss(),
        "dclw": loss.DCLWLoss(),
        "ntxent": loss.NTXentLoss(),
        "vicreg": loss.VICRegLoss(),
        "koleo": loss.KoLeoLoss(),
        "alignment and uniformity": HypersphereLoss(),
        "sigreg": lambda x, directions: fixed(x),
    }[name]

    def step():
        value = fn(*tensors)
        torch.autograd.grad(value, tensors[:count])
        return value.detach()

    return step


def measure(name, n, rounds):
    """The rows of one loss and size."""
    ours, takes, count = OURS[name]
    arrays = batch(n)
    args = [arrays[key] for key in takes]
    used = tuple(range(count))
    theirs = lightly(name, args, count)
    return side_by_side(name, n, n, ours, args, used, "lightly", theirs, rounds)


def main(argv=None):
    packages = "torch", "lightly"
    about = __doc__.splitlines()[0]
    command(argv, "benchmarks.views", about, "views", packages, OURS, measure, "negative_cosine")


if __name__ == "__main__":
    main()
