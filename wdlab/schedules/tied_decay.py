"""Weight decays that change over the run: tied to the learning rate, or to a run's size."""

import math
from typing import Any

import jax.numpy as jnp

from wdlab._core.checks import check_number, check_whole
from wdlab._core.probing import trusted
from wdlab.schedules.schedule import ScalarOrSchedule, Schedule, schedule_multiplier
from wdlab.schedules.strengths import cosine_between


def decay_with_rate(
    weight_decay: float,
    learning_rate: ScalarOrSchedule,
    *,
    power: float = 1.0,
    peak: float | None = None,
) -> ScalarOrSchedule:
    r"""A weight decay that follows the learning rate's shape: :math:`\lambda_t = \lambda \eta_t^p`.

    With :math:`\eta_t = lr_t / peak`. It multiplies whatever the coupling does: under "lr" the
    shrink is :math:`\lambda\, lr_t \eta_t^p`, which for p = 1 is that of "lr2_over_peak".

    Args:
      weight_decay: ``lambda`` > 0, at the peak.
      learning_rate: Number > 0 or schedule.
      power: ``p`` > 0.
      peak: The learning rate's largest value; required for a schedule that does not carry it.

    Returns:
      A number for a number, else a schedule of peak ``weight_decay``.

    Raises:
      TypeError, ValueError: If an argument is out of range, or the peak is unknown.

    >>> from wdlab.schedules import warmup_constant
    >>> decay = decay_with_rate(0.5, warmup_constant(1e-3, warmup_steps=4), power=2.0)
    >>> [float(decay(t)) for t in (0, 2, 4)], decay.peak
    ([0.0, 0.125, 0.5], 0.5)
    """
    check_number("weight_decay", weight_decay, low_open=True)
    check_number("power", power, low_open=True)
    eta = schedule_multiplier(learning_rate, peak)
    if not callable(eta):
        return weight_decay * eta**power

    def at_step(count: Any) -> Any:
        return weight_decay * jnp.asarray(eta(count)) ** power

    return trusted(Schedule(at_step, weight_decay * eta.peak**power), learning_rate)


def nanochat_weight_decay(
    reference: float,
    *,
    steps: int,
    batch_size: float,
    reference_batch_size: float,
    tokens: float,
    reference_tokens: float,
) -> Schedule:
    r"""Nanochat's falling decay: :math:`\lambda_t = \lambda_0 (1 + \cos(\pi t/T))/2`.

    :math:`\lambda_0 = \lambda_{ref}\sqrt{B/B_{ref}}\, D_{ref}/D` keeps the decay's timescale in
    epochs when batch or data change (:func:`weight_decay_from_timescale` for AdamW, whose theory
    nanochat takes over for Muon). For the coupling "lr", cautious.

    Args:
      reference: :math:`\lambda_{ref}` > 0, found at the reference sizes.
      steps: T, updates of the run, >= 1; 0 is reached after the last.
      batch_size: B > 0, in any unit.
      reference_batch_size: :math:`B_{ref}` > 0, in the same unit.
      tokens: D > 0, training data in all.
      reference_tokens: :math:`D_{ref}` > 0.

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> decay = nanochat_weight_decay(
    ...     0.25, steps=4, batch_size=4, reference_batch_size=1, tokens=2e9, reference_tokens=1e9
    ... )
    >>> [round(float(decay(t)), 4) for t in (0, 2, 4)]
    [0.25, 0.125, 0.0]

    Source: karpathy/nanochat@92d63d4, scripts/base_train.py, lines 300 and 385.
    """
    check_number("reference", reference, low_open=True)
    check_whole("steps", steps)
    sizes = dict(
        batch_size=batch_size,
        reference_batch_size=reference_batch_size,
        tokens=tokens,
        reference_tokens=reference_tokens,
    )
    for name, size in sizes.items():
        check_number(name, size, low_open=True)
    start = reference * math.sqrt(batch_size / reference_batch_size) * reference_tokens / tokens
    return cosine_between(start, 0.0, steps=steps)
