"""A convention with its switches set otherwise than by default."""

import itertools
from typing import Any

from wdlab.conventions import get


def variants(name: str) -> list[dict[str, Any]]:
    """The convention's switches turned one at a time, and two that go together.

    >>> variants("torch.SGD")[-1]
    {'momentum': 0.9, 'nesterov': True}
    """
    defaults = get(name).defaults
    found: list[dict[str, Any]] = []
    for argument, value in defaults.items():
        if isinstance(value, bool) and argument not in ("maximize", "no_prox_unused"):
            found.append({argument: not value})
        found += [{argument: x} for x in _ALTERNATIVES.get(argument, ()) if x != value]
    pairs = [a | b for a, b in itertools.combinations(found, 2) if _together(a, b)]
    return [*found, *pairs]


# What an argument may be beside its default, where that is not a number or means none.
_ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "momentum": (0.9,), "beta1": (0.9,), "consistent_rms": (0.2,), "beta2": (),
    "adjust_lr_fn": ("match_rms_adamw",), "adjust_lr": ("rms_norm",),
    "decay_method": ("pow",), "clipping_threshold": (None, 1.0),
    "mars_type": ("mars-lion", "mars-shampoo", "lion"),
}  # fmt: skip
_PAIRS = ({"momentum", "nesterov"}, {"relative_step", "scale_parameter"},
          {"relative_step", "beta1"}, {"multiply_by_parameter_scale", "momentum"},
          {"momentum", "centered"},
          {"consistent_rms", "nesterov"}, {"adjust_lr_fn", "nesterov"},
          {"multiply_by_parameter_scale", "beta1"})  # fmt: skip


def _together(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return {*one, *two} in _PAIRS and len({*one, *two}) == 2
