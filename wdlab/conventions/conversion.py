"""One weight decay in another system's convention.

The canonical unit is the shrink per step at the peak learning rate: the share of an undriven
weight that one update takes. Conventions differ in what they multiply their number by to get it.
"""

import math
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from wdlab._core.checks import check_number
from wdlab.conventions.convention import Convention
from wdlab.conventions.registry import get
from wdlab.schedules import ScalarOrSchedule, peak_of

_WHY_NOT = {
    "l2": (
        "adds it to the gradient, and its preconditioner or momentum transforms it with the "
        "gradient: how much a weight shrinks depends on the gradients, so no number is equal"
    ),
    "parameter_scale": (
        "multiplies it by the size of each leaf, so that every leaf shrinks by another share. "
        "With scale_parameter=False it is multiplied by the learning rate alone"
    ),
    "trust_ratio": (
        "puts it inside the trust ratio, which divides it out: an undriven leaf shrinks by the "
        "learning rate whatever the number is"
    ),
    "lr_by_shape": (
        "multiplies it by max(1, rows / columns)**0.5 of each matrix, so that every shape shrinks "
        "by another share. Of matrices with no more rows than columns it is torch.AdamW's number"
    ),
    "lr2_by_shape": (
        "multiplies it by max(1, rows / columns)**0.5 of each matrix, so that every shape shrinks "
        "by another share. Of matrices with no more rows than columns it is palm.Adafactor's number"
    ),
    "fixed": "has no such number: its lambda is 1, and weights shrink by the learning rate itself",
    "leaf_rate": (
        "multiplies it by each leaf's own rate, made of the norms of its weights and its gradient: "
        "how much a weight shrinks depends on the gradients, so no number is equal"
    ),
    "momentum": (
        "adds it to the momentum, which keeps it and returns it over many steps: no number has the "
        "same shrink per step"
    ),
    "averaged": (
        "subtracts it from z, of which the weights are an average: an undriven weight shrinks by "
        "less and less a step, so no number is equal"
    ),
    "d_lr": (
        "multiplies it by its estimate d too, which the gradients decide in the run, so no number "
        "is equal"
    ),
    "none": "has no weight decay",
}

# What systems call the argument that turns L2 into decoupled decay.
_SWITCHES = (
    *("decoupled_weight_decay", "adam_w_mode", "adamw_mode", "decouple", "decoupled"),
    *("decouple_wd", "decoupled_decay"),
)
_SHORT_DIGITS = 12
_ROUNDING = Decimal("4e-16")  # Two roundings to a float.


def convert(
    weight_decay: float,
    *,
    learning_rate: ScalarOrSchedule,
    source: str,
    target: str,
    source_arguments: Mapping[str, Any] | None = None,
    target_arguments: Mapping[str, Any] | None = None,
) -> float:
    r"""Returns the target's number for the same shrink per step at the peak learning rate.

    With :math:`c\,\lambda\,lr^p` the shrink of a convention (p = 0 for the schedule alone or a
    constant, 1 for the learning rate, 2 for its square), it is
    :math:`\lambda' = \lambda\, lr^{p - p'} c / c'`. A proximal convention divides by 1 + x, so that
    its shrink is x / (1 + x) of that product x. The arithmetic is decimal, so that 0.1 at 6e-4
    is 6e-05, and numbers of up to 12 digits come back from a round trip exactly.

    Where the two shrinks follow the schedule differently (``wdlab convert`` says so), they are
    equal at the peak and not over the run.

    Args:
      weight_decay: The source's number, at least 0.
      learning_rate: At its peak, above 0: a number, or a schedule that carries its peak.
      source: The convention that the number is from, one of ``conventions.names()``.
      target: The convention that it goes to.
      source_arguments: Arguments of the source that are not its defaults, where they change the
        meaning: ``{"decoupled_weight_decay": True}`` of torch.Adam.
      target_arguments: The same of the target.

    Raises:
      TypeError: If a number is none.
      ValueError: For an unknown convention, a number out of range, or where no number is equal,
        saying why: L2 under Adam has none.

    >>> convert(0.1, learning_rate=6e-4, source="torch.AdamW", target="composer.DecoupledAdamW")
    6e-05
    >>> convert(0.1, learning_rate=6e-4, source="torch.AdamW", target="torch.Adam")
    Traceback (most recent call last):
    ValueError: torch.Adam adds it to the gradient, ...
    """
    check_number("weight_decay", weight_decay)
    peak = _peak(learning_rate)
    there, here = _unit(source, source_arguments), _unit(target, target_arguments)
    if there == here:
        return float(weight_decay)
    return _converted(weight_decay, peak, there, here)


