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
    cpu_seconds: tuple[float, ...]  # Of all cores together: they say more on a busy machine.

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def speedup(self, other: "Timing") -> float:
        """How many times faster than the other, the median of the rounds' ratios."""
        return _ratio(other.seconds, self.seconds)

    def thrift(self, other: "Timing") -> float:
        """How many times less CPU time than the other, the median of the rounds' ratios."""
        return _ratio(other.cpu_seconds, self.cpu_seconds)


def _ratio(theirs: tuple[float, ...], ours: tuple[float, ...]) -> float:
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def in_turns(
    programs: dict[str, Callable[[], object]], rounds: int, warm_ups: int = 3
) -> dict[str, Timing]:
    """Calls each program unmeasured (the first call compiles), then all of them in turns.

    Args:
      programs: Name -> a call that returns when its work is done.
      rounds: How often each is measured.
      warm_ups: How often each is called before.
    """
    for program in programs.values():
        for _ in range(warm_ups):
            program()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            program()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Timing(name, *zip(*pairs, strict=True)) for name, pairs in times.items()}
