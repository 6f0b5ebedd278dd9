"""How much decay and movement a run gets: the two numbers that say whether decay can act."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wdlab.schedules import ScalarOrSchedule, peak_value, value_at

LEAST = 1.0  # Of the exponent: with less a study that finds nothing has tested nothing.


class Dose(NamedTuple):
    """Of one run; of a grid, the largest in it.

    Attributes:
      exponent: E, the sum over the steps of kappa_t * lambda: without gradients a weight shrinks by
        exp(-E). None where the decay has no such number (L2 in Adam's gradient).
      lr_steps: Peak learning rate times steps: how far Adam can move a weight.
    """

    exponent: float | None
    lr_steps: float


def dose(
    learning_rate: ScalarOrSchedule,
    steps: int,
    weight_decay: float | None,
    multiplier: ScalarOrSchedule | None = None,
) -> Dose:
    """Returns the dose of a run.

    Args:
      learning_rate: A number or a schedule that knows its peak.
      steps: Updates, >= 1.
      weight_decay: lambda; None where there is no exponent.
      multiplier: kappa_t, a number or a schedule; None: the learning rate, as torch's AdamW has it,
        and SGD's L2.

    >>> dose(0.5, 10, 0.1)
    Dose(exponent=0.5, lr_steps=5.0)
    """
    peak = peak_value(learning_rate)
    if peak is None:
        raise ValueError("the schedule does not know its peak: use one of wdlab.schedules")
    lr_steps = round(float(peak) * steps, 9)
    if weight_decay is None:
        return Dose(None, lr_steps)
    kappa = learning_rate if multiplier is None else multiplier
    values = jax.vmap(lambda step: jnp.asarray(value_at(kappa, step), float))(jnp.arange(steps))
    return Dose(round(float(values.sum() * weight_decay), 6), lr_steps)
