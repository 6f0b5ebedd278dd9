"""The shapes of learning rate schedules: Optax's, with the peak kept beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_whole
from wdlab._core.dtypes import step_number
from wdlab._core.probing import trusted
from wdlab.schedules.schedule import ScalarOrSchedule, Schedule, peak_value, value_at


def constant(value: float) -> Schedule:
    """Always ``value``.

    Args:
      value: Number > 0.

    >>> constant(0.1)(7)
    0.1
    """
    return trusted(Schedule(lambda count: value, value))


def warmup_cosine(
    peak: float, *, warmup_steps: int, decay_steps: int, end: float = 0.0
) -> Schedule:
    """``peak t / warmup`` up to the warm-up's end, a half cosine to ``end`` at ``decay_steps``.

    nanoGPT's schedule (``get_lr`` of its train.py), made by
    ``optax.warmup_cosine_decay_schedule``; the first step has 0 if there is a warm-up.

    Args:
      peak: Largest value, > 0.
      warmup_steps: Steps of linear rise from 0, >= 0.
      decay_steps: Step at which ``end`` is reached, warm-up included; > ``warmup_steps``.
      end: Value from then on, in [0, peak].

    >>> lr = warmup_cosine(1.0, warmup_steps=2, decay_steps=10, end=0.1)
    >>> [round(float(lr(t)), 3) for t in (0, 1, 2, 6, 10, 99)]
    [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    """
    check_number("peak", peak, low_open=True)
    check_number("end", end, high=peak)
    check_whole("warmup_steps", warmup_steps, least=0)
    check_whole("decay_steps", decay_steps, least=warmup_steps + 1)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else peak,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        end_value=end,
    )
    return _of_float(schedule, peak)


def cosine(peak: float, *, decay_steps: int, end: float = 0.0) -> Schedule:
    """A half cosine from ``peak`` to ``end`` in ``decay_steps`` steps.

    >>> round(float(cosine(1.0, decay_steps=10)(5)), 3)
    0.5
    """
    return warmup_cosine(peak, warmup_steps=0, decay_steps=decay_steps, end=end)


def warmup_constant(peak: float, *, warmup_steps: int) -> Schedule:
    """``peak t / warmup``, then ``peak``.

    >>> [float(warmup_constant(1.0, warmup_steps=4)(t)) for t in (0, 2, 9)]
    [0.0, 0.5, 1.0]
    """
    check_number("peak", peak, low_open=True)
    check_whole("warmup_steps", warmup_steps)
    return _of_float(optax.linear_schedule(0.0, peak, warmup_steps), peak)


def warmed_up(learning_rate: ScalarOrSchedule, warmup_steps: int) -> ScalarOrSchedule:
    """``learning_rate min((t + 1) / warmup, 1)``: a warm-up whose first step already moves.

    Args:
      learning_rate: Number or schedule of the step count t.
      warmup_steps: Whole number >= 0; 0 returns the learning rate as it is.

    >>> [float(warmed_up(1.0, 4)(t)) for t in (0, 2, 9)], warmed_up(1.0, 4).peak
    ([0.25, 0.75, 1.0], 1.0)
    """
    check_whole("warmup_steps", warmup_steps, least=0)
    if warmup_steps == 0:
        return learning_rate

    def at(count: Any) -> Any:
        return value_at(learning_rate, count) * jnp.minimum(step_number(count) / warmup_steps, 1.0)

    known = peak_value(learning_rate)
    return trusted(Schedule(at, known) if known else at, learning_rate)


def warmup_linear(
    peak: float, *, warmup_steps: int, decay_steps: int, end: float = 0.0
) -> Schedule:
    """``peak t / warmup``, then a straight line to ``end`` at ``decay_steps`` (BERT).

    >>> lr = warmup_linear(1.0, warmup_steps=2, decay_steps=6)
    >>> [float(lr(t)) for t in (0, 1, 2, 4, 6, 9)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    check_number("peak", peak, low_open=True)
    check_number("end", end, high=peak)
    check_whole("warmup_steps", warmup_steps, least=0)
    check_whole("decay_steps", decay_steps, least=warmup_steps + 1)
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    fall = optax.linear_schedule(peak, end, decay_steps - warmup_steps)
    return _of_float(optax.join_schedules([rise, fall], [warmup_steps]), peak)


def warmup_inverse_sqrt(peak: float, *, warmup_steps: int) -> Schedule:
    """``peak min(t / warmup, sqrt(warmup / t))`` (the Transformer's, written by its peak).

    >>> [round(float(warmup_inverse_sqrt(1.0, warmup_steps=4)(t)), 3) for t in (0, 2, 4, 16)]
    [0.0, 0.5, 1.0, 0.5]
    """
    check_number("peak", peak, low_open=True)
    check_whole("warmup_steps", warmup_steps)

    def value(count: Any) -> jax.Array:
        fraction = count / warmup_steps
        return peak * jnp.minimum(fraction, 1.0 / jnp.sqrt(jnp.maximum(fraction, 1.0)))

    return _of_float(value, peak)


def _of_float(schedule: Callable[[Any], Any], peak: float) -> Schedule:
    """Counts in the default float: JAX divides int32 in float32 even where float64 is on."""
    counted = lambda count: schedule(jnp.asarray(count, jnp.result_type(float)))  # noqa: E731
    return trusted(Schedule(counted, peak))
