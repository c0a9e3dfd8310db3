"""Values and gradient norms that PyTorch Metric Learning 2.9.0 gave on fixed inputs, in float64.

So parity is watched without PyTorch, too. Where metricjax differs on purpose there is no row here,
or the row says what we give; `docs/differences.md` has the reasons.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricjax as mj
from metricjax import losses
from metricjax.distances import CosineSimilarity, DotProductSimilarity, LpDistance

i, k = np.arange(16.0)[:, None], np.arange(5.0)[None, :]
BATCH = np.sin(1 + 1.7 * i + 0.9 * k + 0.31 * i * k)
E, Y = BATCH[:8], np.array([0, 0, 0, 1, 1, 2, 2, 3])
REFS = np.cos(2 + 1.1 * i + 0.8 * k + 0.27 * i * k)[:10]
REF_LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 3, 4, 4])
WEIGHTS = np.cos(0.5 + 1.3 * i + 0.6 * k + 0.17 * i * k)  # a class for each row
T10 = [0] * 10, [1] * 5 + [2] * 5, [3, 4, 5, 6, 7] * 2
COS = CosineSimilarity()

PAIRED = [  # options, then value and gradient norm by itself, with references, with T10
    ("circle", {}, 216.1494821, 54.6274, 180.1828573, 32.456, 178.5367785, 111.502),
    ("contrastive", {}, 1.870343504, 1.99159, 1.619930288, 0.263846, 1.622167442, 0.267709),
    (
        "contrastive",
        {"pos_margin": 1.0, "neg_margin": 0.0, "distance": COS},
        *(1.761576607, 0.241767, 1.383011144, 0.146226, 1.452688624, 0.887705),
    ),
    (
        "generalized_lifted_structure",
        {},
        *(3.170352558, 0.155615, 3.916576041, 0.126374, 0.4445800585, 0.0579455),
    ),
    (
        "intra_pair_variance",
        {},
        *(0.05590671803, 0.0684569, 0.2600324665, 0.0519131, 0.03862087943, 0.165079),
    ),
    (
        "intra_pair_variance",
        {"distance": LpDistance()},
        *(0.02338168224, 0.0579054, 0.162240581, 0.0429274, 0.01162076855, 0.0577463),
    ),
    ("lifted_structure", {}, 6.980761862, 0.495063, None, None, 6.292665269, 1.68077),
    ("margin", {}, 0.5441020317, 0.0805564, 0.5164842763, 0.0637246, 0.4175954787, 0.282679),
    (
        "multi_similarity",
        {},
        *(1.174359993, 0.511101, 1.340725174, 0.234262, 0.1599109303, 0.0540199),
    ),
    (
        "multi_similarity",
        {"distance": LpDistance()},
        *(1.286391496, 0.113878, 1.425039989, 0.112378, 0.1897876882, 0.0296103),
    ),
    ("nca", {}, 2.740601034, 0.54822, 1.99105051, 0.242777, 0.9213639915, 0.215063),
    ("ntxent", {}, 12.08022447, 3.79552, 10.82962312, 2.33324, 8.322366087, 13.2416),
    (
        "ntxent",
        {"distance": LpDistance()},
        *(8.333251383, 2.79794, 9.451404055, 2.9606, 6.160340359, 9.28581),
    ),
    (
        "signal_to_noise_ratio_contrastive",
        {},
        *(3.376201844, 3.56255, 2.367129996, 0.424652, 2.629253492, 0.879467),
    ),
    ("sup_con", {}, 9.413795591, 3.06307, 9.276843567, 1.76665, 5.759354291, 8.3832),
    (
        "threshold_consistent_margin",
        {},
        *(1.562586052, 1.78976, None, None, 1.22840605, 0.414014),
    ),
    (
        "triplet_margin",
        {},
        *(0.4250465891, 0.143033, 0.4831068968, 0.105515, 0.2886815635, 0.463875),
    ),
    (
        "triplet_margin",
        {"smooth_loss": True},
        *(0.9167358099, 0.0836462, 0.7557798954, 0.0551057, 0.8516468216, 0.26423),
    ),
    (
        "triplet_margin",
        {"swap": True},
        *(0.5070417289, 0.176035, None, None, 0.3417541784, 0.355142),
    ),
    (
        "triplet_margin",
        {"distance": COS},
        *(0.6410903557, 0.252924, 0.6522627875, 0.146757, 0.4186278744, 0.649838),
    ),
    ("tuplet_margin", {}, 46.88405699, 21.293, 43.53339789, 10.2948, 25.29515039, 68.0114),
    (  # the gradient norms are those of a histogram without gradient
        "dynamic_soft_margin",
        {"num_bins": 20, "min_val": -3.0},
        *(0.2401779652, 0.0772208, 0.1668960225, 0.0520998, 0.1815675138, 0.252381),
    ),
]
CLASSES = [  # rows of weights a class, options; value, gradient norms of both; value and norm, T10
    ("arcface", 1, {}, 52.25916525, 22.1876, 15.9928, 17.84169528, 6.13079),
    ("cosface", 1, {}, 46.37042707, 24.1861, 16.1438, 16.59475985, 6.33965),
    ("large_margin_softmax", 1, {}, 8.089049403, 2.33948, 2.42415, 2.716730221, 1.09084),
    ("sphereface", 1, {}, 5.620251746, 1.47339, 0.425047, 1.904149328, 0.684048),
    ("normalized_softmax", 1, {}, 8.151243476, 7.15771, 4.00098, 3.055454095, 1.73149),
    ("p2s_grad", 1, {}, 0.337935682, 0.158468, 0.174801, None, None),
    ("proxy_anchor", 1, {}, 27.93151816, 17.5151, 9.75944, 26.84189189, 17.3162),
    ("proxy_nca", 1, {}, 1.782104235, 0.671063, 0.242166, 0.1041419405, 0.0390443),
    (
        "soft_triple",
        2,
        {"centers_per_class": 2},
        *(11.99619899, 8.53233, 4.5725, 3.415926052, 2.03329),
    ),
    (
        "subcenter_arcface",
        2,
        {"sub_centers": 2},
        *(63.80851952, 27.9526, 15.4428, 18.82616414, 7.49033),
    ),
]
OTHERS = [
    (lambda e: losses.fast_ap(e, Y), 0.8362513746, 0.13807),
    (lambda e: losses.fast_ap(e, Y, mined=t10()), 0.3229498562, 0.0859221),
    (lambda e: losses.histogram(e, Y), 0.8879629563, 0.898448),
    (lambda e: losses.histogram(e, Y, n_bins=20), 0.9016712886, 0.318916),
    (lambda e: losses.instance(e, Y), 59.23821489, 21.6633),
    (lambda e: losses.n_pairs(e, Y), 1.576720236, 0.405927),
    (lambda e: losses.n_pairs(e, Y, distance=PLAIN), 2.556650685, 1.5244),
    (lambda e: losses.pnp(e, Y, variant="O", anneal=0.1), 2.830035284, 0.707731),
    (lambda e: losses.pnp(e, Y, variant="Ds", anneal=0.1), 1.011344484, 0.16905),
    (lambda e: losses.pnp(e, Y, variant="Dq", anneal=0.1), 0.4734876605, 0.0489718),
    (lambda e: losses.pnp(e, Y, variant="Iu", anneal=0.1), 6.114623061, 1.77581),
    (lambda e: losses.pnp(e, Y, variant="Ib", anneal=0.1), 1.075802882, 0.306715),
    (lambda e: losses.ranked_list(e, Y, margin=0.4, Tn=2.0), 0.4703590986, 0.273434),
    (
        lambda e: losses.ranked_list(e, Y, margin=0.4, Tn=2.0, Tp=1.0, imbalance=0.3),
        *(0.6323785283, 0.184293),
    ),
    (lambda e: losses.margin(e, Y, 1.2, nu=0.1), 0.6641020365, 0.0805564),
    (lambda e: losses.margin(e, Y, jnp.full(4, 1.2), nu=0.1), 0.6231264251, 0.0805564),
    (lambda e: losses.vicreg(e, REFS[:8]), 26.90556913, 6.07001),
    (
        lambda e: losses.manifold(e, WEIGHTS[:3], proxy_ids=np.array([0, 1, 2, 0, 1, 2, 0, 1])),
        *(0.6624594356, 0.0413307),
    ),
    (lambda e: mj.self_supervised(losses.ntxent)(e, REFS[:8]), 9.908148955, 3.36185),
    (
        lambda e: mj.self_supervised(losses.ntxent, symmetric=False)(e, REFS[:8]),
        *(9.843661111, 4.41536),
    ),
]
PLAIN = DotProductSimilarity(normalize_embeddings=False)
LOOSE = {"margin", "manifold", "histogram", "p2s_grad"}  # PML computes parts of these in float32


def t10():
    return mj.tuples.from_triplets(*(jnp.array(x) for x in T10))


def gradient(fn, *args):
    """The value and the norms of the gradients, computed in double precision."""
    (found,) = gradients([fn], *args)
    return found


def gradients(fns, *args):
    """The same of several losses in one program, which compiles in half the time of many."""
    with jax.enable_x64(True):
        args = [jnp.asarray(x) for x in args]
        numbers = range(len(args))
        of = lambda fn, *x: jax.value_and_grad(lambda *x: mj.reduce(fn(*x))[0], numbers)(*x)
        norms = lambda value, grads: (value, *map(jnp.linalg.norm, grads))
        run = jax.jit(lambda *x: [norms(*of(fn, *x)) for fn in fns])
        return [tuple(map(float, found)) for found in run(*args)]


def close(got, want, loose=False):
    assert got[0] == pytest.approx(want[0], rel=2e-6 if loose else 2e-9)
    assert got[1:] == pytest.approx(want[1:], rel=1e-5)


MODES = "self", "refs", "triplets"


def wanted(row, mode):
    """Value and norm of a row of `PAIRED`."""
    return row[2 + 2 * MODES.index(mode) :][:2]


@functools.cache
def paired(mode):
    """What the rows of `PAIRED` that have numbers for a mode give, by their place."""
    given = {
        "self": lambda: {},
        "refs": lambda: {"refs": mj.Refs(REFS, REF_LABELS)},
        "triplets": lambda: {"mined": t10()},
    }[mode]
    rows = {i: row for i, row in enumerate(PAIRED) if wanted(row, mode)[0] is not None}
    bind = lambda name, options: lambda e: getattr(losses, name)(e, Y, **given(), **options)
    found = gradients([bind(*row[:2]) for row in rows.values()], E)
    return dict(zip(rows, found, strict=True))


@pytest.mark.parametrize("row", PAIRED, ids=lambda r: f"{r[0]}-{','.join(r[1])}")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.slow
def test_pair_and_triplet_losses(row, mode):
    if wanted(row, mode)[0] is None:
        pytest.skip("PyTorch Metric Learning ignores or confuses the references")
    close(paired(mode)[PAIRED.index(row)], wanted(row, mode), row[0] in LOOSE)


def weights_of(name, centers):
    """Class weights; those of `p2s_grad` are unit vectors."""
    w = WEIGHTS[: 5 * centers]
    return w / np.linalg.norm(w, axis=1, keepdims=True) if name == "p2s_grad" else w


@functools.cache
def with_classes(mined):
    """What the rows of `CLASSES` give, by name."""

    def bind(i, name, options):
        given = {"mined": t10()} if mined else {}
        return lambda e, *w: getattr(losses, name)(e, Y, w[i], **given, **options)

    fns = [bind(i, name, options) for i, (name, _, options, *_) in enumerate(CLASSES)]
    found = gradients(fns, E, *(weights_of(*row[:2]) for row in CLASSES))
    return {
        row[0]: (value, norm, norms[i])
        for i, (row, (value, norm, *norms)) in enumerate(zip(CLASSES, found, strict=True))
    }


@pytest.mark.slow
@pytest.mark.parametrize("row", CLASSES, ids=lambda r: r[0])
def test_losses_with_class_weights(row):
    name, _, _, value, norm, weight_norm, *_ = row
    close(with_classes(False)[name], (value, norm, weight_norm), name in LOOSE)


@pytest.mark.slow
@pytest.mark.parametrize("row", [r for r in CLASSES if r[-1] is not None], ids=lambda r: r[0])
def test_losses_with_class_weights_and_triplets(row):
    close(with_classes(True)[row[0]][:2], row[-2:])


@functools.cache
def others():
    return gradients([fn for fn, *_ in OTHERS], E)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(OTHERS)))
def test_other_losses(i):
    close(others()[i], OTHERS[i][1:], loose=True)


def test_values():
    """Of every row, by default without the gradients, which compile for longer."""
    bind = lambda name, options, *w: lambda e: getattr(losses, name)(e, Y, *w, **options)
    rows = [
        *((name, bind(name, options), value) for name, options, value, *_ in PAIRED),
        *((row[0], bind(row[0], row[2], weights_of(*row[:2])), row[3]) for row in CLASSES),
        *(("margin", fn, value) for fn, value, _ in OTHERS),  # all of them loose
    ]
    with jax.enable_x64(True):
        run = jax.jit(lambda e: [mj.reduce(fn(e))[0] for _, fn, _ in rows])
        for got, (name, _, want) in zip(run(jnp.asarray(E)), rows, strict=True):
            assert float(got) == pytest.approx(want, rel=2e-6 if name in LOOSE else 2e-9), name


@pytest.mark.slow
def test_angular_loss_on_unit_vectors():
    """PML leaves its negatives unnormalized, so the rows above do not apply."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    got = gradient(lambda e: losses.angular(e, Y), unit(E))
    again = gradient(lambda e: losses.angular(e, Y), 3 * E)
    assert got[0] == pytest.approx(again[0], rel=1e-12)


@pytest.mark.slow
def test_the_histogram_of_the_dynamic_soft_margin_runs_on():
    soft = functools.partial(losses.dynamic_soft_margin, num_bins=20, min_val=-3.0)

    @jax.jit
    def run(batch, refs):
        first, state = soft(batch[:8], Y, histogram=jnp.zeros(20))
        second, _ = soft(batch[1:9], Y, histogram=state)
        return [mj.reduce(terms)[0] for terms in (first, second, soft(batch[:8], refs=refs))]

    with jax.enable_x64(True):
        found = run(jnp.asarray(BATCH), mj.Refs(jnp.asarray(REFS[:8])))
    assert found == pytest.approx([0.2401779652, 0.2874958575, 0.5283037884], rel=1e-9)


def test_smooth_ap_where_pml_is_right():
    """As many classes as samples of each, in order: there its groups are the classes."""
    y = np.repeat(np.arange(3), 3)
    got = gradient(lambda e: losses.smooth_ap(e, y, temperature=0.1), BATCH[:9])
    assert got[0] == pytest.approx(0.3950392306, rel=1e-6)
    assert got[1] == pytest.approx(0.0743914, rel=1e-4)
