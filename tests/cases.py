"""The one table: every loss, its parameters, its options, its counterpart in PML.

`test_losses.py` sweeps every promise over every row, `parity/test_losses.py` every option set. A
public loss that is not here fails `test_every_loss_has_a_case`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metricjax import losses, nn
from metricjax._core.record import record_of
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance

N, D, C = 24, 8, 5


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One loss. Names of options are PML's, too.

    Attributes:
        loss: the public function.
        pml: its class in pytorch_metric_learning.losses, if there is one.
        options: sets of options to check besides the defaults.
        module: owns its parameters.
        centers: rows of class weights for each class; 0 for losses without class weights.
        pml_weights: the parameter of the PML class.
        pml_options: what the PML class needs, or has as another default.
        ids: what stands in the place of labels, made of integers: a teacher, or levels of labels.
        inputs: what the loss takes before its parameters, of a batch of embeddings and labels.
        call: ``(embeddings, labels, *params, **options)`` where that is not enough.
        ordered: the order of the batch matters, and so do copies of a sample.
        detached: the gradient takes a part of the value as constant.
    """

    loss: Callable[..., Any]
    pml: str | None = None
    options: tuple[dict[str, Any], ...] = ()
    module: type | None = None
    centers: int = 0
    pml_weights: str = "W"
    pml_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    ids: Callable[..., Any] = lambda y: y
    inputs: Callable[..., tuple] | None = None
    call: Callable[..., Any] | None = None
    ordered: bool = False
    detached: bool = False

    def __str__(self):
        return self.loss.__name__

    @functools.cached_property
    def fn(self):
        """``(embeddings, labels, *params, **options) -> LossDict``."""
        return self.call or self.of(self.loss)

    def data(self, e, y):
        """What the loss takes of a batch, before its parameters."""
        return (e, self.ids(y)) if self.inputs is None else self.inputs(e, y)

    def of(self, loss):
        """A loss with the arguments of this one, as one of embeddings and labels."""
        return lambda e, y, *params, **options: loss(*self.data(e, y), *params, **options)

    @property
    def whole(self):
        """The loss does not come apart by anchors or classes."""
        record = record_of(self.loss)
        return record.rows in ("batch", "pairs") and not record.has("chunk_size")

    def takes(self, *names):
        return set(names) <= inspect.signature(self.loss).parameters.keys()

    def params(self, key, dtype="float32"):
        """Random class weights, for a loss that has them."""
        return (jax.random.normal(key, (C * self.centers, D), dtype),) if self.centers else ()

    @property
    def kind(self):
        """All that a driver knows of a loss. See `one_of_each_kind`."""
        r = record_of(self.loss)
        split = r.rows, r.ring, r.mined, r.refs_first, r.own_mined is None, r.sums_over_anchors
        arguments = "refs", "mined", "state", "class_axis", "class_ids", "axis_name", "chunk_size"
        takes = (*map(self.takes, arguments), self.ids is Case.ids)
        return *split, r.by_itself, self.centers, self.whole, takes


@functools.cache
def one_of_each_kind():
    """The first loss of each kind.

    A driver knows nothing of the formula of a loss. So each driver alone is swept over every loss,
    and what one driver does with another, with a reducer or with a miner is swept over these.
    """
    return tuple({case.kind: case for case in reversed(CASES)}.values())


def views(e, y):
    """Two views of a batch: the other one has its features in reverse."""
    return e, e[:, ::-1]


def scored(e, y):
    return e, e[:, ::-1], y.astype(e.dtype)


def taught(e, y):
    """A positive, two negatives, and how much a teacher says they are apart."""
    y = y.astype(e.dtype)
    return e, e[:, ::-1], jnp.stack([-e, e * 0.5], 1), jnp.stack([y, y / 2], 1)


def ranked(e, y):
    y = y.astype(e.dtype)
    return e, jnp.stack([e[:, ::-1], -e, e * 0.5], 1), jnp.stack([y, y / 2, -y], 1)


def bound(loss, **options):
    """A loss with other defaults."""
    return functools.update_wrapper(functools.partial(loss, **options), loss)


