"""What multiplies the weight decay: the couplings in use, by name.

The systems in use differ by orders of magnitude in it, so that no optimizer here has a default:

    coupling         shrink per step                as in
    "schedule"       eta_t * weight_decay           AdamW paper, Composer, big_vision
    "lr"             lr_t * weight_decay            torch.optim.AdamW, optax.adamw, Keras
    "lr2"            lr_t**2 * weight_decay         PaLM, modded-nanogpt
    "lr2_over_peak"  lr_t**2 / peak * weight_decay  AdamC, Distributed Shampoo's CORRECTED
    "constant"       weight_decay                   optax.adafactor, T5X Adafactor
    "l2"             (in the gradient)              torch.optim.Adam, torch.optim.SGD

with lr_t the learning rate of the step and eta_t = lr_t / peak.
"""

from typing import Any

from wdlab._core.checks import is_zero
from wdlab._core.probing import trusted
from wdlab.schedules.schedule import (
    ScalarOrSchedule,
    Schedule,
    peak_of,
    peak_value,
    schedule_multiplier,
    squared,
    value_at,
)

COUPLINGS = ("schedule", "lr", "lr2", "lr2_over_peak", "constant", "l2")


def multiplier_of(
    coupling: str, learning_rate: ScalarOrSchedule, peak_learning_rate: float | None = None
) -> ScalarOrSchedule:
    """Returns kappa_t of a decoupled coupling.

    Args:
      coupling: "schedule" (eta_t), "lr" (lr_t), "lr2" (lr_t**2), "lr2_over_peak" (lr_t eta_t) or
        "constant" (1).
      learning_rate: Number or schedule.
      peak_learning_rate: For "schedule" and "lr2_over_peak", where the schedule does not carry it.

    >>> multiplier_of("lr2", 0.5), multiplier_of("schedule", 0.5)
    (0.25, 1.0)
    """
    if coupling == "schedule":
        return schedule_multiplier(learning_rate, peak_learning_rate)
    if coupling == "lr2_over_peak":
        return _over_peak(learning_rate, peak_learning_rate)
    if coupling == "lr":
        return learning_rate
    return squared(learning_rate) if coupling == "lr2" else 1.0


def _over_peak(learning_rate: ScalarOrSchedule, peak: float | None) -> ScalarOrSchedule:
    """The learning rate times its share of the peak."""
    eta = schedule_multiplier(learning_rate, peak)
    if not callable(learning_rate) and not callable(eta):
        return learning_rate * eta
    top = peak_of(learning_rate, peak)

    def value(count: Any) -> Any:
        return value_at(learning_rate, count) * value_at(eta, count)

    return trusted(Schedule(value, top * getattr(eta, "peak", 1.0)), learning_rate)


def check_coupling(
    name: str,
    coupling: str | None,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
) -> str:
    """Returns the coupling, or says which there are and what each would do.

    Raises:
      ValueError: If it is unknown, or missing where ``weight_decay`` is not 0.

    >>> check_coupling("adamw", None, 1e-3, 0.1)
    Traceback (most recent call last):
    ValueError: adamw: coupling is missing: say what multiplies weight_decay. ...
    """
    if coupling in COUPLINGS:
        return coupling
    if coupling is None and is_zero(weight_decay):
        return "constant"  # Nothing decays; the state has its decay counter all the same.
    found = "coupling is missing" if coupling is None else f"coupling={coupling!r} is unknown"
    raise ValueError(
        f"{name}: {found}: say what multiplies weight_decay. Choices, with the shrink of a weight "
        f"per step at peak: {_shrinks(learning_rate, weight_decay)}."
    )


def _shrinks(learning_rate: ScalarOrSchedule, weight_decay: ScalarOrSchedule) -> str:
    """Lists the couplings with the shrink per step that each would give."""
    lr, decay = peak_value(learning_rate), peak_value(weight_decay)

    def shrink(power: int, formula: str) -> str:
        known = decay is not None and (lr is not None or power == 0)
        return f"{decay * (lr or 0.0) ** power:.3g}" if known else formula

    return (
        f"'schedule' {shrink(0, 'eta_t * weight_decay')} (AdamW paper, Composer, big_vision); "
        f"'lr' {shrink(1, 'lr_t * weight_decay')} (torch.optim.AdamW, optax.adamw, Keras); "
        f"'lr2' {shrink(2, 'lr_t**2 * weight_decay')} (PaLM); "
        f"'lr2_over_peak' {shrink(1, 'lr_t**2 / peak * weight_decay')} (AdamC); "
        f"'constant' {shrink(0, 'weight_decay')} at every step, whatever the schedule "
        "(optax.adafactor); 'l2' added to the gradient, no fixed shrink (torch.optim.Adam, SGD)"
    )
