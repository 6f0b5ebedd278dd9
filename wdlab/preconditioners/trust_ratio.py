"""Steps measured by the weights that they move: LAMB's and LARS' trust ratios, bounds by norm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number, is_zero, require_params
from wdlab._core.dtypes import check_real, is_fixed, squares, wider, working_dtype
from wdlab._core.transformation import transformation, with_extra_args
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import like
from wdlab.rules import ALL, decisions, normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class LarsState(NamedTuple):
    """State of :func:`scale_by_lars`."""

    count: jax.Array  # int32, shape (): updates made.


def scale_by_trust_ratio(
    coefficient: ArrayLike = 1.0,
    *,
    eps: ArrayLike = 0.0,
    max_ratio: ArrayLike | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""Makes the norm of each leaf's update that of its weights: LAMB's last part.

    One step is :math:`u \leftarrow u\, \tau\lVert\theta\rVert / (\lVert u\rVert + \epsilon)`; where
    one of the norms is 0 the update stays as it is. What decay adds before it is scaled with the
    rest: a leaf without gradient shrinks by the learning rate, whatever the weight decay is. Decay
    after it is decoupled.

    It is ``optax.scale_by_trust_ratio`` without that one's differentiable norms, which keep a copy
    of update and weights, and without the copy's 16 bits.

    Args:
      coefficient: :math:`\tau` > 0: 1 for LAMB, 1e-3 for LARS.
      eps: :math:`\epsilon` >= 0, in units of the update.
      max_ratio: Largest ratio, above 0; 1 in LAMBC and LARC. None: none.
      rules: Leaves with scale 0 keep their update: timm and apex leave those alone that do not
        decay. :data:`wdlab.rules.ALL` for all leaves, as in the paper and in Optax.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``update`` without ``params``.

    >>> tx = scale_by_trust_ratio()
    >>> update, params = jnp.array([0.3, 0.4]), jnp.array([6.0, 8.0])
    >>> tx.update(update, tx.init(params), params)[0].tolist()
    [6.0, 8.0]

    Source: You et al. 2019, arXiv 1904.00962, Algorithm 2.
    """
    check_number("coefficient", coefficient, low_open=True)
    check_number("eps", eps)
    if max_ratio is not None:
        check_number("max_ratio", max_ratio, low_open=True)

    def ratio(size: jax.Array, length: jax.Array) -> jax.Array:
        whole = length + like(eps, length)
        found = like(coefficient, size) * size / jnp.where(whole > 0, whole, 1)
        found = jnp.where((size > 0) & (length > 0), found, 1)
        return found if max_ratio is None else jnp.minimum(found, like(max_ratio, found))

    return _measured("scale_by_trust_ratio", ratio, rules)


def clip_by_weight_norm(
    max_ratio: ArrayLike, *, measure: Callable[[PyTree, PyTree], PyTree] | None = None
) -> optax.GradientTransformation:
    r"""Bounds the norm of each leaf's update by a share of the norm of its weights.

    One step is :math:`u \leftarrow u \min(1, c\lVert\theta\rVert / \lVert u\rVert)`: a leaf that is
    all zero does not move. It is what bitsandbytes calls ``max_unorm``, and its LAMB.

    Args:
      max_ratio: ``c`` > 0: 1 for bitsandbytes' LAMB, 0.02 for its LARS.
      measure: Of updates and params, a tree like the updates whose norms are taken instead.

    Raises:
      TypeError, ValueError: If it is not a number above 0; from ``update`` without ``params``.

    >>> tx = clip_by_weight_norm(0.5)
    >>> update, params = jnp.array([3.0, 4.0]), jnp.array([0.0, 1.0])
    >>> [round(float(x), 6) for x in tx.update(update, tx.init(params), params)[0]]
    [0.3, 0.4]

    Source: bitsandbytes 95f9af30, csrc/kernels.cu, ``kOptimizer32bit2State``.
    """
    check_number("max_ratio", max_ratio, low_open=True)

    def bound(size: jax.Array, length: jax.Array) -> jax.Array:
        return jnp.minimum(like(max_ratio, size) * size / jnp.where(length > 0, length, 1), 1)

    return _measured("clip_by_weight_norm", bound, ALL, measure)


