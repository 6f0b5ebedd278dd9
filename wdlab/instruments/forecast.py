"""What a decay will amount to over a run: half-life, timescale, and a verdict in plain words."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wdlab._core.checks import check_number, check_whole
from wdlab._core.dtypes import lost_to_rounding
from wdlab._core.probing import check_values
from wdlab.schedules import ScalarOrSchedule, peak_value

_BLOCK = 1 << 20  # Steps whose values are in memory at once.


@dataclass(frozen=True)
class DecayProfile:
    """What a decay does over a run to a weight that nothing else moves."""

    total_steps: int
    peak_shrink: float  # Largest kappa_t lambda: share of the weight lost in one step.
    half_life_steps: float  # At peak_shrink.
    timescale_steps: float  # 1 / peak_shrink: steps that the weights' moving average looks back.
    timescale_fraction: float  # timescale_steps / total_steps.
    total_shrink: float  # 1 - prod_t (1 - kappa_t lambda), in [0, 1].
    verdict: str  # Whether this acts within the run, in plain words.

    def __str__(self) -> str:
        """The profile as lines of text."""
        return (
            f"shrink per step at peak   {self.peak_shrink:.4g}\n"
            f"half-life at peak         {self.half_life_steps:,.1f} steps\n"
            f"EMA timescale at peak     {self.timescale_steps:,.1f} steps "
            f"({self.timescale_fraction:.3g} of the run)\n"
            f"undriven shrink, in all   {self.total_shrink:.2%} in {self.total_steps:,} steps\n"
            f"verdict                   {self.verdict}"
        )


def decay_profile(
    weight_decay: ScalarOrSchedule,
    multiplier: ScalarOrSchedule | None,
    total_steps: int,
    *,
    dtype: Any = "float32",
) -> DecayProfile:
    r"""Forecasts a decay: :math:`\theta_T = \theta_0 \prod_t (1 - \kappa_t \lambda)`.

    The weights of a decayed run are a moving average of their updates with a timescale of
    1 / (kappa lambda) steps (Wang & Aitchison 2024, arXiv 2405.13698): much longer than the run,
    and the decay does nothing; a few steps, and nothing is remembered.

    Args:
      weight_decay: ``lambda`` >= 0, number or schedule.
      multiplier: ``kappa_t``, number or schedule of the step count; None is 1.
      total_steps: Length of the run, of [1, 2**31): Optax counts in int32.
      dtype: Of the stored parameters; 16 bits may round every step of the decay away.

    Raises:
      TypeError, ValueError: If an argument is out of range.

    >>> profile = decay_profile(0.1, 6e-4, 50_000)
    >>> round(profile.half_life_steps), round(profile.timescale_fraction, 3)
    (11552, 0.333)
    >>> profile.verdict
    'acts within the run'
    """
    kappa = 1.0 if multiplier is None else multiplier
    check_whole("total_steps", total_steps)
    if total_steps >= 2**31:
        raise ValueError(f"total_steps must be below 2**31, got {total_steps}: steps, not tokens.")
    largest, exponent = _over_the_run(weight_decay, kappa, total_steps)
    known = (peak_value(weight_decay), peak_value(kappa))
    peak = largest if None in known else math.prod(p or 0.0 for p in known)
    timescale = 1 / peak if peak > 0 else math.inf
    return DecayProfile(
        total_steps=total_steps,
        peak_shrink=peak,
        half_life_steps=_half_life(peak),
        timescale_steps=timescale,
        timescale_fraction=timescale / total_steps,
        total_shrink=-math.expm1(-exponent),
        verdict=_verdict(peak, exponent, total_steps, dtype),
    )


def _over_the_run(weight_decay: Any, kappa: Any, total_steps: int) -> tuple[float, float]:
    """The largest shrink, and minus the logarithm of what is left of a weight at the end."""
    largest, exponent = 0.0, 0.0
    for first in range(0, total_steps, _BLOCK):
        steps = np.arange(first, min(first + _BLOCK, total_steps), dtype=np.int32)
        shrinks = _values("weight_decay", weight_decay, steps)
        with np.errstate(over="ignore"):
            shrinks = shrinks * _values("multiplier", kappa, steps)
        largest = float(np.maximum(largest, shrinks.max()))
        if math.isinf(largest):
            raise ValueError("weight_decay times multiplier is beyond the largest float.")
        with np.errstate(divide="ignore"):
            exponent -= float(np.log1p(-np.minimum(shrinks, 1.0)).sum())
    return largest, exponent


def _values(name: str, value: ScalarOrSchedule, steps: np.ndarray) -> np.ndarray:
    """The values at these steps, float64; the schedule runs vectorized."""
    if not callable(value):
        check_number(name, value)
        return np.full(len(steps), float(value))
    values = np.asarray(jax.vmap(value)(steps), np.float64)
    check_values(name, values, steps, always=True)
    return values


def _half_life(shrink: float) -> float:
    if shrink <= 0:
        return math.inf
    return 0.0 if shrink >= 1 else math.log(0.5) / math.log1p(-shrink)


def _verdict(peak: float, exponent: float, total_steps: int, dtype: Any) -> str:
    """Too weak: under 5 % lost in the whole run. Too strong: memory under 20 steps or 0.1 %."""
    if exponent == 0:
        return "no decay"
    lost = -math.expm1(-exponent)
    if exponent < -math.log(0.95):
        return f"far too weak to act: an undriven weight loses {lost:.2%} in the whole run"
    if rounding := lost_to_rounding(peak, dtype):
        return rounding
    if 1 / peak < max(20.0, 0.001 * total_steps):
        return f"far too strong: the weights remember the last {1 / peak:.3g} steps only"
    return "acts within the run"
