"""What decays and why, as a table."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from wdlab._core.dtypes import is_16_bit, lost_to_rounding
from wdlab._core.names import first_few, printable
from wdlab._core.tables import print_table, shape_text
from wdlab.rules import (
    Decision,
    decisions,
    doubts,
    leaves_with_paths,
    looks_like_matrix,
    looks_like_norm_or_bias,
    normalize_rules,
    parameters,
    short_rule,
)

PyTree = Any


@dataclass(frozen=True)
class DecayRow:
    """One leaf of the report."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    rule: str  # The deciding rule in short, or 'pytree of scales'.
    scale: float  # s; 0 is exempt
    warning: str  # Empty where the decision looks as usual.
    optimizer: str = ""  # Which of several trains it, where ``branches`` says so.

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class DecayTable:
    """The decision for every leaf, with totals."""

    rows: tuple[DecayRow, ...]

    @property
    def decayed_tensors(self) -> int:
        """Leaves with a scale above 0."""
        return sum(row.scale > 0 for row in self.rows)

    @property
    def exempt_tensors(self) -> int:
        """Leaves with scale 0."""
        return len(self.rows) - self.decayed_tensors

    @property
    def decayed_parameters(self) -> int:
        """Entries of the decayed leaves."""
        return sum(row.size for row in self.rows if row.scale > 0)

    @property
    def exempt_parameters(self) -> int:
        """Entries of the exempt leaves."""
        return sum(row.size for row in self.rows if row.scale == 0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual, or left open by the name: a norm or bias that decays, and the like."""
        return tuple(f"{printable(row.path)}: {row.warning}" for row in self.rows if row.warning)

    @property
    def totals(self) -> str:
        """One line: decayed and exempt tensors and parameters."""
        return (
            f"decayed: {self.decayed_tensors} tensors, {self.decayed_parameters:,} parameters; "
            f"exempt: {self.exempt_tensors} tensors, {self.exempt_parameters:,} parameters"
        )


def inspect_decay(
    params: PyTree,
    rules: PyTree,
    *,
    shrink_per_step: float | None = None,
    wrt: Any = None,
    branches: PyTree | None = None,
) -> DecayTable:
    """Returns which leaves decay, by which rule and how much.

    Args:
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct``, or a Flax nnx model.
      rules: As in :func:`wdlab.decay_scales`.
      wrt: What is trained of an nnx model, as there.
      shrink_per_step: kappa_t lambda at its peak, to be compared with each leaf's rounding step.
      branches: Pytree of strings like ``params``: the optimizer of each leaf, as of
        :func:`wdlab.optimizers.branches_of`.

    Raises:
      ValueError: If a leaf is decided by nothing, or ``branches`` has another number of leaves.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> table = inspect_decay({"kernel": np.ones((2, 3)), "bias": np.ones(3)}, NO_BIAS_OR_NORM)
    >>> table.totals
    'decayed: 1 tensors, 6 parameters; exempt: 1 tensors, 3 parameters'
    """
    rules = normalize_rules(rules)
    decided = decisions(parameters(params, wrt), rules)
    open_ = doubts(decided, rules)
    shrink = shrink_per_step or 0.0
    rows = tuple(_row(d, shrink, open_.get(d.path, "")) for d in decided)
    if branches is None:
        return DecayTable(rows)
    names = dict(leaves_with_paths(branches))
    missing = [row.path for row in rows if row.path not in names]
    if missing:
        raise ValueError(f"branches says nothing of {first_few(missing)}.")
    own = (replace(row, optimizer=str(names[row.path])) for row in rows)
    return DecayTable(tuple(own))


def _row(decision: Decision, shrink_per_step: float, warning: str) -> DecayRow:
    path, leaf, rule, scale = decision
    if scale > 0 and looks_like_norm_or_bias(path, np.ndim(leaf)):
        warning = "named like a bias or norm scale, decays"
    if scale == 0 and looks_like_matrix(path, np.ndim(leaf)):
        warning = "named like a weight matrix, does not decay"
    if scale > 0 and is_16_bit(leaf):
        warning = lost_to_rounding(scale * shrink_per_step, leaf.dtype) or warning
    return DecayRow(
        path=path,
        shape=tuple(np.shape(leaf)),
        dtype=str(getattr(leaf, "dtype", type(leaf).__name__)),
        rule="pytree of scales" if rule is None else short_rule(rule),
        scale=scale,
        warning=warning,
    )


def print_decay(
    params: PyTree,
    rules: PyTree,
    *,
    shrink_per_step: float | None = None,
    wrt: Any = None,
    branches: PyTree | None = None,
    console: Console | None = None,
) -> DecayTable:
    """Prints the table of :func:`inspect_decay`, its totals and its warnings.

    Args:
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct``, or a Flax nnx model.
      rules: As in :func:`wdlab.decay_scales`.
      wrt: What is trained of an nnx model, as there.
      shrink_per_step: kappa_t lambda at its peak (``DecayProfile.peak_shrink``); if given, leaves
        whose dtype would round it away are named.
      branches: As in :func:`inspect_decay`; each leaf's optimizer is a column then.
      console: Where to; standard output if None.

    Returns:
      The table.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> table = print_decay({"kernel": np.ones((2, 3))}, NO_BIAS_OR_NORM)
    path ...
    decayed: 1 tensors, 6 parameters; exempt: 0 tensors, 0 parameters
    """
    report = inspect_decay(
        params, rules, shrink_per_step=shrink_per_step, wrt=wrt, branches=branches
    )
    own = ["optimizer"] if branches is not None else []
    print_table(
        ("path", "shape", "dtype", *own, "decided by rule", "scale "),
        (
            (
                printable(row.path),
                shape_text(row.shape),
                row.dtype,
                *([row.optimizer] if own else []),
                row.rule,
                "exempt" if row.scale == 0 else f"{row.scale:g}",
            )
            for row in report.rows
        ),
        [report.totals],
        warnings=report.warnings,
        console=console,
    )
    return report
