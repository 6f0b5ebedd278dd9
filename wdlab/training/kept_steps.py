"""Which steps of a run stay on disk: the newest, and the one with the lowest metric."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from wdlab._core.names import first_few
from wdlab.training.checksum import read_record


class KeptSteps:
    """A preservation policy of Orbax that knows no best step where the metric is NaN or missing.

    Args:
      directory: Where the steps of earlier processes lie.
      keep: How many of the newest steps stay.
      best: The metric's name; None: only the newest stay.

    Example:
      >>> kept = KeptSteps(epath.Path("/nowhere"), 1, "loss")
      >>> for step, loss in enumerate((0.5, math.nan, 0.7)):
      ...     kept.note(step, {"loss": loss})
      >>> kept.best_of([0, 1, 2])
      0
    """

    def __init__(self, directory: epath.Path, keep: int, best: str | None):
        self._directory, self._keep, self._best = directory, keep, best
        self._values: dict[int, float] = {}

    def note(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Remembers what a step is saved with."""
        if self._best is not None and metrics and self._best not in metrics:
            warnings.warn(
                f"the metrics have no {self._best!r}, which decides what is best; they have "
                f"{first_few(list(metrics))}",
                stacklevel=3,
            )
        self._values[step] = float(metrics.get(self._best or "", math.nan))

    def best_of(self, steps: Sequence[int]) -> int | None:
        """The step with the lowest metric, of equal ones the newest; None if no step has any."""
        for step in steps:
            if step not in self._values:
                try:
                    metrics = read_record(self._directory / str(step))["metrics"]
                except Exception:  # noqa: BLE001  Damaged files raise anything.
                    metrics = {}
                self.note(step, metrics)
        ranked = [step for step in reversed(steps) if not math.isnan(self._values[step])]
        return min(ranked, key=self._values.__getitem__, default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question, for its steps in the order in which they were saved."""
        del context
        steps = [info.step for info in checkpoints]
        kept = {*steps[-self._keep :], self.best_of(steps) if self._best else None}
        return [step in kept for step in steps]
