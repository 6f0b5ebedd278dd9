"""APOLLO: gradients scaled by channel as Adam scales a random projection of them."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, check_whole
from wdlab.preconditioners.adam_formulas import AdamFormulas
from wdlab.preconditioners.low_rank import Projected, Side, low_rank, singular_vectors
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any
ScaleBy = Literal["channel", "tensor"]
Projection = Literal["random", "svd"]


def scale_by_apollo(
    rank: int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    *,
    refresh_every: int = 200,
    scale: ArrayLike = 1.0,
    scale_by: ScaleBy = "channel",
    scale_first: bool = False,
    growth_limit: ArrayLike | None = 1.01,
    side: Side = "std",
    projection: Projection = "random",
    seed: int = 0,
    bias_correction: bool = True,
    batch_axes: PyTree = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into APOLLO's direction: no learning rate, no sign, no decay.

    P has normal entries over :math:`\sqrt{rank}`. With :math:`R = G P` (or :math:`P^T G`) and
    :math:`S = m / (\sqrt v + \epsilon)` of R, each channel of G is multiplied by
    :math:`\|S_j\| / (\|R_j\| + 10^{-8})`, norms over the axis that P reduced, and by
    :math:`\sqrt{scale}`. A step that would be larger than 1.01 times the last one is cut to that.
    The correction :math:`\sqrt{c_2}/c_1` comes last. Other leaves than matrices get Adam.

    After a step without any gradient the limit starts at 1e-8 and grows by 1% a step, as in the
    original: ``growth_limit=None`` leaves it out.

    Args:
      rank: Columns of P, at least 1; 1 with ``scale_by="tensor"`` and ``scale=128`` is APOLLO-Mini.
      b1: As in :func:`scale_by_galore`.
      b2: As there.
      eps: As there.
      refresh_every: As there.
      scale: At least 0; its root multiplies the direction.
      scale_by: "channel", or "tensor": one factor, of norms over the whole matrix.
      scale_first: Whether the root of ``scale`` comes before the limit.
      growth_limit: Largest growth of the direction's norm in a step, at least 1; None: no limit.
      side: As in :func:`scale_by_galore`.
      projection: "random" as above; "svd": the gradient's singular vectors, as GaLore.
      seed: Of the random projections. Leaf and step number make each another one.
      bias_correction: As there.
      batch_axes: As there.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    >>> gradient = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    >>> tx = scale_by_apollo(1, eps=0.0, projection="svd")
    >>> jnp.round(tx.update(gradient, tx.init(gradient))[0], 3).tolist()
    [[1.0, 0.0], [1.0, 0.0]]

    Source: Zhu et al. 2024, https://arxiv.org/abs/2412.05270, Algorithm 1; apollo-torch 1.0.3.
    """
    check_whole("rank", rank)
    check_number("scale", scale)
    check_choice("scale_by", scale_by, get_args(ScaleBy))
    check_choice("projection", projection, get_args(Projection))
    check_whole("seed", seed, least=0)
    if growth_limit is not None:
        check_number("growth_limit", growth_limit, low=1.0)
    adam = AdamFormulas(b1=b1, b2=b2, eps=eps, epsilon="hat", bias_correction=False)

    def draw(g: jax.Array, right: bool, leaf: int, number: jax.Array) -> jax.Array:
        if projection == "svd":
            return singular_vectors(g, rank, right=right)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), leaf), number)
        shape = (*g.shape[:-2], g.shape[-1 if right else -2], rank)
        return jax.random.normal(key, shape, g.dtype) / math.sqrt(rank)

    def limited(step: jax.Array, before: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = _norm(step, (-2, -1))
        if growth_limit is not None:
            most = jnp.asarray(growth_limit, step.dtype)
            cut = jnp.maximum(norm / (before[..., None, None] + 1e-8), most) / most
            cut = jnp.where(t == 1.0, jnp.ones_like(cut), cut)
            step, norm = step / cut, norm / cut
        return step, norm[..., 0, 0]

    def direction(x: Projected, t: jax.Array) -> tuple[jax.Array, Any]:
        step = adam.direction(x.low, x.leaf.mu, x.leaf.nu, adam.scalars(t, None)[0])
        norm = x.leaf.norm
        if x.right is not None:
            g, root = x.gradient, jnp.sqrt(jnp.asarray(scale, step.dtype))
            axes = (-2, -1) if scale_by == "tensor" else (-1 if x.right else -2,)
            step = g * (_norm(step, axes) / (_norm(x.low, axes) + 1e-8))
            step, norm = limited(step * root if scale_first else step, x.leaf.norm, t)
            step = step if scale_first else step * root
        if bias_correction:
            corrected = jnp.sqrt(one_minus_power(b2, t)) / one_minus_power(b1, t)
            step = step * jnp.asarray(corrected, step.dtype)
        return step, norm

    return low_rank(
        "scale_by_apollo", adam, draw, direction,
        refresh_every=refresh_every, side=side, batch_axes=batch_axes, norms=True,
    )  # fmt: skip


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))
