"""PyTorch Metric Learning's side of the parity tests: the same losses on the same numbers."""

import numpy as np
import pytorch_metric_learning as pml
import pytorch_metric_learning.distances
import pytorch_metric_learning.losses
import torch
from cases import C, D

from metricjax import distances

N, M, T = 16, 19, 30
NO_GRADIENT = ("dynamic_soft_margin",)  # PML's histogram takes part in the gradient
SINGLE = {  # what PML computes in float32, whatever it is given
    "smooth_ap": 1e-5,
    "manifold": 1e-5,
    "histogram": 1e-5,
    "p2s_grad": 1e-6,
    "margin": 1e-6,
}


def as_pml(option):
    """A distance of ours as one of theirs; anything else as it is."""
    theirs = pml.distances
    if isinstance(option, distances.LpDistance):
        normal = option.normalize_embeddings
        return theirs.LpDistance(p=option.p, power=option.power, normalize_embeddings=normal)
    if isinstance(option, distances.SNRDistance):
        return theirs.SNRDistance(normalize_embeddings=option.normalize_embeddings)
    if isinstance(option, distances.DotProductSimilarity):
        return theirs.DotProductSimilarity(normalize_embeddings=option.normalize_embeddings)
    if isinstance(option, distances.CosineSimilarity):
        return theirs.CosineSimilarity()
    return option


def draw(case, rng, mode):
    """Random embeddings, labels, references, index lists and class weights, as numpy arrays."""
    e, y = rng.normal(size=(N, D)), rng.integers(0, C, N)
    if str(case) == "smooth_ap":  # PML is right for as many classes as samples of each, in order
        y = np.repeat(np.arange(4), 4)
    r, z = rng.normal(size=(M, D)), rng.integers(0, C, M)
    z[:C] = np.arange(C)
    other = (r, z) if mode == "refs" else (e, y)
    a, p, n = (rng.integers(0, N, T) for _ in range(3))
    if case.takes("refs") and mode in ("pairs", "triplets"):  # no pair is both, which PML forbids
        half = N // 2
        p, n = p % half, n % half
        p, n = (
            np.where(p == a, (p + 1) % half, p),
            half + np.where(n + half == a, (n + 1) % half, n),
        )
        order = np.lexsort((p, a))
        a, p, n = a[order], p[order], n[order]
    weights = [rng.normal(size=(C * case.centers, D))] if case.centers else []
    if str(case) == "p2s_grad":
        weights = [weights[0] / np.linalg.norm(weights[0], axis=1, keepdims=True)]
    return e, y, other, (a, p, n), weights


SIZES = {"p2s_grad": ("descriptors_dim", "num_classes"), "manifold": ("l", "K")}


def make_pml(case, options, weights, **more):
    """The PML object, with our weights in it."""
    options = {k: as_pml(v) for k, v in (case.pml_options | options).items()}
    sizes = {}
    if weights:
        rows, features = weights[0].shape
        names = SIZES.get(str(case), ("embedding_size", "num_classes"))
        sizes = dict(zip(names, (features, rows // case.centers), strict=True))
    loss = getattr(pml.losses, case.pml)(**sizes, **options, **more)
    if weights:
        given = torch.tensor(weights[0])
        given = given if rows_first(case) else given.T.clone()
        setattr(loss, case.pml_weights, torch.nn.Parameter(given))
    return loss


def rows_first(case):
    return case.pml_weights == "proxies"


def bind_pml(case, loss, y, mode="self", other=(), index=(), device="cpu"):
    """``embeddings -> value`` of a PML loss, everything else given."""
    y, *tensors = (torch.tensor(x, device=device) for x in (y, *other, *index))
    if str(case) == "vicreg":
        return lambda e: loss(e, ref_emb=e.flip(1))
    if str(case) == "manifold":
        return lambda e: loss(e, indices_tuple=y % C)
    refs = tensors[:2] if mode == "refs" else []
    mined = None
    if mode in ("pairs", "triplets"):
        a, p, n = tensors[-3:]
        mined = (a, p, a[::2], n[::2]) if mode == "pairs" else (a, p, n)
    if str(case) != "angular":
        return lambda e: loss(e, y, mined, *refs)
    # PML leaves the negatives as they are: compare on unit vectors
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    refs = [unit(refs[0]), refs[1]] if refs else []
    return lambda e: loss(unit(e), y, mined, *refs)


def run_pml(case, loss, mode, e, y, other, index):
    """The value, and the gradients with respect to embeddings and weights."""
    inputs = [torch.tensor(e, requires_grad=True)]
    if case.centers:
        inputs.append(getattr(loss, case.pml_weights))
    value = bind_pml(case, loss, y, mode, other, index)(inputs[0])
    grads = [g.numpy() for g in torch.autograd.grad(value, inputs, materialize_grads=True)]
    if case.centers and not rows_first(case):
        grads[1] = grads[1].T
    return value.item(), tuple(grads)