def shrink_at_peak(
    weight_decay: float,
    *,
    learning_rate: ScalarOrSchedule,
    convention: str,
    arguments: Mapping[str, Any] | None = None,
) -> float:
    """Returns the canonical unit: the share of an undriven weight lost in a step at the peak.

    Args:
      weight_decay: The convention's number, at least 0.
      learning_rate: At its peak, above 0, or a schedule that carries it.
      convention: One of ``conventions.names()``.
      arguments: Arguments of the original that are not its defaults.

    Raises:
      TypeError, ValueError: As :func:`convert`.

    >>> shrink_at_peak(0.1, learning_rate=6e-4, convention="torch.AdamW")
    6e-05
    """
    check_number("weight_decay", weight_decay)
    peak = _peak(learning_rate)
    return _converted(weight_decay, peak, _unit(convention, arguments), _SHRINK)


def _peak(learning_rate: ScalarOrSchedule) -> float:
    peak = peak_of(learning_rate, why="A conversion")
    check_number("learning_rate", peak, low_open=True)
    return peak


class _Unit(NamedTuple):
    """What a convention's number is multiplied by for x; the shrink is x, or x / (1 + x)."""

    factor: float
    power: float  # Of the peak learning rate.
    divides: bool = False  # The weights by 1 + x, where the others multiply them by 1 - x.


_SHRINK = _Unit(1.0, 0.0)


def _converted(number: float, peak: float, there: _Unit, here: _Unit) -> float:
    """The number of the other unit, in decimal digits; short where that is the rounding."""
    with localcontext() as context:
        context.prec = 60
        shrink = Decimal(repr(float(number))) * _scale(there, peak)
        if there.divides and not here.divides:
            shrink /= 1 + shrink
        if here.divides and not there.divides:
            if shrink >= 1:
                raise ValueError(
                    f"a shrink of {float(shrink):g} a step leaves nothing of a weight or turns its "
                    "sign, which no division by 1 + lr lambda does. Give a smaller number."
                )
            shrink /= 1 - shrink
        exact = shrink / _scale(here, peak)
        context.prec = _SHORT_DIGITS
        short = +exact
        context.prec = 60
        # A quotient such as 0.1 / 3.6e-7 is rounded to a float: the way back lands beside 0.1.
        result = float(short if abs(short - exact) <= exact * _ROUNDING else exact)
    if math.isinf(result) or (result == 0 and number > 0):
        raise ValueError(f"the number would be {exact:.3g}, which no float holds.")
    return result


def _scale(unit: _Unit, peak: float) -> Decimal:
    power = Decimal(repr(float(peak))) ** Decimal(repr(float(unit.power)))
    return Decimal(repr(float(unit.factor))) * power


def _unit(name: str, arguments: Mapping[str, Any] | None) -> _Unit:
    convention = get(name)
    given = convention.complete(arguments or {})
    power = _power(convention, given)
    divides = convention.coupling_for(given) == "proximal"
    return _Unit(convention.factor_for(given), power, divides)


def _power(convention: Convention, arguments: Mapping[str, Any]) -> float:
    power = convention.power_for(arguments)
    if power is not None:
        return power
    coupling = convention.coupling_for(arguments)
    why = _WHY_NOT[coupling]
    if coupling == "l2":
        why += _l2_hint(convention, arguments)
    if convention.decay_argument is None:
        why += f". {convention.traps[0]}"
    raise ValueError(f"{convention.name} {why}".rstrip(".") + ".")


def _l2_hint(convention: Convention, arguments: Mapping[str, Any]) -> str:
    """What would have an equal number."""
    if convention.l2_shrinks is not None:
        other = "lambd" if "lambd" in arguments else "momentum"
        return f" with {other}={arguments[other]}; without {other} there is one"
    for switch in _SWITCHES:
        if switch in arguments and convention.power_for({**arguments, switch: True}) is not None:
            return f". With {switch}=True it is decoupled, and there is one"
    return ". Choose a decoupled convention, such as torch.AdamW"
