"""The loop over the updates of a run, which reads the numbers of a call one call late."""

import abc
import time
from collections.abc import Iterable
from typing import Any

import jax

from .display import Display
from .errors import Diverged, UserError
from .records import Records, Row
from .stop import StopRequest


class TrainingLoop(abc.ABC):
    """Calls a compiled step, and reads the numbers of a call while the next call is under way.

    ``state`` is that after the newest call; ``step`` counts the updates whose numbers are read.
    They belong together whenever no call is under way: so at every evaluation and checkpoint.
    """

    state: Any
    last: int  # updates at the end
    display: Display
    records: Records
    stop: StopRequest

    def __init__(self, first: int):
        self.first = self.step = self.begun = first  # begun: with those of the calls under way.
        self.pending = True  # Whether the row of this step is still to be made;
        self.row: Row = {}  # what there is of it.

    @abc.abstractmethod
    def call(self, before: Any | None) -> Any:
        """Starts the next updates on the device: counts them in ``begun``, replaces ``state``.

        Returns arrays for :meth:`read`, and waits for nothing. A call may make several updates,
        but none beyond the next step that has a row.

        Args:
          before: What the call before this one gave, if it has not been read: where that one did
            not reach its end, this one must change nothing.
        """

    @abc.abstractmethod
    def read(self, numbers: Any, seconds: float) -> Row:
        """Takes in what a call gave, now on the host: counts in ``step``; the row's columns.

        A call that did not reach its end sets ``begun`` back: the one after it is not read.

        Raises:
          Diverged: If there is no point in going on; ``state`` is the one to be saved.
        """

    @abc.abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether the host looks at the state after this step, before the next call."""

    @abc.abstractmethod
    def look(self) -> tuple[Row, str] | None:
        """More columns for the row of a step that is due, and a line; None if it was stopped."""

    def is_saved(self) -> bool:
        """Whether there is a checkpoint of this step, at which a row was due."""
        return True

    @abc.abstractmethod
    def save(self, *, wait: bool = False) -> str:
        """Saves the state, with the row if there is one; which step it is, and where."""

    def say(self, lines: Iterable[str]) -> None:
        """Shows lines to the user."""
        for line in lines:
            self.display.line(line)

    def train(self) -> int | None:
        """Updates until the last one (None) or a signal (the exit code to leave with).

        Raises:
          UserError: If nothing is finite any more; the state before that is saved.
        """
        try:
            return self._train()
        except Diverged as error:
            self.step = error.step
            saved = self.save(wait=True)
            raise UserError(
                f"{error.what}: stopped; the weights before it are saved as {saved}. {error.advice}"
            ) from None

    def _train(self) -> int | None:
        under_way = None
        while True:
            if under_way is None:
                if not self._finish_step() or self.stop.requested:
                    self.save(wait=True)
                    self.say([f"{self.stop.name}: saved at step {self.step}; --resume continues"])
                    return self.stop.exit_code
                if self.step >= self.last:
                    return None
                self._clock, under_way = time.monotonic(), self._start()
            newest = self._start(under_way[0]) if self._may_start() else None
            self._read(*under_way)
            under_way = newest if self.begun > self.step else None

    def _start(self, before: Any | None = None) -> tuple[Any, Any]:
        return self.call(before), self.stop.ask()

    def _may_start(self) -> bool:
        """Whether the next call may begin before the one under way is read."""
        ends = self.begun >= self.last or self.is_due(self.begun)
        return not ends and not self.stop.heard

    def _read(self, numbers: Any, asked: Any) -> None:
        numbers, asked = jax.device_get((numbers, asked))
        self.stop.hear(asked)
        before, clock = self.step, self._clock
        self._clock = time.monotonic()
        self.row = self.read(numbers, self._clock - clock)
        if self.step > before:
            self.pending = self.is_due(self.step)
        if self.row and not self.pending:
            self._append({})

    def _append(self, columns: Row) -> None:
        self.row = {"step": self.step} | self.row | columns
        self.records.append(self.row)

    def _finish_step(self) -> bool:
        """What is due at this step; False if the run is to be left before it is done."""
        if not self.pending:
            return True
        if (found := self.look()) is None:
            return False
        self._append(found[0])
        self.say(found[1:])
        self.pending = False
        if self.step > self.first and self.is_saved():
            self.save()
        return True
