"""Where two plans differ, in words: leaf, what, and both numbers."""

from typing import Any

from wdlab.instruments.plans.measured_decay import TRIED_GRADIENTS
from wdlab.instruments.plans.step_curves import PROBED_STEPS


def plan_differences(this: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Compares two plans as JSON, as a checkpoint keeps them.

    Args:
      this: ``as_json()`` of the plan in hand.
      other: The other's.

    Returns:
      One line for each leaf or part that differs.

    >>> plan = {"leaves": {}, "kinds": {}, "optimizer": [], "calls_per_update": 1}
    >>> plan_differences(plan, plan | {"calls_per_update": 4})
    ['calls per update: 1 in this plan, 4 in the other']
    """
    if "kinds" not in this or "kinds" not in other:
        return [] if this == other else ["one of the plans is of an earlier form"]
    lines = []
    for path in sorted({*this["leaves"], *other["leaves"]}):
        leaf, others = this["leaves"].get(path), other["leaves"].get(path)
        if leaf is None or others is None:
            lines.append(f"{path}: only in {'the other' if leaf is None else 'this plan'}")
        elif leaf != others:
            kinds = this["kinds"][leaf[2]], other["kinds"][others[2]]
            lines.append(f"{path}: {_difference(leaf, others, *kinds)}")
    if not lines and this["optimizer"] != other["optimizer"]:
        lines.append(
            "every leaf decays and steps alike, by another program: wdlab.equivalent(one, other, "
            "params) tells whether the two optimizers are the same"
        )
    for key in ("optimizer", "calls_per_update"):
        if this[key] != other[key]:
            lines.append(f"{key.replace('_', ' ')}: {_both(this[key], other[key])}")
    return lines


def _both(this: Any, other: Any) -> str:
    return f"{this} in this plan, {other} in the other"


def _difference(mine: list, other: list, one: dict[str, Any], two: dict[str, Any]) -> str:
    pairs = {"shape": (mine[0], other[0]), "dtype": (mine[1], other[1])}
    pairs["coupling"] = one["coupling"], two["coupling"]
    for name, (a, b) in pairs.items():
        if a != b:
            return f"{name} {_both(a, b)}"
    scale_only = "response" not in one and "response" not in two
    found = _curve_difference("decays", "", one["decay"], two["decay"], not scale_only)
    empty: dict[str, Any] = {"values": {"0": None}}
    curves = one.get("response", empty), two.get("response", empty)
    found = found or _curve_difference("steps", " for a gradient of 1", *curves, True)
    if found:
        return found
    for row in zip(one.get("trials", []), two.get("trials", []), strict=False):
        for n, (a, b) in enumerate(zip(*row, strict=True)):
            if a != b:
                after = ", ".join(f"{gradient:g}" for gradient in TRIED_GRADIENTS[: n + 1])
                return f"steps {_by(a, b)} after gradients of {after}"
    return "computes its update in another way"


def _curve_difference(verb: str, what: str, one: dict, two: dict, tell_step: bool) -> str:
    """The first difference of two curves; empty if there is none."""
    for step in PROBED_STEPS:
        a, b = _at(one["values"], step), _at(two["values"], step)
        if a != b:
            when = f" at step {step}" if tell_step else ""
            return f"{verb} {_by(a, b)}{what}{when}"
    jumps = one.get("jumps", []), two.get("jumps", [])
    if jumps[0] != jumps[1]:
        a, b = (", ".join(map(str, steps)) or "no step" for steps in jumps)
        return f"{verb} otherwise{what}: from step {_both(a, b)}"
    between = one.get("between", {}), two.get("between", {})
    for step, end in zip(PROBED_STEPS, PROBED_STEPS[1:], strict=False):
        if between[0].get(str(step)) != between[1].get(str(step)):
            return f"{verb} otherwise{what} between steps {step} and {end}"
    return ""


def _at(values: dict[str, Any], step: int) -> Any:
    return values[str(max(int(known) for known in values if int(known) <= step))]


def _by(this: float | None, other: float | None) -> str:
    amount = lambda x: "an unknown amount" if x is None else f"{x:g}"  # noqa: E731
    return f"by {_both(amount(this), amount(other))}"
