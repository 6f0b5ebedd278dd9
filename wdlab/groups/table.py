"""Which leaf is in which parameter group, and what that means for its rate and its decay."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from wdlab._core.names import printable
from wdlab._core.tables import print_table, shape_text
from wdlab.groups.group import Group, assign_groups, idle_groups
from wdlab.rules import NO_BIAS_OR_NORM, decisions, parameters
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


@dataclass(frozen=True)
class GroupRow:
    """One leaf of the table."""

    path: str
    shape: tuple[int, ...]
    group: Group
    learning_rate: float | None  # At the step asked for; None if the base rate is not given.
    decay_scale: float  # s times the group's decay_scale; 0 where the leaf is exempt or frozen.


def print_groups(
    params: PyTree,
    groups: tuple[Group, ...],
    *,
    learning_rate: ScalarOrSchedule | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    step: int = 0,
    wrt: Any = None,
    console: Console | None = None,
) -> tuple[GroupRow, ...]:
    """Prints the group of every leaf, its learning rate and the scale of its decay.

    Args:
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct``, or a Flax nnx model.
      groups: First full match wins.
      learning_rate: The base rate, as :func:`wdlab.groups.grouped` gets it; if left out, the table
        has factors of it.
      rules: Scale ``s`` of every leaf, as there.
      step: At which the rates are, >= 0.
      wrt: What is trained of an nnx model, as in :func:`wdlab.decay_scales`.
      console: Where to; standard output if None.

    Returns:
      The rows.

    Raises:
      TypeError, ValueError: As from :func:`wdlab.groups.grouped` and its ``init``.

    >>> groups = (Group("old/.*", frozen=True), Group(".*", learning_rate_scale=0.5))
    >>> params = {"old": {"w": np.ones(2)}, "head": {"kernel": np.ones((2, 3))}}
    >>> rows = print_groups(params, groups, learning_rate=0.1)
    path          shape  group   learning rate   decay
    head/kernel   2x3    .*      0.05            1
    old/w         2      old/.*  frozen          exempt
    old/.*: 1 tensors, 2 parameters
    .*: 1 tensors, 6 parameters
    """
    params = parameters(params, wrt)
    assigned = assign_groups(params, groups)
    rows = []
    for (path, leaf, group), decision in zip(assigned, decisions(params, rules), strict=True):
        rate = None
        if learning_rate is not None or group.learning_rate is not None:
            rate = 0.0 if group.frozen else float(group.rate(learning_rate or 0.0, step))
        scale = 0.0 if group.frozen else decision.scale * group.decay_scale
        rows.append(GroupRow(path, tuple(np.shape(leaf)), group, rate, scale))
    print_table(
        ("path", "shape", "group", "learning rate ", "decay "),
        map(_cells, rows),
        [_total(group, rows) for group in dict.fromkeys(groups)],
        warnings=idle_groups(params, groups),
        console=console,
    )
    return tuple(rows)


def _cells(row: GroupRow) -> tuple[str, ...]:
    group = row.group
    rate = f"{group.learning_rate_scale:g} x base" if row.learning_rate is None else ""
    rate = rate or f"{row.learning_rate:g}"
    return (
        printable(row.path),
        shape_text(row.shape),
        group.name or group.pattern,
        "frozen" if group.frozen else rate,
        f"{row.decay_scale:g}" if row.decay_scale else "exempt",
    )


def _total(group: Group, rows: list[GroupRow]) -> str:
    own = [math.prod(row.shape) for row in rows if row.group == group]
    return f"{group.name or group.pattern}: {len(own)} tensors, {sum(own):,} parameters"
