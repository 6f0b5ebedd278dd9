"""Very many tiny steps with saves: nothing may grow."""

import contextlib
import ctypes
import dataclasses
import gc
import os
import threading
from pathlib import Path

from wdlab.training import Checkpoints

from .kills import initial_state, make_step, optimizer

_ARENA_MAX = -8  # Of malloc.h. Threads with heaps of their own leave holes there by chance, 1 %.
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Growth:
    """What was there after a tenth of the steps, and at the end."""

    resident: tuple[int, int]  # bytes
    objects: tuple[int, int]  # of Python, as its garbage collector counts them
    files: tuple[int, int]
    threads: tuple[int, int]  # before the first step, and after the last

    @property
    def share(self) -> float:
        """Growth of the resident memory as a share of it."""
        return self.resident[1] / self.resident[0] - 1


def soak(folder: Path, steps: int, interval: int) -> Growth:
    """Trains ``steps`` steps and saves every ``interval`` of them."""
    with contextlib.suppress(OSError, AttributeError):  # Not glibc.
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
    tx = optimizer()
    state, step = initial_state(tx), make_step(tx)
    threads = threading.active_count()
    resident, objects, files = [], [], []
    with Checkpoints(folder) as checkpoints:
        for number in range(1, steps + 1):
            params, opt_state = step(state["params"], state["opt_state"], state["key"], number)
            state |= {"params": params, "opt_state": opt_state}
            if number % interval == 0:
                checkpoints.save(number, state)
            if number in (steps // 10, steps):
                checkpoints.wait()
                resident.append(_resident())
                objects.append(len(gc.get_objects()))
                files.append(sum(path.is_file() for path in folder.rglob("*")))
    pairs = [(seen[0], seen[1]) for seen in (resident, objects, files)]
    return Growth(pairs[0], pairs[1], pairs[2], (threads, threading.active_count()))


def _resident() -> int:
    """Bytes in use: what is free already goes back to the system first, where it can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # Not glibc.
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
