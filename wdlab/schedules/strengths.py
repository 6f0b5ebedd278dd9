"""Weight decay given by another quantity, and schedules for it.

The numbers are for the coupling that each docstring names; wherever wdlab takes a
``weight_decay``, a schedule of this module or any function of the step count will do too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number, check_whole
from wdlab._core.probing import trusted
from wdlab.schedules.schedule import ScalarOrSchedule, Schedule, peak_of

_LARGEST_COUNT = 2**31 - 1


def normalized_weight_decay(
    normalized: float, *, batch_size: int, dataset_size: int, epochs: float
) -> float:
    r"""The weight decay of a run's length: :math:`\lambda = \lambda_{norm}\sqrt{b/(BT)}`.

    :math:`BT/b` is the number of updates. For the coupling "schedule" (eta_t), as in the paper.

    Args:
      normalized: ``lambda_norm`` >= 0, dimensionless; 0.025 and 0.05 suited the paper's runs.
      batch_size: ``b``, examples in a batch, >= 1.
      dataset_size: ``B``, examples in an epoch, >= ``batch_size``.
      epochs: ``T`` > 0, length of the run, or of the restart, in epochs.

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> normalized_weight_decay(0.5, batch_size=64, dataset_size=4096, epochs=4)
    0.03125

    Source: Loshchilov & Hutter 2019, arXiv 1711.05101, Appendix B.1.
    """
    check_number("normalized", normalized)
    check_whole("batch_size", batch_size)
    check_whole("dataset_size", dataset_size, least=batch_size)
    check_number("epochs", epochs, low_open=True)
    return normalized * math.sqrt(batch_size / (dataset_size * epochs))


def weight_decay_from_timescale(
    timescale: float,
    *,
    learning_rate: ScalarOrSchedule,
    steps_per_epoch: float = 1.0,
    peak: float | None = None,
    hold: str = "peak",
) -> ScalarOrSchedule:
    r"""The weight decay whose moving average looks back ``timescale`` steps (or epochs).

    The weights of AdamW are a moving average of its updates over
    :math:`\tau_{iter} = 1/(lr\,\lambda)` steps, :math:`\tau_{epoch} = \tau_{iter}/M` epochs of M
    steps. So :math:`\lambda = 1/(lr\,\tau_{epoch} M)`, for the coupling "lr". A timescale kept
    between runs divides the decay by the learning rate's and the data's growth.

    Args:
      timescale: ``tau`` > 0, in epochs of ``steps_per_epoch`` steps; by default in steps.
      learning_rate: Number > 0 or schedule.
      steps_per_epoch: ``M`` > 0; 1 makes ``timescale`` a number of steps.
      peak: Largest learning rate, > 0; required for a schedule that does not carry its peak.
      hold: "peak": the timescale at the peak learning rate, a constant decay (the paper); "step":
        at every step, the schedule :math:`\lambda_t = 1/(lr_t \tau)`, so that the product does not
        follow the learning rate. Where lr_t is 0 nothing decays.

    Returns:
      A number; for "step" with a schedule a function of the step count, which carries no peak (it
      has none where the learning rate goes to 0).

    Raises:
      TypeError, ValueError: If an argument is out of range, or the peak is unknown.

    >>> weight_decay_from_timescale(50.0, learning_rate=1e-3, steps_per_epoch=200)
    0.1

    Source: Wang & Aitchison 2024, arXiv 2405.13698, section 3.
    """
    check_number("timescale", timescale, low_open=True)
    check_number("steps_per_epoch", steps_per_epoch, low_open=True)
    check_number("learning_rate", learning_rate, low_open=True, schedule=True)
    check_choice("hold", hold, ("peak", "step"))
    steps = timescale * steps_per_epoch
    if hold == "peak" or not callable(learning_rate):
        return 1 / (peak_of(learning_rate, peak, why="The timescale at the peak") * steps)

    def at_step(count: Any) -> jax.Array:
        rate = jnp.asarray(learning_rate(count))
        return jnp.where(rate > 0, 1 / (jnp.where(rate > 0, rate, 1.0) * steps), 0.0)

    return trusted(at_step, learning_rate)


def timescale_of(
    weight_decay: float, *, learning_rate: float, steps_per_epoch: float = 1.0
) -> float:
    r"""The inverse: :math:`\tau = 1/(lr\,\lambda M)`, in epochs, by default in steps.

    Args:
      weight_decay: ``lambda`` > 0, for the coupling "lr".
      learning_rate: Peak learning rate, > 0.
      steps_per_epoch: ``M`` > 0.

    >>> round(timescale_of(0.1, learning_rate=6e-4))
    16667
    """
    check_number("weight_decay", weight_decay, low_open=True)
    check_number("learning_rate", learning_rate, low_open=True)
    check_number("steps_per_epoch", steps_per_epoch, low_open=True)
    return 1 / (learning_rate * weight_decay * steps_per_epoch)


def cosine_between(start: float, end: float, *, steps: int) -> Schedule:
    r"""Half a cosine from ``start`` to ``end``, up or down: DINO's weight decay rises, 0.04 to 0.4.

    :math:`\lambda_t = end + (start - end)(1 + \cos(\pi\min(t/steps, 1)))/2`.

    Args:
      start: First value, >= 0; the larger of the two must be > 0.
      end: Value from step ``steps`` on, >= 0.
      steps: Length, >= 1.

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> decay = cosine_between(0.0, 0.5, steps=4)
    >>> [round(float(decay(t)), 3) for t in (0, 2, 4, 9)], decay.peak
    ([0.0, 0.25, 0.5, 0.5], 0.5)
    """
    check_number("start", start)
    check_number("end", end)
    check_whole("steps", steps)
    half = optax.cosine_decay_schedule(1.0, steps)
    return trusted(Schedule(lambda count: end + (start - end) * half(count), max(start, end)))


def cosine_restarts(
    peak: float, *, first_steps: int, factor: int = 1, end: float = 0.0
) -> Schedule:
    r"""SGDR: a cosine from ``peak`` to ``end`` again and again, each ``factor`` times longer.

    In restart i, :math:`T_i = T_0 factor^i` steps long, after :math:`T_{cur}` of them,
    :math:`\eta_t = end + (peak - end)(1 + \cos(\pi T_{cur}/T_i))/2`. ``end`` itself is never
    reached: the next restart begins instead, as in torch's ``CosineAnnealingWarmRestarts``.

    Args:
      peak: Value at the beginning of every restart, > 0.
      first_steps: ``T_0``, steps of the first restart, >= 1.
      factor: ``T_mult``, whole number >= 1.
      end: Value that each restart falls toward, in [0, peak].

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> lr = cosine_restarts(1.0, first_steps=2, factor=2)
    >>> [round(float(lr(t)), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    Source: Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5.
    """
    check_number("peak", peak, low_open=True)
    check_number("end", end, high=peak)
    check_whole("first_steps", first_steps)
    check_whole("factor", factor)

    def value(count: Any) -> jax.Array:
        since, length = _position(count, first_steps, factor)
        return end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * (since / length)))

    return trusted(Schedule(value, peak))


def restarts_weight_decay(normalized: float, *, first_steps: int, factor: int = 1) -> Schedule:
    r"""AdamWR's weight decay of restart i: :math:`\lambda_i = \lambda_{norm}/\sqrt{T_i}`.

    With :math:`T_i = T_0 factor^i` in steps it is :func:`normalized_weight_decay` of every restart
    by itself. Use it with :func:`cosine_restarts` and the coupling "schedule".

    Args:
      normalized: ``lambda_norm`` > 0, dimensionless.
      first_steps: ``T_0``, steps of the first restart, >= 1.
      factor: ``T_mult``, whole number >= 1.

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> decay = restarts_weight_decay(0.5, first_steps=4, factor=4)
    >>> [float(decay(t)) for t in (0, 3, 4, 19, 20)]
    [0.25, 0.25, 0.125, 0.125, 0.0625]

    Source: Loshchilov & Hutter 2019, arXiv 1711.05101, Appendix B.2.
    """
    check_number("normalized", normalized, low_open=True)
    check_whole("first_steps", first_steps)
    check_whole("factor", factor)

    def value(count: Any) -> jax.Array:
        return normalized / jnp.sqrt(_position(count, first_steps, factor)[1])

    return trusted(Schedule(value, normalized / math.sqrt(first_steps)))


def _position(count: Any, first_steps: int, factor: int) -> tuple[jax.Array, jax.Array]:
    """Steps since the last restart, and that restart's length, as floats.

    The starts are whole numbers and compared as such: a logarithm would be off by one at some.
    """
    dtype = jnp.result_type(float)
    count = jnp.asarray(count, jnp.int32)
    if factor == 1:
        return (count % first_steps).astype(dtype), jnp.asarray(first_steps, dtype)
    starts = [0]
    while starts[-1] + first_steps * factor ** (len(starts) - 1) <= _LARGEST_COUNT:
        starts.append(starts[-1] + first_steps * factor ** (len(starts) - 1))
    index = jnp.sum(count >= jnp.asarray(starts, jnp.int32)) - 1
    lengths = jnp.asarray([first_steps * factor**i for i in range(len(starts))], dtype)
    return (count - jnp.asarray(starts, jnp.int32)[index]).astype(dtype), lengths[index]
