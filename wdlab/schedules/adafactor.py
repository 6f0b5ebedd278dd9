"""Adafactor's two schedules: how long it remembers, and how far it steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wdlab._core.checks import check_number
from wdlab._core.dtypes import step_number
from wdlab._core.probing import trusted
from wdlab.schedules.schedule import ScalarOrSchedule, Schedule, peak_value, value_at


def beta2_power(
    exponent: ArrayLike = 0.8, *, cap: ArrayLike | None = None, offset: ArrayLike = 0
) -> Callable[[ArrayLike], jax.Array]:
    r"""Returns Adafactor's decay rate as a schedule: it starts at 0 and rises to 1 or ``cap``.

    With t = count + 1 - offset, at least 1, it is
    :math:`\hat\beta_{2,t} = \min(\text{cap}, 1 - t^{-c})`. The first step forgets the zero start,
    so nothing is corrected for bias. Without a cap the average grows ever longer: at step 10,000
    and c = 0.8 it is 1,600 steps long.

    Args:
      exponent: c, above 0; 0.8 everywhere. PyTorch and Transformers write it -0.8.
      cap: Largest rate, in [0, 1]; 0.999 in big_vision. None: no cap.
      offset: Steps of an earlier phase (T5X ``step_offset``, Optax ``decay_offset``), at least 0.
        Both give NaN for steps before the offset; here the rate is 0 there.

    Raises:
      TypeError: If an argument is not a number.
      ValueError: If an argument is out of range.

    Example:
      >>> [round(float(beta2_power(0.8)(count)), 4) for count in (0, 1, 9)]
      [0.0, 0.4257, 0.8415]

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, section 7.2; the cap from Zhai et
    al., https://arxiv.org/abs/2106.04560, section 3.4.
    """
    check_number("exponent", exponent, low_open=True)
    check_number("offset", offset)
    if cap is not None:
        check_number("cap", cap, high=1.0)

    def schedule(count: ArrayLike) -> jax.Array:
        t = jnp.maximum(step_number(count) - offset, 1.0)
        rate = 1.0 - t ** jnp.negative(exponent)
        return rate if cap is None else jnp.minimum(rate, cap)

    return trusted(schedule)


def relative_step(
    maximum: ScalarOrSchedule = 1e-2, *, warmup_slope: float | None = None
) -> Callable[[ArrayLike], ArrayLike]:
    r"""Returns Adafactor's relative step as a schedule of the step count.

    With t = count + 1 it is :math:`\rho_t = \min(\text{maximum}_t, 1/\sqrt t)`, or
    :math:`\min(\text{slope}\cdot t, 1/\sqrt t)` with a warm-up. The default is constant for
    10,000 steps and also PaLM's learning rate. It carries its ``peak`` where that is known.

    Args:
      maximum: Number above 0 or schedule, relative to the size of the parameters (see
        :func:`wdlab.preconditioners.scale_by_parameter_scale`). torch and Keras put their
        learning rate here, so one above 1e-2 is cut sooner, and no schedule gets above 1/sqrt(t).
      warmup_slope: Rise per step in place of ``maximum``, above 0: 1e-6 is ``warmup_init=True``
        of fairseq and Transformers, which peaks at 1e-2 as well.

    Raises:
      TypeError: If an argument is not a number, or ``maximum`` is not a schedule.
      ValueError: If a number is out of range.

    Example:
      >>> [round(float(relative_step()(count)), 6) for count in (0, 9_999, 39_999)]
      [0.01, 0.01, 0.005]

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, Algorithm 6 and section 9.
    """
    if warmup_slope is not None:
        check_number("warmup_slope", warmup_slope, low_open=True)
        slope = warmup_slope

        def warmup(count: ArrayLike) -> jax.Array:
            t = step_number(count)
            return jnp.minimum(slope * t, jax.lax.rsqrt(t))

        return trusted(Schedule(warmup, min(1.0, float(slope) ** (1 / 3))))
    check_number("maximum", maximum, low_open=True, schedule=True)

    def capped(count: ArrayLike) -> jax.Array:
        return jnp.minimum(value_at(maximum, count), jax.lax.rsqrt(step_number(count)))

    peak = peak_value(maximum)
    known = capped if peak is None else Schedule(capped, min(1.0, peak))
    return trusted(known, maximum)