def scale_by_lars(
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    coefficient: ArrayLike = 1e-3,
    eps: ArrayLike = 1e-8,
    max_step: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
    always: bool = False,
) -> optax.GradientTransformation:
    r"""LARS: gradient and decay together, scaled by each leaf's own rate. Momentum comes after it.

    One step is :math:`u = r (g + \lambda s\theta)` with the leaf's own rate
    :math:`r = \tau\lVert\theta\rVert / (\lVert g\rVert + \lambda s\lVert\theta\rVert + \epsilon)`,
    1 where one of the norms is 0. ``optax.lars`` divides by the norm of the sum instead.

    Args:
      weight_decay: :math:`\lambda` >= 0, number or schedule.
      coefficient: :math:`\tau` > 0.
      eps: :math:`\epsilon` >= 0, in units of the gradient.
      max_step: The learning rate, for LARC: the leaf's rate is at most this, and is given in its
        units. None: no bound (LARS).
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.
      always: Whether leaves without decay are scaled as well; timm and NVIDIA leave them alone.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``update`` without ``params``.

    >>> tx = scale_by_lars(0.25, coefficient=1.0, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([4.0])), jnp.array([4.0]))[0].tolist()
    [4.0]

    Source: You et al. 2017, arXiv 1708.03888, Algorithm 1; timm 1.0.31, timm/optim/lars.py.
    """
    check_number("weight_decay", weight_decay, schedule=True)
    check_number("coefficient", coefficient, low_open=True)
    check_number("eps", eps)
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> LarsState:
        check_real("scale_by_lars", params)
        decisions(params, rules)
        return LarsState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, LarsState]:
        new = LarsState(next_count(state.count))
        if is_zero(weight_decay) and not always:
            return updates, new
        require_params("scale_by_lars", params)
        strength, leaves = value_at(weight_decay, state.count), decisions(params, rules)
        rate = None if max_step is None else value_at(max_step, state.count)

        def scaled(g: jax.Array, decision: Any) -> jax.Array:
            p, s = decision.leaf, decision.scale
            if is_fixed(p) or (s == 0 and not always):
                return g
            g, p = (x.astype(working_dtype(wider(g, p))) for x in (g, p))
            decay, size, length = like(strength * s, p), _norm(p), _norm(g)
            whole = length + size * decay + like(eps, size)
            ratio = like(coefficient, size) * size / jnp.where(whole > 0, whole, 1)
            ratio = jnp.where((size > 0) & (length > 0), ratio, 1)
            if rate is not None:
                ratio = jnp.minimum(ratio / like(rate, ratio), 1)
            return (g + decay * p) * ratio

        treedef = jax.tree.structure(updates)
        pairs = zip(jax.tree.leaves(updates), leaves, strict=True)
        steps = [scaled(g, d).astype(wider(g, d.leaf)) for g, d in pairs]
        return treedef.unflatten(steps), new

    return transformation(init_fn, update_fn)


def _measured(
    name: str,
    ratio: Callable[[jax.Array, jax.Array], jax.Array],
    rules: PyTree,
    measure: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Multiplies each leaf's update by ``ratio(norm of weights, norm of update)``."""
    rules = normalize_rules(rules)

    def scale(update: jax.Array, of: jax.Array, decision: Any) -> jax.Array:
        if is_fixed(update) or decision.scale == 0:
            return update
        factor = ratio(_norm(decision.leaf), _norm(of))
        return (update.astype(working_dtype(update)) * factor).astype(update.dtype)

    def measured(updates: PyTree, params: PyTree | None) -> PyTree:
        require_params(name, params)
        leaves, treedef = jax.tree.flatten(updates)
        of = leaves if measure is None else jax.tree.leaves(measure(updates, params))
        return treedef.unflatten(map(scale, leaves, of, decisions(params, rules)))

    return with_extra_args(optax.stateless(measured))


def _norm(leaf: jax.Array) -> jax.Array:
    """The Euclidean norm, in float32 or wider, shape ()."""
    return jnp.sqrt(jnp.sum(squares(leaf)))
