"""Momentum as in torch, whose first step is not dampened."""

import math

import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.transformation import with_extra_args


def momentum(
    decay: float, *, dampening: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    r"""Torch's momentum: :math:`b_1 = g_1`, then :math:`b_t = \mu b_{t-1} + (1-\tau) g_t`.

    Args:
      decay: ``mu`` >= 0; 0 is the gradient itself, whatever the dampening. From 1 on nothing is
        forgotten, which torch allows.
      dampening: ``tau``, any number; the first step is not dampened.
      nesterov: Whether the step is :math:`g_t + \mu b_t`. Not with dampening, as in torch.

    Raises:
      ValueError: If a number is out of range or the arguments contradict.

    >>> tx = momentum(0.5, dampening=0.5)
    >>> state = tx.init(jnp.array(0.0))
    >>> first, state = tx.update(jnp.array(1.0), state)
    >>> float(first), float(tx.update(jnp.array(1.0), state)[0])
    (1.0, 1.0)
    """
    check_number("momentum", decay)
    check_number("dampening", dampening, low=-math.inf)
    if nesterov and (decay == 0 or dampening != 0):
        raise ValueError("nesterov=True needs a momentum above 0 and dampening=0.")
    if decay == 0:
        return with_extra_args(optax.identity())
    trace = optax.trace(decay, nesterov=nesterov)
    if dampening == 0:
        return with_extra_args(trace)
    weight = optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening))
    return with_extra_args(optax.chain(weight, trace))
