"""Measurements of a training step: pure functions of params, updates, gradients, optimizer state.

All run under ``jax.jit`` and belong inside the jitted step, where XLA reduces each array as it is
made and keeps no copy. Squares are summed in float32 or wider. ``updates`` are what is added to the
parameters, as Optax returns them; where rounding matters (16-bit parameters), pass what really
happened, ``jax.tree.map(jnp.subtract, after, before)``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.dtypes import widen
from wdlab.instruments.norms import (
    Scalars,
    dot,
    norm,
)
from wdlab.preconditioners import NesterovAdamState, ScaleByAdamState, one_minus_power
from wdlab.rules import leaves_with_paths

PyTree = Any
_ADAM_STATES = (
    ScaleByAdamState,
    NesterovAdamState,
    optax.ScaleByAdamState,
    optax.ScaleByAmsgradState,
    optax.ScaleByBeliefState,
)


def effective_learning_rate(
    opt_state: PyTree, learning_rate: ArrayLike, eps: float = 1e-8, b2: float | None = None
) -> jax.Array:
    r"""What Adam multiplies a gradient with: the mean of :math:`lr / (\sqrt{v_i} + \epsilon)`.

    Args:
      opt_state: State of any chain of Optax or wdlab with Adam in it (also under ``partition``,
        ``masked``, ``MultiSteps``, ``inject_hyperparams``), AdaBelief and NAdam included; the mean
        is over all entries of all of them. AMSGrad's running maximum is not looked at.
      learning_rate: ``lr`` of this step, a number.
      eps: Epsilon outside the root, as the optimizer has it, >= 0.
      b2: Decay rate of the second moment in [0, 1), to correct it for its start at zero,
        :math:`v/(1-b_2^t)`. None: plain v, as in the code of Andriushchenko et al. 2023.

    Raises:
      ValueError: If there is no Adam in ``opt_state``.

    >>> tx = optax.chain(optax.clip_by_global_norm(1e9), optax.adam(0.1, b2=0.75))
    >>> grads = {"w": jnp.array([2.0, 4.0])}
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> float(effective_learning_rate(state, 1.0, 0.0))  # v = (1, 4), mean of 1 and 1/2
    0.75
    >>> round(float(effective_learning_rate(state, 1.0, 0.0, b2=0.75)), 6)  # v = (4, 16)
    0.375
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, _ADAM_STATES))
    states = [node for node in nodes if isinstance(node, _ADAM_STATES)]
    if not states:
        raise ValueError(
            "effective_learning_rate: found no Adam in the optimizer state, a "
            f"{type(opt_state).__name__} of {len(nodes)} arrays. Leave this metric out for SGD "
            "and the like."
        )
    total, entries = jnp.zeros(()), 0
    for state in states:
        # Before the first update v is 0, and so is its correction.
        corrected = 1.0 if b2 is None else one_minus_power(b2, jnp.maximum(state.count, 1))
        for v in map(jnp.real, jax.tree.leaves(widen(state.nu))):  # Optax' is complex by dtype.
            rates = learning_rate / (jnp.sqrt(v / jnp.asarray(corrected, v.dtype)) + eps)
            total, entries = total + jnp.sum(rates), entries + v.size
    return total / entries


def angular_update(params: PyTree, updates: PyTree) -> jax.Array:
    r"""The angle in radians between the parameters before and after the step.

    With d the update and :math:`\hat\theta = \theta / |\theta|` it is :math:`\operatorname{atan2}
    (|d - (d\cdot\hat\theta)\hat\theta|,\ |\theta| + d\cdot\hat\theta)`, which keeps all digits of
    small angles; an arc cosine loses every angle below 3e-4 in float32.

    Args:
      params: Pytree of arrays, before the step.
      updates: Like ``params``: what the step adds.

    Returns:
      The angle in [0, pi], shape (), of all leaves as one vector; 0 where a vector is zero.

    >>> params, updates = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1e-6])}
    >>> f"{float(angular_update(params, updates)):.3e}"
    '1.000e-06'
    """
    params, updates = widen(params), widen(updates)
    square = dot(params, params)
    nonzero = square > 0
    share = dot(params, updates) / jnp.where(nonzero, square, 1.0)
    across = norm(jax.tree.map(lambda d, p: d - share.astype(d.dtype) * p, updates, params))
    angle = jnp.arctan2(across, jnp.sqrt(square) * (1.0 + share))
    return jnp.where(nonzero, angle, 0.0)


def angular_updates(params: PyTree, updates: PyTree) -> Scalars:
    """The angle of every leaf, see :func:`angular_update`: path -> radians.

    Args:
      params: Pytree of arrays, before the step.
      updates: Like ``params``: what the step adds.

    >>> params, updates = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-1.0, 1.0])}
    >>> round(float(angular_updates(params, updates)["w"]), 4)
    1.5708
    """
    pairs = zip(leaves_with_paths(params), jax.tree.leaves(updates), strict=True)
    return {path: angular_update(leaf, update) for (path, leaf), update in pairs}


def decay_share(updates: PyTree, updates_without_decay: PyTree) -> jax.Array:
    r"""How much of the step is decay: :math:`|u - u_0| / |u|`, with :math:`u_0` the step without.

    Args:
      updates: The whole step u.
      updates_without_decay: Like ``updates``: the same step by the same optimizer without decay.

    Returns:
      A ratio >= 0, shape (); above 1 where gradient and decay pull against each other, 0 where
      nothing moves.

    >>> with_decay, without = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 3.0])}
    >>> round(float(decay_share(with_decay, without)), 6)
    0.2
    """
    whole = norm(updates)
    decay = norm(jax.tree.map(jnp.subtract, widen(updates), widen(updates_without_decay)))
    return decay / jnp.where(whole > 0, whole, 1.0)


class ClipCounts(NamedTuple):
    """How often clipping acted; start with ``ClipCounts.zero()``."""

    steps: jax.Array  # int32, shape (): steps counted.
    clipped: jax.Array  # int32, shape (): those whose gradient norm was above the threshold.

    @classmethod
    def zero(cls) -> "ClipCounts":
        """Counts before the first step."""
        return cls(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32))

    def add(self, grad_norm: ArrayLike, max_norm: ArrayLike) -> "ClipCounts":
        """Counts one step with this norm of its gradient, before clipping at ``max_norm``."""
        return ClipCounts(self.steps + 1, self.clipped + (jnp.asarray(grad_norm) > max_norm))

    def rate(self) -> jax.Array:
        """The share of steps clipped, in [0, 1]; 0 before the first.

        >>> counts = ClipCounts.zero().add(2.0, max_norm=1.0).add(0.5, max_norm=1.0)
        >>> float(counts.rate())
        0.5
        """
        return self.clipped / jnp.maximum(self.steps, 1)
