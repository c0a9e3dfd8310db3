"""A scheme with hard negatives from a generator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metricjax._compose import objective as bound
from metricjax._compose import reduce
from metricjax._core.refs import replicated, take
from metricjax._core.types import LossTerm, Scalar
from metricjax.distances import normalize
from metricjax.losses import triplet_margin
from metricjax.training._step import Step, Weights, make_scheme
from metricjax.tuples import from_triplets, random_triplets


def deep_adversarial(
    trunk: Callable,
    embedder: Callable,
    generator: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    synth_loss: Callable = bound(triplet_margin),
    adv_margin: Scalar = 0.05,
    triplets_per_anchor: int = 100,
    metric_steps: Scalar = 0,
    generator_steps: Scalar = 0,
    classifier: Callable | None = None,
    classification: Callable = optax.softmax_cross_entropy_with_integer_labels,
    weights: Weights | None = None,
) -> Step:
    r"""Trains a network on a batch and on negatives that a generator makes from random triplets.

    Let :math:`h` be the features of the trunk, :math:`f` the embedder,
    :math:`\tilde h = G(h_a, h_p, h_n)` the output of the generator, and :math:`d` the distance of
    unit vectors. Squares are those of unit vectors, averaged over the features:

    .. math::
        L_\text{adv} = [d(f(h_a), f(\tilde h)) - d(f(h_a), f(h_p)) - m]_+, \quad
        L_\text{hard} = (\tilde h - h_a)^2, \quad
        L_\text{reg} = (\tilde h - h_n)^2

    All losses are added up, and their gradients reach all networks, as in the paper. For the first
    `metric_steps` steps, only the losses of real samples count. For the next `generator_steps`
    steps, only the losses of the generator count, and only the generator is trained. Then all
    losses count. An optimizer with momentum keeps moving parameters that have no gradient. Prevent
    that with `optax.conditionally_mask`:

    Example:
        >>> import jax, jax.numpy as jnp, metricjax as mj, optax
        >>> linear = lambda params, x: x @ params
        >>> of = lambda active: optax.conditionally_mask(optax.sgd(0.1, momentum=0.9), active)
        >>> network, generator = of(lambda i: (i < 5) | (i >= 8)), of(lambda i: i >= 5)
        >>> names = {"trunk": "network", "embedder": "network", "generator": "generator"}
        >>> optimizer = optax.partition({"network": network, "generator": generator}, names)
        >>> loss = mj.objective(mj.losses.contrastive)
        >>> step = jax.jit(mj.training.deep_adversarial(
        ...     linear, linear, linear, loss, optimizer, metric_steps=5, generator_steps=3
        ... ))
        >>> sizes = {"trunk": (3, 4), "embedder": (4, 2), "generator": (12, 4)}
        >>> params = {name: jnp.ones(size) for name, size in sizes.items()}
        >>> state = mj.training.State.create(params, optimizer, key=jax.random.key(0))
        >>> state, metrics = step(state, (jnp.eye(3), jnp.array([0, 0, 1])))
        >>> print([name for name in sorted(metrics) if name.startswith("g_")])
        ['g_adv_loss', 'g_hard_loss', 'g_reg_loss']

    Args:
        trunk: ``(params["trunk"], inputs) -> [N, H]``; see ``network`` of `metric_loss_only`.
        embedder: ``(params["embedder"], features) -> [N, D]``.
        generator: ``(params["generator"], [T, 3H]) -> [T, H]``: maps anchor, positive and negative,
            side by side, to a synthetic negative.
        loss, optimizer: see `metric_loss_only`.
        synth_loss: what `metricjax.objective` returns. It gets triplets with the synthetic
            negatives as ``mined``.
        adv_margin: m, how much farther than the positive the synthetic negative may be.
        triplets_per_anchor: how many triplets are drawn for each anchor; static.
        metric_steps, generator_steps: how many steps the first two phases last.
        classifier, classification: see `with_classifier`.
        weights: factors of ``metric_loss``, ``classifier_loss``, ``synth_loss``, ``g_adv_loss``,
            ``g_hard_loss`` and ``g_reg_loss``, as in `with_classifier`.

    Returns:
        ``step(state, (inputs, labels)) -> (state, metrics)``, not yet compiled. The state needs a
        key. A loss that does not count in a phase still has its value in the metrics.

    References:
        Duan et al., `Deep Adversarial Metric Learning <https://openaccess.thecvf.com/content_cvpr_2018/papers/Duan_Deep_Adversarial_Metric_CVPR_2018_paper.pdf>`_,
        2018.
    """  # noqa: E501
    name = "deep_adversarial"
    head = [] if classifier is None else ["classifier"]
    known = ["metric_loss", "synth_loss", "g_adv_loss", "g_hard_loss", "g_reg_loss"]
    known += [f"{x}_loss" for x in head]
    needed = ["trunk", "embedder", "generator", *head]

    def add_losses(run, inputs, labels):
        with_metric = run.step < metric_steps
        with_generator = ~with_metric & (run.step < metric_steps + generator_steps)
        real, made = (jnp.where(x, 0.0, 1.0) for x in (with_generator, with_metric))
        held = lambda x: jnp.where(with_generator, jax.lax.stop_gradient(x), x)
        hold = lambda name, x: x if name == "generator" else jax.tree.map(held, x)
        run.params = {name: hold(name, x) for name, x in run.params.items()}

        features = run.network("trunk", trunk, inputs)
        embeddings = run.network("embedder", embedder, features)
        run.metric_loss("metric_loss", loss, embeddings, labels, factor=real)
        if classifier is not None:
            head = "classifier", classifier, classification
            run.classifier_loss(*head, embeddings, labels, real)

        *rows, where = random_triplets(run.new_key(), labels, triplets_per_anchor)
        features, labels = replicated((features, labels))
        a, p, n = (take(features, i) for i in rows)
        synthetic = run.network("generator", generator, jnp.concatenate([a, p, n], 1))
        x = run.network("embedder", embedder, jnp.concatenate([a, p, synthetic]))
        of_rows = jnp.concatenate([take(labels, i) for i in rows])
        i, j, k = jnp.arange(3 * len(a)).reshape(3, -1)
        triplets = from_triplets(i, j, k, where)
        run.metric_loss("synth_loss", synth_loss, x, of_rows, real * made, mined=triplets)
        turned = from_triplets(i, k, j, where)  # the synthetic negative should be closer
        square = lambda y: jnp.mean((normalize(synthetic) - normalize(y)) ** 2, 1)
        terms = {
            "g_adv_loss": triplet_margin(x, mined=turned, margin=-adv_margin)["loss"],
            "g_hard_loss": LossTerm(square(a), where),
            "g_reg_loss": LossTerm(square(n), where),
        }
        for part, value in reduce(terms)[1].items():
            run.add(part, value, made)

    return make_scheme(name, add_losses, optimizer, needed, weights=weights, known=known)
