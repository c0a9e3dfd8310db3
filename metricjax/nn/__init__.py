"""Flax modules that own the class weights of a loss and call the pure function.

A module takes the loss's options as defaults and each call may override them. Those given at
construction are static; give what is traced, scheduled or learned at the call:

    >>> import jax.numpy as jnp, metricjax as mj
    >>> from flax import nnx
    >>> head = mj.nn.ArcFace(10, 64, margin=20.0, rngs=nnx.Rngs(0))
    >>> x, y = jnp.ones((4, 64)), jnp.arange(4)
    >>> loss, parts = mj.reduce(head(x, y, margin=jnp.float32(5.0)))

Linen users get the same modules from ``flax.nnx.bridge.to_linen(mj.nn.ArcFace, 10, 64)``.
"""

from metricjax.nn._heads import AdaCos as AdaCos
from metricjax.nn._heads import AdaFace as AdaFace
from metricjax.nn._heads import ArcFace as ArcFace
from metricjax.nn._heads import Center as Center
from metricjax.nn._heads import CombinedMargin as CombinedMargin
from metricjax.nn._heads import CosFace as CosFace
from metricjax.nn._heads import CurricularFace as CurricularFace
from metricjax.nn._heads import ElasticFace as ElasticFace
from metricjax.nn._heads import LargeMarginSoftmax as LargeMarginSoftmax
from metricjax.nn._heads import MagFace as MagFace
from metricjax.nn._heads import Manifold as Manifold
from metricjax.nn._heads import NormalizedSoftmax as NormalizedSoftmax
from metricjax.nn._heads import P2SGrad as P2SGrad
from metricjax.nn._heads import ProxyAnchor as ProxyAnchor
from metricjax.nn._heads import ProxyNCA as ProxyNCA
from metricjax.nn._heads import SoftTriple as SoftTriple
from metricjax.nn._heads import SphereFace as SphereFace
from metricjax.nn._heads import SubCenterArcFace as SubCenterArcFace
from metricjax.nn._memory import CrossBatchMemory as CrossBatchMemory
from metricjax.nn._numbers import GE2E as GE2E
from metricjax.nn._numbers import DynamicSoftMargin as DynamicSoftMargin
from metricjax.nn._numbers import Margin as Margin
from metricjax.nn._numbers import SigLIP as SigLIP
from metricjax.nn._states import DINO as DINO
from metricjax.nn._states import ISogCLR as ISogCLR
from metricjax.nn._states import SogCLR as SogCLR
