"""Very many tiny steps with saves: nothing may grow."""

import dataclasses
import gc
import os
import threading
from pathlib import Path

from wdlab.checkpoint import Checkpoints

from .kills import initial_state, make_step, optimizer

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Growth:
    """What was there after a tenth of the steps, and at the end."""

    resident: tuple[int, int]  # bytes
    files: tuple[int, int]
    threads: tuple[int, int]  # before the first step, and after the last

    @property
    def share(self) -> float:
        """Growth of the resident memory as a share of it."""
        return self.resident[1] / self.resident[0] - 1


def soak(folder: Path, steps: int, interval: int) -> Growth:
    """Trains ``steps`` steps and saves every ``interval`` of them."""
    tx = optimizer()
    state, step = initial_state(tx), make_step(tx)
    threads = threading.active_count()
    resident, files = [], []
    with Checkpoints(folder) as checkpoints:
        for number in range(1, steps + 1):
            params, opt_state = step(state["params"], state["opt_state"], state["key"], number)
            state |= {"params": params, "opt_state": opt_state}
            if number % interval == 0:
                checkpoints.save(number, state)
            if number in (steps // 10, steps):
                checkpoints.wait()
                gc.collect()
                resident.append(_resident())
                files.append(sum(path.is_file() for path in folder.rglob("*")))
    left = threading.active_count()
    return Growth((resident[0], resident[1]), (files[0], files[1]), (threads, left))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
