"""What each leaf is, as a table, with the names that say something else."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from wdlab._core.names import printable
from wdlab._core.tables import print_table, shape_text
from wdlab.rules.presets import looks_like_matrix, looks_like_norm_or_bias
from wdlab.rules.traced_roles.leaf_role import LeafRole
from wdlab.rules.traced_roles.tracing import leaf_roles

PyTree = Any
_WIDE = ("embedding", "kernel", "matrix", "head")


def name_disagrees(leaf: LeafRole) -> str:
    """What name and role of a leaf disagree about; '' where they do not.

    >>> from wdlab.rules.traced_roles.leaf_role import Axes
    >>> name_disagrees(LeafRole("mlp/bias", (2, 3), "matrix", (), Axes((0,), (1,), ()), None, ()))
    'named like a bias or norm scale, is a matrix'
    """
    ndim = len(leaf.shape)
    if leaf.role in _WIDE and looks_like_norm_or_bias(leaf.path, ndim):
        return f"named like a bias or norm scale, is a {leaf.role}".replace("a emb", "an emb")
    if leaf.role in ("bias", "scale", "gate", "position") and looks_like_matrix(leaf.path, ndim):
        return f"named like a weight matrix, is a {leaf.role}"
    return ""


def print_roles(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *batch: Any,
    wrt: Any = None,
    measure: bool = True,
    console: Console | None = None,
) -> tuple[LeafRole, ...]:
    """Prints the table of :func:`leaf_roles`, and warnings where a name says something else.

    Args:
      loss_fn: As there.
      params: As there.
      *batch: As there.
      wrt: As there.
      measure: As there.
      console: Where to; standard output if None.

    Returns:
      The records.

    Raises:
      As :func:`leaf_roles`.

    >>> import numpy as np
    >>> loss = lambda p, x: ((x @ p["bias"]) ** 2).mean()
    >>> found = print_roles(loss, {"bias": np.ones((2, 3))}, np.ones((4, 2)))
    path  shape  role  in  out  stack  evidence
    bias  2x3    head  0   1           dot_general sums over its axis 0
    1 head
    warning: bias: named like a bias or norm scale, is a head
    """
    found = leaf_roles(loss_fn, params, *batch, wrt=wrt, measure=measure)
    rows = [
        (
            printable(leaf.path),
            shape_text(leaf.shape),
            str(leaf),
            *(" ".join(map(str, axes)) for axes in leaf.axes),
            "; ".join(leaf.evidence),
        )
        for leaf in found
    ]
    warnings = [
        f"{printable(leaf.path)}: {text}" for leaf in found if (text := name_disagrees(leaf))
    ]
    warnings += [
        f"{printable(leaf.path)}: {'; '.join(leaf.evidence)}"
        for leaf in found
        if leaf.role in ("unknown", "unused")
    ]
    headings = ("path", "shape", "role", "in", "out", "stack", "evidence")
    print_table(headings, rows, [_totals(found)], warnings=warnings, console=console)
    return found


def _totals(found: Sequence[LeafRole]) -> str:
    counts: dict[str, int] = {}
    for leaf in found:
        counts[leaf.role] = counts.get(leaf.role, 0) + 1
    return ", ".join(f"{count} {role}" for role, count in sorted(counts.items()))
