"""Programs timed in turns in one process, so that what else the machine does strikes all alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call of one program."""

    name: str
    seconds: tuple[float, ...]  # One per round.

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def speedup(self, other: "Timing") -> float:
        """How many times faster than the other, the median of the rounds' ratios."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def in_turns(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Calls each program once unmeasured (it compiles), then all of them in turns.

    Args:
      programs: Name -> a call that returns when its work is done.
      rounds: How often each is measured.
    """
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(name, tuple(times)) for name, times in seconds.items()}
