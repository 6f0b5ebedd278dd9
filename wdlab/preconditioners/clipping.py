"""Clipping in forms that need no copy of the gradients."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import is_fixed, squares, working_dtype
from wdlab._core.transformation import with_extra_args

PyTree = Any
ClippingDirection = Literal["down", "up"]


def clip_by_global_norm(
    max_norm: ArrayLike, *, eps: ArrayLike = 0.0
) -> optax.GradientTransformation:
    r"""Scales all gradients down together so that their joint norm is at most ``max_norm``.

    One step is :math:`g \leftarrow g \min(1, c / (\lVert g \rVert + \epsilon))` with the norm over
    all leaves, summed in float32 or wider. One multiplication: XLA fuses it into what follows,
    where ``optax.clip_by_global_norm`` (0.2.8) chooses between two trees and keeps a copy of one.

    Args:
      max_norm: ``c`` > 0, in units of the gradient.
      eps: :math:`\epsilon` >= 0, in the same unit; 1e-6 in ``torch.nn.utils.clip_grad_norm_``.

    Raises:
      TypeError, ValueError: If a number is out of range.

    >>> tx = clip_by_global_norm(1.0)
    >>> gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> updates, _ = tx.update(gradients, tx.init(gradients))
    >>> [round(float(leaf[0]), 6) for leaf in jax.tree.leaves(updates)]
    [0.6, 0.8]

    Source: Pascanu et al. 2013, arXiv 1211.5063, Algorithm 1.
    """
    check_number("max_norm", max_norm, low_open=True)
    check_number("eps", eps)

    def clip(updates: PyTree) -> PyTree:
        total = sum(jnp.sum(squares(g)) for g in jax.tree.leaves(updates) if not is_fixed(g))
        norm = jnp.sqrt(total) + eps
        # A norm of 0 gives 1; a NaN is not <= and stays NaN, to be seen further down.
        factor = jnp.where(norm <= max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda g: g if is_fixed(g) else _scaled(g, factor), updates)

    return with_extra_args(optax.stateless(lambda updates, params: clip(updates)))


def clip_by_leaf_norm(max_norm: ArrayLike) -> optax.GradientTransformation:
    r"""Scales each gradient down by itself so that its own norm is at most ``max_norm``.

    One step is :math:`g \leftarrow g \min(1, c / \lVert g \rVert)` for every leaf: Keras'
    ``clipnorm``. For the norm of all leaves together, Keras' ``global_clipnorm``, there is
    :func:`clip_by_global_norm`; for single entries, ``clipvalue``, ``optax.clip``.

    Args:
      max_norm: ``c`` > 0, in units of the gradient.

    Raises:
      TypeError, ValueError: If ``max_norm`` is not a number > 0.

    >>> tx = clip_by_leaf_norm(1.0)
    >>> gradients = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
    >>> tx.update(gradients, tx.init(gradients))[0]["b"].tolist()
    [0.5]

    Source: Keras 3.15.1, keras/src/optimizers/base_optimizer.py, ``_clip_by_norm``.
    """
    one = clip_by_global_norm(max_norm)

    def clip(g: PyTree) -> PyTree:
        return one.update(g, optax.EmptyState())[0]

    return with_extra_args(optax.stateless(lambda updates, params: jax.tree.map(clip, updates)))


def clip_by_block_rms(
    threshold: ArrayLike = 1.0, *, direction: ClippingDirection = "down"
) -> optax.GradientTransformation:
    r"""Bounds the root mean square of each leaf's update.

    One step is :math:`u \leftarrow u / \max(1, \operatorname{RMS}(u)/d)` for "down", in float32
    for 16-bit leaves. A leaf is a block: layers stacked into one leaf (``nn.scan``) are clipped
    together, which T5X avoids with logical axes and this does not. First in a chain it keeps no
    copy of the gradients; after another transformation XLA:CPU keeps that one's result.

    Args:
      threshold: d, above 0, in the unit of the updates.
      direction: "down" (the paper and everyone else). "up" is timm's ``adafactor_bv``, which
        divides by :math:`\min(1, d \operatorname{RMS}(u))`: it leaves large updates alone and
        enlarges small ones; an update that is all zero stays zero here, where timm gives NaN.

    Raises:
      TypeError: If ``threshold`` is not a number.
      ValueError: If it is not above 0, or ``direction`` is unknown.

    Example:
      >>> update = jnp.array([3.0, 4.0])
      >>> tx = clip_by_block_rms(1.0)
      >>> clipped, _ = tx.update(update, tx.init(update))
      >>> round(float(jnp.sqrt(jnp.mean(clipped**2))), 5)
      1.0

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, section 6 and Algorithm 4.
    """
    divisor = clipping_divisor(threshold, direction=direction)

    def clip(u: jax.Array) -> jax.Array:
        return u if is_fixed(u) else (u / divisor(root_mean_square(u))).astype(u.dtype)

    return with_extra_args(optax.stateless(lambda updates, params: jax.tree.map(clip, updates)))


def clipping_divisor(
    threshold: ArrayLike = 1.0, *, direction: ClippingDirection = "down"
) -> Callable[[jax.Array], jax.Array]:
    """Returns what :func:`clip_by_block_rms` divides an update by, of the update's RMS.

    >>> clipping_divisor(0.5)(jnp.asarray(2.0)).item()
    4.0
    """
    check_number("threshold", threshold, low_open=True)
    check_choice("direction", direction, get_args(ClippingDirection))

    def divisor(rms: jax.Array) -> jax.Array:
        d = jnp.asarray(threshold, rms.dtype)
        if direction == "down":
            return jnp.maximum(rms / d, 1.0)
        return jnp.where(rms > 0, jnp.minimum(rms * d, 1.0), 1.0)

    return divisor


def root_mean_square(leaf: jax.Array) -> jax.Array:
    """Returns the root mean square of all entries, in float32 or wider, shape ().

    >>> root_mean_square(jnp.array([3.0, -3.0], jnp.bfloat16))
    Array(3., dtype=float32)
    """
    return jnp.sqrt(jnp.mean(squares(leaf)))


def _scaled(g: jax.Array, factor: jax.Array) -> jax.Array:
    dtype = working_dtype(g)
    return (jnp.asarray(g, dtype) * factor.astype(dtype)).astype(jnp.result_type(g))
