"""Optimizers that precondition by matrices, as chains."""

from typing import Any

import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import named_errors
from wdlab.optimizers.assembly import assemble
from wdlab.preconditioners import Grafting, scale_by_shampoo, scale_by_soap
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any
ADAM_STEPS = Grafting("adam", b2=0.95, eps=1e-8)


@answers
def soap(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    refresh_every: int = 10,
    max_dim: int = 10_000,
    batch_axes: PyTree = 0,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""SOAP, Adam in the eigenbasis of Shampoo's factors, with decay where the coupling says.

    One step is :math:`\theta \leftarrow \theta - lr_t\, Q_L \mathrm{Adam}(Q_L^T g Q_R) Q_R^T -
    \kappa_t \lambda s \theta`; the very first step only decays. The original decays the weights
    after its step and from the second step on: ``conventions.build("soap.SOAP", ...)``.
    :func:`wdlab.optimizers.sgd` has the other Args and the Raises.

    Args:
      learning_rate: Number >= 0 or schedule of the step count; the original's is 3e-3.
      weight_decay: ``lambda`` >= 0, number or schedule; its unit depends on ``coupling``.
      coupling: As in :func:`wdlab.optimizers.sgd`; the original means "lr".
      rules: As there.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment and of the factors, in [0, 1).
      eps: Epsilon, >= 0, before the bias correction; unit: gradient.
      refresh_every: Steps between two refreshes of the bases, at least 1.
      max_dim: Axes that are longer have no factor; lower it where vocabularies are shorter.
      batch_axes: How many leading axes of a leaf only stack layers;
        :func:`wdlab.preconditioners.scale_by_soap` says how to write it.
      peak_learning_rate: As there.

    >>> import jax.numpy as jnp
    >>> tx = soap(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> first, state = tx.update(grads, tx.init(params), params)
    >>> second, state = tx.update(grads, state, params)
    >>> float(first["kernel"]), float(second["kernel"])  # -0.5 * 0.25 * 4, then -0.5 as well
    (-0.5, -1.0)
    """
    with named_errors("soap"):
        direction = scale_by_soap(
            b1, b2, eps, refresh_every=refresh_every, max_dim=max_dim, batch_axes=batch_axes
        )
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("soap", direction, learning_rate, *decay)


@answers
def shampoo(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-12,
    grafting: Grafting | None = ADAM_STEPS,
    block_size: int = 1024,
    refresh_every: int = 10,
    batch_axes: PyTree = 0,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Shampoo by blocks, its step lengths those of Adam, with decay where the coupling says.

    One step is :math:`\theta \leftarrow \theta - lr_t\, c\, L^{-1/4} \bar g R^{-1/4} -
    \kappa_t \lambda s \theta`, c for each block such that the step is as long as the grafted
    optimizer's, whose learning rate therefore fits. Small neighbouring axes are merged into two.
    The original's four decays are in ``conventions.build("distributed_shampoo.DistributedShampoo",
    ...)``. :func:`wdlab.optimizers.sgd` has the other Args and the Raises.

    Args:
      learning_rate: Number >= 0 or schedule of the step count.
      weight_decay: ``lambda`` >= 0, number or schedule; its unit depends on ``coupling``.
      coupling: As in :func:`wdlab.optimizers.sgd`; the original's default means "lr".
      rules: As there.
      b1: Decay of the gradient's average, in [0, 1).
      b2: Decay of the factors, in [0, 1]; 1: their sum, as AdaGrad.
      eps: Added to the factors, above 0; unit: gradient squared.
      grafting: Whose step length to take; None: Shampoo's own.
      block_size: Longest side of a block, at least 1.
      refresh_every: Steps between two computations of the inverse roots, at least 1; before the
        first one the step is the grafted optimizer's.
      batch_axes: How many leading axes of a leaf only stack layers;
        :func:`wdlab.preconditioners.scale_by_soap` says how to write it.
      peak_learning_rate: As there.

    >>> import jax.numpy as jnp
    >>> tx = shampoo(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)  # -0.5 - 0.5
    -1.0
    """
    with named_errors("shampoo"):
        direction = scale_by_shampoo(
            b1, b2, eps, grafting=grafting, block_size=block_size, merge_to=2,
            refresh_every=refresh_every, batch_axes=batch_axes,
        )  # fmt: skip
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("shampoo", direction, learning_rate, *decay)
