"""Decay and step one after the other, for systems where the second sees what the first did.

``decay_weights`` last in a chain decays the weights of before the step, and most systems that
multiply the weights by ``1 - delta`` first compute the same step from the same weights. These two
orders are for those where it makes a difference.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.dtypes import is_fixed
from wdlab._core.transformation import with_extra_args

PyTree = Any


class InTurnState(NamedTuple):
    """States of the two transformations, in the order in which they act."""

    first: PyTree
    second: PyTree


def decay_then_step(
    decay: optax.GradientTransformation, step: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""Decays the weights first; the step sees the decayed ones.

    With :math:`\theta' = \theta_{t-1} + d(\theta_{t-1})`, one step is
    :math:`\theta_t = \theta' + u(g_t, \theta')`. It differs from a chain where the step reads
    parameters: Keras' Adafactor and LAMB measure the decayed weights.

    Args:
      decay: The decay alone, :func:`wdlab.decay_weights`; it is given zero updates, so its
        ``cautious`` has no step to look at.
      step: The rest of the optimizer, learning rate and sign included.

    Raises:
      ValueError: From ``update`` without ``params``, where a part needs them.

    Example:
      >>> from wdlab.decay import decay_weights
      >>> to_unit_size = optax.chain(optax.scale_by_param_block_rms(), optax.scale(-1.0))
      >>> tx = decay_then_step(decay_weights(0.5), to_unit_size)
      >>> theta = jnp.array([4.0])
      >>> tx.update(jnp.array([1.0]), tx.init(theta), theta)[0].tolist()  # 4 -> 2 -> 0
      [-4.0]

    Source: Keras 3.15, keras/src/optimizers/base_optimizer.py, ``_apply_weight_decay``.
    """
    return _in_turn(decay, step, gradient_to_first=False)


def step_then_decay(
    step: optax.GradientTransformation, decay: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""Takes the step first; the decay acts on the updated weights.

    With :math:`\theta' = \theta_{t-1} + u_t`, one step is
    :math:`\theta_t = \theta' + d(\theta') = (1 - \delta)(\theta_{t-1} + u_t)`: the fresh step
    decays too, so it differs from AdamW by :math:`\delta u_t`, of second order in the learning
    rate. Transformers' own AdamW (before 5.0) does this.

    Args:
      step: The optimizer, learning rate and sign included.
      decay: The decay alone, :func:`wdlab.decay_weights`; it is given zero updates, so its
        ``cautious`` has no step to look at.

    Raises:
      ValueError: From ``update`` without ``params``, where a part needs them.

    Example:
      >>> from wdlab.decay import decay_weights
      >>> tx = step_then_decay(optax.sgd(1.0), decay_weights(0.5))
      >>> theta = jnp.array(4.0)
      >>> tx.update(jnp.array(2.0), tx.init(theta), theta)[0].item()  # 4 -> 2 -> 1
      -3.0

    Source: transformers 4.40.0, optimization.py, ``AdamW.step``.
    """
    return _in_turn(step, decay, gradient_to_first=True)


def _in_turn(
    first: optax.GradientTransformation,
    second: optax.GradientTransformation,
    *,
    gradient_to_first: bool,
) -> optax.GradientTransformationExtraArgs:
    first = with_extra_args(first)
    second = with_extra_args(second)

    def init_fn(params: PyTree) -> PyTree:
        return InTurnState(first.init(params), second.init(params))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        zeros = jax.tree.map(jnp.zeros_like, updates)
        for_first, for_second = (updates, zeros) if gradient_to_first else (zeros, updates)
        u1, state1 = first.update(for_first, state.first, params, **extra_args)
        moved = None if params is None else jax.tree.map(_moved, params, u1)
        u2, state2 = second.update(for_second, state.second, moved, **extra_args)
        return jax.tree.map(jnp.add, u1, u2), InTurnState(state1, state2)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _moved(param: jax.Array, update: jax.Array) -> jax.Array:
    """As ``optax.apply_updates``, which rounds to the dtype of a 16-bit weight."""
    return param if is_fixed(param) else param + update
