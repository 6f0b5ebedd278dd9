"""One of two processes dies: the other must not wait for ever, and a restart goes on."""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path

from .kills import Run, fork_lives, run_with_kills

VICTIMS = {"the coordinator": 0, "the other": 1}
LONGEST = 60.0  # Seconds that the survivor may take.
_SAVES = 3  # After so many one of them dies.


@dataclasses.dataclass(frozen=True)
class Death:
    """What came of it."""

    seconds: float  # until the survivor had ended
    code: int  # its exit code; negative: the signal
    saved: int  # the last step known to be saved
    resumed: int  # where the restart went on
    same: bool  # whether the restart's end equals that of a run without a death


def death_of(victim: int, folder: Path, steps: int) -> Death:
    """Kills one process after some saves, waits for the other, starts both again."""
    run = Run(folder / "run", steps, wait=True, processes=2)
    lives = fork_lives(run)
    saved = [int(line.split()[1]) for line, _ in zip(_saves(lives), range(_SAVES), strict=False)]
    os.kill(lives[victim][0], signal.SIGKILL)
    seconds, code = _end_of(lives[1 - victim][0])
    os.waitpid(lives[victim][0], 0)
    for _, pipe in lives:
        pipe.close()
    after = run_with_kills(run, 0, random.Random())
    whole = dataclasses.replace(run, folder=folder / "whole")
    same = after.digest == run_with_kills(whole, 0, random.Random()).digest
    return Death(seconds, code, saved[-1], after.resumed, same)


def _saves(lives: list):
    return (line for line in lives[0][1] if line.startswith("saved"))


def _end_of(pid: int) -> tuple[float, int]:
    """Seconds until a process has ended, and its exit code; it is killed after the longest time."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < LONGEST:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return elapsed, os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return float("inf"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
