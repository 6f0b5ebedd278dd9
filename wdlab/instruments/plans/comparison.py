"""Where two plans differ, in words: leaf, what, and both numbers."""

from typing import Any

from wdlab.instruments.plans.measured_decay import TRIED_GRADIENTS
from wdlab.instruments.plans.step_curves import PROBED_STEPS


def plan_differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Compares two plans as JSON, as a checkpoint keeps them.

    Args:
      here: ``as_json()`` of the plan in hand.
      there: The other's.

    Returns:
      One line for each leaf or part that differs.

    >>> plan = {"leaves": {}, "kinds": {}, "optimizer": [], "calls_per_update": 1}
    >>> plan_differences(plan, plan | {"calls_per_update": 4})
    ['calls per update: 1 here, 4 there']
    """
    if "kinds" not in here or "kinds" not in there:
        return [] if here == there else ["one of the plans is of an earlier form"]
    lines = []
    for path in sorted({*here["leaves"], *there["leaves"]}):
        mine, other = here["leaves"].get(path), there["leaves"].get(path)
        if mine is None or other is None:
            lines.append(f"{path}: only {'there' if mine is None else 'here'}")
        elif mine != other:
            kinds = here["kinds"][mine[2]], there["kinds"][other[2]]
            lines.append(f"{path}: {_difference(mine, other, *kinds)}")
    for key in ("optimizer", "calls_per_update"):
        if here[key] != there[key]:
            lines.append(f"{key.replace('_', ' ')}: {here[key]} here, {there[key]} there")
    return lines


def _difference(mine: list, other: list, one: dict[str, Any], two: dict[str, Any]) -> str:
    pairs = {"shape": (mine[0], other[0]), "dtype": (mine[1], other[1])}
    pairs["coupling"] = one["coupling"], two["coupling"]
    for name, (a, b) in pairs.items():
        if a != b:
            return f"{name} {a} here, {b} there"
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
                return f"steps by {_text(a)} here, by {_text(b)} there after gradients of {after}"
    return "computes its update in another way"


def _curve_difference(verb: str, what: str, one: dict, two: dict, tell_step: bool) -> str:
    """The first difference of two curves; empty if there is none."""
    for step in PROBED_STEPS:
        a, b = _at(one["values"], step), _at(two["values"], step)
        if a != b:
            when = f" at step {step}" if tell_step else ""
            return f"{verb} by {_text(a)} here, by {_text(b)} there{what}{when}"
    jumps = one.get("jumps", []), two.get("jumps", [])
    if jumps[0] != jumps[1]:
        a, b = (", ".join(map(str, steps)) or "no step" for steps in jumps)
        return f"{verb} otherwise{what} from step {a} here, from {b} there"
    between = one.get("between", {}), two.get("between", {})
    for step, end in zip(PROBED_STEPS, PROBED_STEPS[1:], strict=False):
        if between[0].get(str(step)) != between[1].get(str(step)):
            return f"{verb} otherwise{what} between steps {step} and {end}"
    return ""


def _at(values: dict[str, Any], step: int) -> Any:
    return values[str(max(int(known) for known in values if int(known) <= step))]


def _text(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:g}"
