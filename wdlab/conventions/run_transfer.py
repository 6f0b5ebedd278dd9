"""Learning rate and weight decay of another run, under every published rule, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rich.console import Console

from wdlab._core.tables import print_table
from wdlab.conventions.training_run import TrainingRun, check_mapping
from wdlab.conventions.transfer_rules import RULES, TransferRule

_ALIKE = 1.1  # Values so near that a sweep cannot tell them apart.


@dataclass(frozen=True)
class Prediction:
    """What one rule says of the new run."""

    rule: TransferRule
    learning_rate: float
    weight_decay: float  # In the new run's coupling.
    shrink: float  # Share of an undriven weight that a step takes at the peak.
    timescale: float  # 1 / shrink, steps.
    share: float | None  # The timescale as a share of the run; None where its length is unknown.
    silent: tuple[str, ...]  # What changes and is not among what the rule speaks about.


@dataclass(frozen=True)
class Transfer:
    """The predictions of all rules that apply, and why the others do not.

    ``str()`` is the table.
    """

    run: TrainingRun
    to: TrainingRun
    changed: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    left_out: Mapping[str, str]  # Name of a rule -> why.

    @property
    def spread(self) -> dict[str, float]:
        """Largest over smallest prediction: of "learning_rate" and of "weight_decay"."""
        names = ("learning_rate", "weight_decay")
        values = {name: [getattr(p, name) for p in self.predictions] for name in names}
        return {name: max(of) / min(of) for name, of in values.items()}

    def __getitem__(self, name: str) -> Prediction:
        """The prediction of the rule of that name."""
        for prediction in self.predictions:
            if prediction.rule.name == name:
                return prediction
        why = self.left_out.get(name)
        there = ", ".join(str(p.rule) for p in self.predictions)
        raise KeyError(f"{name!r}: {why or 'there is no such rule'}. There are {there}.")

    def distinct(self, name: str) -> tuple[float, ...]:
        """The predicted values of one number that a sweep can tell apart, smallest first.

        Args:
          name: "learning_rate" or "weight_decay".
        """
        kept: list[float] = []
        for value in sorted(getattr(p, name) for p in self.predictions):
            if not kept or value > kept[-1] * _ALIKE:
                kept.append(value)
        return tuple(kept)

    def sweep(self, task: str = "MODULE:FUNCTION", seeds: int = 3) -> str:
        """The smallest ``wdlab sweep`` in which all that the rules say is among the points.

        Args:
          task: What is trained, as ``wdlab sweep --task`` takes it.
          seeds: How many.
        """
        rates, decays = (
            ",".join(f"{value:.3g}" for value in self.distinct(name))
            for name in ("learning_rate", "weight_decay")
        )
        return (
            f"wdlab sweep --task {task} --learning-rate {rates} --weight-decay {decays} "
            f"--coupling {self.to.coupling} --seeds {seeds}"
        )

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            self._print(console)
        lines = [line.rstrip() for line in captured.get().splitlines()]
        return "\n".join([*lines, f"to decide: {self.sweep()}"])  # Unbroken, to be copied.

    def _print(self, console: Console) -> None:
        rows = [
            (
                str(p.rule),
                f"{p.learning_rate:.4g}",
                f"{p.weight_decay:.4g}",
                f"{p.timescale:,.0f}",
                "-" if p.share is None else f"{p.share:.3g}",
                ", ".join(p.silent) or "-",
            )
            for p in self.predictions
        ]
        headings = ("rule", "lr ", "decay ", "timescale ", "of run ", "says nothing of")
        print_table(headings, rows, self._below(), console=console)

    def _below(self) -> list[str]:
        factors = ", ".join(f"{name} {factor:.3g}" for name, factor in self.spread.items())
        lines = [
            f"changes: {', '.join(self.changed)}; decay in the coupling {self.to.coupling!r}",
            f"largest over smallest: {factors}",
        ]
        reasons = dict.fromkeys(self.left_out.values())
        for reason in reasons:
            names = [name for name, why in self.left_out.items() if why == reason]
            lines.append(f"left out, {reason}: {'; '.join(names)}")
        return lines


def transfer(run: TrainingRun | Mapping[str, Any], to: TrainingRun | Mapping[str, Any]) -> Transfer:
    """Carries a run's learning rate and weight decay to another run, under each published rule.

    Args:
      run: What is known: a :class:`TrainingRun`, or a mapping of its fields.
      to: What changes, a mapping of the same fields; or the whole new run, whose weight decay is
        not looked at. A learning rate given here replaces the old one before a rule scales it.

    Returns:
      A :class:`Transfer`: ``str()`` is the table; ``["Power Lines"].weight_decay`` is one number;
      ``.sweep()`` is the command that would decide.

    Raises:
      TypeError: If a field is unknown.
      ValueError: If a number is out of range, or nothing changes.

    >>> run = {"learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 256, "steps": 10_000}
    >>> found = transfer(run, to={"batch_size": 1024})
    >>> found["constant timescale"].weight_decay, found["sqrt(batch)"].learning_rate
    (0.4, 0.002)
    >>> print(found.sweep())
    wdlab sweep --task MODULE:FUNCTION --learning-rate 0.001,0.002,0.004 --weight-decay 0.1,0.2,0.4
        --coupling lr --seeds 3
    """
    run = run if isinstance(run, TrainingRun) else _made(run)
    new = to if isinstance(to, TrainingRun) else run.changed(to)
    changed = tuple(
        f.name
        for f in fields(run)
        if f.name != "weight_decay" and getattr(run, f.name) != getattr(new, f.name)
    )
    if not changed:
        raise ValueError("transfer: nothing changes. Say what does: to={'batch_size': 1024}.")
    predictions, left_out = [], {}
    for rule in RULES:
        why = _why_not(rule, run, new, changed)
        if why:
            left_out[rule.name] = why
        else:
            predictions.append(_predicted(rule, run, new, changed))
    return Transfer(run, new, changed, tuple(predictions), left_out)


def _made(run: Mapping[str, Any]) -> TrainingRun:
    check_mapping("run", run)
    missing = [name for name in ("learning_rate", "weight_decay") if name not in run]
    if missing:
        got = ", ".join(run) or "nothing"
        raise TypeError(f"transfer: run needs {' and '.join(missing)}, got {got}.")
    base = TrainingRun(learning_rate=run["learning_rate"], weight_decay=run["weight_decay"])
    return base.changed(run)


def _why_not(rule: TransferRule, run: TrainingRun, to: TrainingRun, changed: Sequence[str]) -> str:
    if to.optimizer not in rule.optimizers:
        return f"not found for {to.optimizer}"
    if rule.about and not set(changed) & set(rule.about):
        return "about other changes"
    missing = [n for n in rule.needs if getattr(run, n) is None or getattr(to, n) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def _predicted(
    rule: TransferRule, run: TrainingRun, to: TrainingRun, changed: Sequence[str]
) -> Prediction:
    rate, shrink = rule.apply(run, to)
    decay = replace(to, learning_rate=rate).with_shrink(shrink)
    silent = [n for n in changed if n not in (*rule.about, "coupling")]
    if {"batch_size", "tokens"} & set(rule.about):  # Of the three, two say all.
        silent = [name for name in silent if name not in ("steps", "tokens", "batch_size")]
    if "width" in rule.about and "width" in changed:  # They grow with it.
        silent = [name for name in silent if name != "parameters"]
    share = None if to.steps is None else 1 / shrink / to.steps
    kept = tuple(silent) if rule.about else ()
    return Prediction(rule, rate, _short(decay), shrink, 1 / shrink, share, kept)


def _short(number: float) -> float:
    """Without the noise of the last digits: 0.4, and not 0.4000000000000001."""
    return float(f"{number:.12g}")