def kinds(y):
    """Two levels of labels: genus and species."""
    return (np if isinstance(y, np.ndarray) else jnp).stack([y // 2, y], 1)


def imitated(y, d=4):
    """A teacher's embeddings ``[N, d]``, alike for samples of one class."""
    lib = np if isinstance(y, np.ndarray) else jnp
    return lib.cos(y.astype("float32")[:, None] * lib.arange(1, d + 1, dtype="float32")[None, :])


def two_crops(e, y):
    return (jnp.stack(views(e, y)),)


def crops(e, y):
    """A student's scores of three crops, and a teacher's of two."""
    teacher = jnp.asarray(imitated(y, e.shape[1]))
    return jnp.stack([*views(e, y), e * 0.5]), jnp.stack([teacher, teacher[:, ::-1]])


def remembered(e, y):
    """Two views, and which sample of a data set each row is."""
    return e, e[:, ::-1], jnp.arange(len(e))


def manifold(e, y, proxies, **options):
    return losses.manifold(e, proxies, proxy_ids=y % C, **options)


COSINE = CosineSimilarity()
PLAIN = LpDistance(normalize_embeddings=False)
SQUARED = LpDistance(power=2)
SIMILARITY_MARGINS = {"pos_margin": 0.9, "neg_margin": 0.1, "distance": COSINE}
RAW_DOT = DotProductSimilarity(normalize_embeddings=False)

CASES = [
    Case(losses.adacos, module=nn.AdaCos, centers=1),
    Case(
        losses.adaface,
        options=({"m": 0.3, "h": 0.6, "scale": 8.0},),
        module=nn.AdaFace,
        centers=1,
        detached=True,
    ),
    Case(losses.alignment, options=({"power": 1.0},), inputs=views),
    Case(losses.angle, inputs=scored),
    Case(losses.angular, "AngularLoss", ({"alpha": 30.0},)),
    Case(
        losses.arcface,
        "ArcFaceLoss",
        ({"margin": 60.0, "scale": 8.0},),
        nn.ArcFace,
        centers=1,
    ),
    Case(losses.barlow_twins, inputs=views),
    Case(losses.center, module=nn.Center, centers=1),
    Case(losses.circle, "CircleLoss", ({"m": 0.25, "gamma": 5.0},), detached=True),
    Case(
        losses.combined_margin,
        options=(
            {"m1": 0.9, "m2": 20.0, "m3": 0.15, "scale": 8.0},
            {"filter_above": 0.4, "scale": 8.0},
        ),
        module=nn.CombinedMargin,
        centers=1,
    ),
    Case(
        losses.contrastive,
        "ContrastiveLoss",
        (
            SIMILARITY_MARGINS,
            {"pos_margin": 0.2, "neg_margin": 3.0, "distance": PLAIN},
            {"distance": LpDistance(p=1)},
            {"distance": LpDistance(p=3, power=2)},
            {"distance": SNRDistance()},
        ),
    ),
    Case(losses.cosface, "CosFaceLoss", ({"margin": 0.1, "scale": 8.0},), nn.CosFace, centers=1),
    Case(losses.cosent, inputs=scored),
    Case(losses.cosine_mse, inputs=scored),
    Case(
        losses.curricularface,
        options=({"margin": 20.0, "scale": 8.0},),
        module=nn.CurricularFace,
        centers=1,
        detached=True,
    ),
    Case(losses.dcl, options=({"temperature": 0.5},), inputs=views),
    Case(losses.dclw, options=({"temperature": 0.5},), inputs=views, detached=True),
    Case(losses.debiased_contrastive, options=({"prior": 0.3},), inputs=views),
    Case(losses.dino, module=nn.DINO, inputs=crops),
    Case(losses.distill_kl, options=({"temperature": 2.0},), inputs=ranked),
    Case(
        losses.dynamic_soft_margin,
        "DynamicSoftMarginLoss",
        ({"num_bins": 20, "min_val": -3.0}, {"min_val": -4.5, "distance": SQUARED}),
        nn.DynamicSoftMargin,
        detached=True,
    ),
    Case(
        # a deviation of 0: nothing is compiled for the key
        bound(losses.elasticface, key=np.array([0, 7], np.uint32), deviation=0.0),
        options=({"variant": "cos", "scale": 8.0}, {"plus": True, "scale": 8.0}),
        module=nn.ElasticFace,
        centers=1,
    ),
    Case(losses.embedding_match, options=({"kind": "l2"},), inputs=views, detached=True),
    Case(losses.fast_ap, "FastAPLoss", ({"num_bins": 4}, {"distance": LpDistance()})),
    Case(losses.ge2e, options=({"variant": "contrast"},), module=nn.GE2E),
    Case(
        losses.generalized_lifted_structure,
        "GeneralizedLiftedStructureLoss",
        ({"pos_margin": 0.3, "neg_margin": 0.5}, SIMILARITY_MARGINS),
    ),
    Case(losses.hap, options=({"alpha": 0.5, "temperature": 0.1},), ids=kinds),
    Case(
        losses.hard_negative_contrastive,
        options=({"beta": 0.0}, {"beta": 2.0, "temperature": 0.2}),
        inputs=views,
    ),
    Case(losses.histogram, "HistogramLoss", ({"n_bins": 20}, {"delta": 0.1})),
    Case(losses.infonce, options=({"directions": ("query_to_doc",)},), inputs=views),
    Case(losses.instance, "InstanceLoss", ({"gamma": 5.0},), ordered=True),
    Case(
        losses.intra_pair_variance,
        "IntraPairVarianceLoss",
        ({"pos_eps": 0.1, "neg_eps": 0.2}, {"distance": LpDistance()}),
    ),
    Case(losses.isogclr, module=nn.ISogCLR, inputs=remembered, detached=True),
    Case(
        losses.large_margin_softmax,
        "LargeMarginSoftmaxLoss",
        ({"margin": 1}, {"margin": 3, "scale": 0.5}),
        nn.LargeMarginSoftmax,
        centers=1,
    ),
    Case(
        losses.lifted_structure,
        "LiftedStructureLoss",
        ({"pos_margin": 0.3, "neg_margin": 0.5}, SIMILARITY_MARGINS),
    ),
    Case(
        losses.magface,
        options=({"easy": False, "scale": 8.0},),
        module=nn.MagFace,
        centers=1,
        inputs=lambda e, y: (16 * e, y),  # norms between l_a and u_a
    ),
    Case(
        losses.manifold,
        "ManifoldLoss",
        ({"lambdaC": 0.3, "alpha": 0.5, "margin": 0.01}, {"distance": DotProductSimilarity()}),
        nn.Manifold,
        centers=1,
        pml_weights="proxies",
        call=manifold,
    ),
    Case(
        losses.margin,
        "MarginLoss",
        ({"margin": 0.4, "beta": 0.9}, {"beta": 0.3, "distance": COSINE}),
        nn.Margin,
    ),
    Case(losses.margin_mse, inputs=taught),
    Case(
        losses.multi_similarity,
        "MultiSimilarityLoss",
        (
            {"alpha": 1.5, "beta": 20.0, "base": 0.3},
            {"alpha": 1.5, "beta": 8.0, "base": 1.0, "distance": LpDistance()},
        ),
    ),
    Case(losses.n_pairs, "NPairsLoss", ({"distance": RAW_DOT},), ordered=True),
    Case(losses.nca, "NCALoss", ({"softmax_scale": 3.0}, {"distance": COSINE})),
    Case(losses.negative_cosine, options=({"detach": False},), inputs=views, detached=True),
    Case(
        losses.normalized_softmax,
        "NormalizedSoftmaxLoss",
        ({"temperature": 0.3}, {"distance": LpDistance()}),
        nn.NormalizedSoftmax,
        centers=1,
    ),
    Case(losses.ntxent, "NTXentLoss", ({"temperature": 0.5}, {"distance": SQUARED})),
    Case(
        losses.p2s_grad,
        "P2SGradLoss",
        (),
        nn.P2SGrad,
        centers=1,
        pml_weights="weight",
        detached=True,
    ),
    Case(losses.pkt, ids=imitated),
    Case(
        losses.pnp,
        "PNPLoss",
        (
            {"variant": "Ds", "anneal": 0.1},
            {"variant": "Dq", "alpha": 4.0, "anneal": 0.1},
            {"variant": "Iu", "anneal": 0.1},
            {"variant": "Ib", "b": 3.0, "anneal": 0.1},
        ),
    ),
    Case(
        losses.proxy_anchor,
        "ProxyAnchorLoss",
        ({"margin": 0.3, "alpha": 8.0}, {"margin": 0.3, "alpha": 2.0, "distance": LpDistance()}),
        nn.ProxyAnchor,
        centers=1,
        pml_weights="proxies",
    ),
    Case(
        losses.proxy_nca,
        "ProxyNCALoss",
        ({"softmax_scale": 3.0}, {"softmax_scale": 5.0, "distance": COSINE}),
        nn.ProxyNCA,
        centers=1,
        pml_weights="proxies",
    ),
    Case(
        losses.ranked_list,
        "RankedListLoss",
        ({"margin": 0.2, "Tn": 2.0, "Tp": 1.0, "imbalance": 0.3, "alpha": 1.3},),
        pml_options={"margin": 0.4, "Tn": 10.0},
    ),
    Case(losses.recall_at_k, options=({"ks": (1, 3), "temperature": 0.1},)),
    Case(losses.rince, options=({"q": 0.0}, {"q": 1.0, "temperature": 0.5}), inputs=views),
    Case(losses.rkd_angle, inputs=lambda e, y: (e, imitated(y))),
    Case(losses.rkd_distance, ids=imitated),
    Case(losses.selectively_contrastive, options=({"temperature": 0.5},)),
    Case(losses.siglip, module=nn.SigLIP),
    Case(
        losses.signal_to_noise_ratio_contrastive,
        "SignalToNoiseRatioContrastiveLoss",
        ({"pos_margin": 0.1, "neg_margin": 2.0},),
    ),
    Case(losses.similarity_preserving, ids=imitated),
    Case(losses.smooth_ap, "SmoothAPLoss", ({"temperature": 0.1},)),
    Case(losses.sogclr, module=nn.SogCLR, inputs=remembered, detached=True),
    Case(
        losses.soft_triple,
        "SoftTripleLoss",
        ({"la": 5.0, "gamma": 0.5, "margin": 0.1},),
        nn.SoftTriple,
        centers=10,
        pml_weights="fc",
    ),
    Case(
        losses.sphereface,
        "SphereFaceLoss",
        ({"margin": 2}, {"margin": 3, "scale": 0.5}),
        nn.SphereFace,
        centers=1,
    ),
    Case(
        losses.subcenter_arcface,
        "SubCenterArcFaceLoss",
        ({"margin": 60.0, "scale": 8.0},),
        nn.SubCenterArcFace,
        centers=3,
    ),
    Case(losses.sup_ap, options=({"temperature": 0.1, "offset": 1.44},)),
    Case(losses.sup_con, "SupConLoss", ({"temperature": 0.5}, {"distance": LpDistance()})),
    Case(losses.swav, options=({"temperature": 0.5},), inputs=two_crops, detached=True),
    Case(
        losses.threshold_consistent_margin,
        "ThresholdConsistentMarginLoss",
        ({"lambda_plus": 0.5, "lambda_minus": 2.0, "margin_plus": 0.5, "margin_minus": 0.1},),
    ),
    Case(
        losses.triplet_margin,
        "TripletMarginLoss",
        (
            {"margin": 0.3, "smooth_loss": True},
            {"margin": 0.3, "swap": True},
            {"margin": 0.3, "swap": True, "smooth_loss": True, "distance": COSINE},
            {"distance": COSINE},
            {"margin": 0.5, "distance": PLAIN},
        ),
    ),
    Case(losses.tuplet_margin, "TupletMarginLoss", ({"margin": 20.0, "scale": 5.0},)),
    Case(
        losses.vicreg,
        "VICRegLoss",
        ({"invariance_lambda": 5.0, "variance_mu": 3.0, "covariance_v": 2.0},),
        inputs=views,
    ),
    # not more rows than features are refused without it
    Case(bound(losses.w_mse, eps=0.1), options=({"eps": 0.0},), inputs=two_crops),
]
