"""A converted weight decay beside everything that the number does not carry over."""

from dataclasses import dataclass

from wdlab.conventions.convention import REQUIRED, Convention
from wdlab.conventions.conversion import convert, shrink_at_peak
from wdlab.conventions.registry import get
from wdlab.rules import ALL
from wdlab.schedules import ScalarOrSchedule

# Couplings whose shrink follows the schedule alike, whatever its shape.
_SHAPES = dict(schedule=1, lr=1, l2=1, constant=0, lr2=2, lr2_over_peak=2, proximal=3)
_SHAPE_WORDS = {
    0: "is the same at every step",
    1: "follows the schedule",
    2: "follows its square",
    3: "divides by 1 + lr_t lambda",
}


@dataclass(frozen=True)
class Comparison:
    """A converted number and what it does not carry over."""

    weight_decay: float  # The source's number.
    converted: float  # The target's.
    shrink: float  # Share of an undriven weight lost per step at the peak.
    source: Convention
    target: Convention
    differences: tuple[str, ...]  # What else differs, a line each.

    def __str__(self) -> str:
        """The comparison as lines of text."""
        lines = [
            f"{_number(self.converted)}",
            "",
            f"{self.source.name}, {self.source.decay_argument} {_number(self.weight_decay)}",
            f"  {self.source.equation}",
            f"{self.target.name}, {self.target.decay_argument} {_number(self.converted)}",
            f"  {self.target.equation}",
            f"both shrink a weight by {_number(self.shrink)} per step at the peak learning rate",
            "",
            "what else differs:" if self.differences else "nothing else differs",
            *(f"  {line}" for line in self.differences),
        ]
        return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.12g}"


def compare(
    weight_decay: float,
    *,
    learning_rate: ScalarOrSchedule,
    source: str,
    target: str,
) -> Comparison:
    """Converts like :func:`convert` and tells what else differs between the two conventions.

    Args:
      weight_decay: The source's number, at least 0.
      learning_rate: At its peak, above 0, or a schedule that carries it.
      source: The convention that the number is from.
      target: The convention that it goes to.

    Raises:
      TypeError, ValueError: As :func:`convert`.

    >>> result = compare(
    ...     0.1, learning_rate=6e-4, source="torch.AdamW", target="composer.DecoupledAdamW"
    ... )
    >>> result.converted, result.differences[0][:8]
    (6e-05, 'defaults')
    """
    rate = {"learning_rate": learning_rate}
    there, here = get(source), get(target)
    return Comparison(
        weight_decay=weight_decay,
        converted=convert(weight_decay, source=source, target=target, **rate),
        shrink=shrink_at_peak(weight_decay, convention=source, **rate),
        source=there,
        target=here,
        differences=tuple(_differences(there, here)),
    )


def _differences(there: Convention, here: Convention) -> list[str]:
    lines = []
    shapes = _SHAPES.get(there.coupling), _SHAPES.get(here.coupling)
    if shapes[0] != shapes[1]:
        words = [_SHAPE_WORDS.get(shape, "is its own") for shape in shapes if shape is not None]
        lines.append(
            f"schedule: the decay of {there.name} {words[0]}, that of {here.name} {words[-1]}: "
            "equal at the peak, not over the run"
        )
    for label, attribute in (
        ("order", "order"),
        ("epsilon", "epsilon"),
        ("bias correction", "bias_correction"),
    ):
        a, b = getattr(there, attribute), getattr(here, attribute)
        if a != b:
            lines.append(f"{label}: {a} -> {b}")
    if there.rules != here.rules:
        lines.append(f"exclusions: {_exempt(there)} -> {_exempt(here)}")
    shared = [k for k in there.defaults if k in here.defaults and k != "weight_decay"]
    changed = [
        f"{key} {there.defaults[key]!r} -> {here.defaults[key]!r}"
        for key in shared
        if there.defaults[key] != here.defaults[key]
    ]
    if changed:
        lines.append(f"defaults: {', '.join(changed)}")
    lines.append(f"default decay: {_default_decay(there)} -> {_default_decay(here)}")
    return [*lines, *(f"trap of {here.name}: {trap}" for trap in here.traps)]


def _exempt(convention: Convention) -> str:
    if convention.rules == ALL:
        return "all leaves decay"
    return ", ".join(f"{rule.pattern} x {rule.scale:g}" for rule in convention.rules)


def _default_decay(convention: Convention) -> str:
    value = convention.defaults[str(convention.decay_argument)]
    return "required" if value is REQUIRED else f"{value}"
