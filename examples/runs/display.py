"""What the user sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import time

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Progress of a run, on process 0 only."""

    def __init__(self, first_step: int, last_step: int, tokens_per_step: int, unit: str = "tokens"):
        self.main = jax.process_index() == 0
        self.console = Console(quiet=not self.main, highlight=False, markup=False)
        if not self.console.is_terminal:  # A pipe or a file: no folding at 80 columns.
            self.console.width = 140
        self.first, self.last, self.tokens_per_step = first_step, last_step, tokens_per_step
        self.unit, self._done = unit, first_step
        self._seconds, self._timed_steps, self._last_line = 0.0, 0, time.monotonic()
        self._bar = Progress(
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  {task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (self.main and self.console.is_terminal),
        )
        self._task = self._bar.add_task("", total=last_step, completed=first_step)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def tokens_per_second(self) -> float:
        """Over all calls of step but the first, which compiles; evaluations not counted."""
        return self._timed_steps * self.tokens_per_step / max(self._seconds, 1e-9)

    def step(self, done: int, loss: float, seconds: float) -> None:
        """Shows one more finished step, or several that took ``seconds`` together."""
        if self._done > self.first:
            self._seconds += seconds
            self._timed_steps += done - self._done
        self._done = done
        text = f"loss {loss:.3f}  {self.tokens_per_second:,.0f} {self.unit}/s"
        self._bar.update(self._task, completed=done, description=text)
        if self._bar.disable and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self.line(f"step {done}/{self.last}  {text}")

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._last_line = time.monotonic()
        self.console.print(text, soft_wrap=True)
