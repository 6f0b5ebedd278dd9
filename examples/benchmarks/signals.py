"""SIGTERM at every kind of moment: all processes save the step they are at, and exit with 0."""

import os
import random
import signal
import time
from pathlib import Path

from .kills import Run, fork_lives

# Event after which the signal is sent, at most so many seconds later, and how often it is sent.
MOMENTS = {
    "while it compiles": ("began", 0.3, 1),
    "between saves": ("resumed", 0.5, 1),
    "inside a save": ("saving", 0.02, 1),
    "twice": ("saving", 0.02, 2),
}


def stops_politely(moment: str, folder: Path, processes: int, rng: random.Random) -> bool:
    """Sends the signal to the last process only; whether all did what they must."""
    event, delay, times = MOMENTS[moment]
    lives = fork_lives(Run(folder, 10**9, wait=False, processes=processes))
    pipe, stopped = lives[0][1], 0
    for line in pipe:
        name, step, *_ = line.split()
        if name == event and times:
            time.sleep(rng.uniform(0.0, delay))
            for _ in range(times):
                os.kill(lives[-1][0], signal.SIGTERM)
                time.sleep(0.01)
            times = 0
        if name == "stopped":
            stopped = int(step)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in lives]
    for _, other in lives:
        other.close()
    saved = max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
    return not any(codes) and stopped > 0 and saved == stopped
