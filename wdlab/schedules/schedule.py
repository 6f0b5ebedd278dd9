"""Schedules that know their peak, and the multiplier kappa_t of decoupled decay.

A schedule is a function of the number of updates made before this one (Optax's 0-based count).
Those of this module are Optax's, with the peak kept beside them: the conventions of weight decay
differ in whether the decay follows ``lr_t`` or ``lr_t / peak``, and a bare function cannot tell its
peak.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab._core.checks import check_number
from wdlab._core.probing import STEPS, trusted, values_of

ScalarOrSchedule = Any  # A number, a traced scalar, or a function of the step count.


@dataclass(frozen=True)
class Schedule:
    """A function of the step count that carries the largest value it takes.

    Args:
      function: Step count (int32, shape ()) -> value.
      peak: The largest value, > 0, in the value's unit.

    >>> Schedule(lambda count: 0.5 ** count, peak=1.0)(2)
    0.25
    """

    function: Callable[[Any], Any]
    peak: float

    def __post_init__(self):
        check_number("peak", self.peak, low_open=True)

    def __call__(self, count: Any) -> Any:
        """Returns the value at that step count."""
        return self.function(count)


def with_peak(schedule: Callable[[Any], Any], peak: float) -> Schedule:
    """Gives any schedule its peak.

    Args:
      schedule: Step count -> value.
      peak: Its largest value, > 0.

    Raises:
      TypeError, ValueError: If it is not a schedule, or takes values above the peak.

    >>> import optax
    >>> with_peak(optax.linear_schedule(0.0, 1e-3, 10), peak=1e-3).peak
    0.001
    """
    known = Schedule(schedule, peak)
    check_number("schedule", known, schedule=True)
    return known


def peak_of(learning_rate: ScalarOrSchedule, peak: float | None = None, *, why: str = "") -> Any:
    """Returns the peak of a learning rate: as given, as it carries, or itself if a plain number.

    Raises:
      ValueError: If it is a bare function or a JAX array and ``peak`` is not given.

    >>> from wdlab.schedules import constant
    >>> peak_of(constant(0.1)), peak_of(0.2), peak_of(lambda count: 0.1, 0.3)
    (0.1, 0.2, 0.3)
    """
    if peak is not None:
        check_number("peak_learning_rate", peak, low_open=True)
        return peak
    carried = getattr(learning_rate, "peak", None)
    if carried is not None:
        return carried
    # A JAX scalar may be a schedule's value of this step, as inside inject_hyperparams.
    if not callable(learning_rate) and not isinstance(learning_rate, jax.Array):
        return learning_rate
    raise ValueError(
        f"{why or 'The schedule multiplier lr_t / peak'} needs the peak learning rate, which a "
        "plain function or a JAX array does not tell. Pass peak (peak_learning_rate in the "
        "optimizers), or use a schedule of wdlab.schedules, or "
        "wdlab.schedules.with_peak(schedule, peak)."
    )


def schedule_multiplier(
    learning_rate: ScalarOrSchedule, peak: float | None = None
) -> float | Schedule:
    """The schedule alone: eta_t = lr_t / peak, in [0, 1].

    Multiplier of decoupled decay in the AdamW paper (Algorithm 2), Composer and big_vision: the
    decay follows the schedule's shape and not the size of the learning rate.

    Args:
      learning_rate: Number > 0, or schedule.
      peak: The learning rate that eta_t = 1 stands for, > 0. Required for a schedule that does
        not carry its ``peak``.

    Returns:
      1.0 for a number without ``peak``, else a schedule of peak 1 (a number if both are numbers).

    Raises:
      ValueError: If the peak is unknown, or below a value of the schedule.

    >>> from wdlab.schedules import warmup_constant
    >>> eta = schedule_multiplier(warmup_constant(1e-3, warmup_steps=4))
    >>> [float(eta(t)) for t in (0, 2, 4)], eta.peak
    ([0.0, 0.5, 1.0], 1.0)
    """
    check_number("learning_rate", learning_rate, schedule=True)
    unit = peak_of(learning_rate, peak)
    largest, known = largest_product(learning_rate)[0], peak_value(unit)
    if known is not None and largest > known * (1 + 1e-5):
        raise ValueError(
            f"peak_learning_rate {known:g} is below the learning rate {largest:g}: eta_t = lr_t / "
            f"peak would be {largest / known:g}. Pass the largest value of the learning rate."
        )
    return relative_to(learning_rate, unit)


def relative_to(learning_rate: ScalarOrSchedule, unit: float) -> float | Schedule:
    """Returns ``lr_t / unit`` for any unit: some systems divide by another rate than the peak.

    >>> relative_to(0.2, 0.1), relative_to(lambda count: 0.5, 0.25).peak
    (2.0, 2.0)
    """
    if not callable(learning_rate):
        return 1.0 if learning_rate is unit else learning_rate / unit
    peak = getattr(learning_rate, "peak", None)
    if peak is None:
        known = peak_value(unit)
        peak = unit if known is None else max(known, largest_product(learning_rate)[0])
    eta = Schedule(lambda count: learning_rate(count) / unit, peak / unit)
    return trusted(eta, learning_rate)


def squared(schedule: ScalarOrSchedule) -> ScalarOrSchedule:
    """The square of a number or schedule: PaLM's multiplier is the squared learning rate.

    >>> from wdlab.schedules import constant
    >>> squared(3.0), squared(constant(0.1)).peak
    (9.0, 0.010000000000000002)
    """
    if not callable(schedule):
        return schedule * schedule
    square = trusted(lambda count: jnp.square(schedule(count)), schedule)
    carried = getattr(schedule, "peak", None)
    return square if carried is None else trusted(Schedule(square, carried * carried), schedule)


def value_at(value: ScalarOrSchedule, count: Any) -> Any:
    """The value of a number or schedule at a step count.

    >>> value_at(0.1, 3), value_at(lambda count: 2 * count, 3)
    (0.1, 6)
    """
    return value(count) if callable(value) else value


def peak_value(value: ScalarOrSchedule) -> float | None:
    """The largest value a number or schedule takes, or None where that is not known.

    >>> from wdlab.schedules import constant
    >>> peak_value(0.1), peak_value(constant(0.2)), peak_value(lambda count: 0.3)
    (0.1, 0.2, None)
    """
    value = getattr(value, "peak", value) if callable(value) else value
    if callable(value) or isinstance(value, jax.core.Tracer):
        return None
    return math.fabs(float(value))


def largest_product(*values: ScalarOrSchedule) -> tuple[float, tuple[float, ...]]:
    """The largest product of numbers and schedules, and its factors; 0 where it is not known.

    Of schedules that carry no peak it is the largest at a few steps.

    >>> largest_product(0.5, lambda count: 4.0)
    (2.0, (0.5, 4.0))
    """
    peaks = [peak for value in values if (peak := peak_value(value)) is not None]
    if len(peaks) < len(values):
        tables = [table for value in values if (table := _table(value)) is not None]
        if len(tables) < len(values):
            return 0.0, ()
        best = np.nanargmax(np.prod(tables, axis=0))
        peaks = [float(table[best]) for table in tables]
    return math.prod(peaks), tuple(peaks)


def _table(value: ScalarOrSchedule) -> np.ndarray | None:
    """The values at the probed steps, where they are known."""
    if callable(value):
        return values_of(value)
    known = peak_value(value)
    return None if known is None else np.full(len(STEPS), known)
