"""What a run survives: ``python -m examples.benchmarks.reliability [PART] [--quick]``.

damage  one file of the newest checkpoint has a bit flipped, is cut off, removed or zeroed
kills   signal 9 at random moments, most of them inside a save; one process, and two
signals SIGTERM while it compiles, between saves, inside a save, twice; one process, and two
peers   one of two processes is killed, the coordinator or the other
soak    100,000 tiny steps with saves: memory, files, threads
Without a name: all. The exit code is 1 where something that must never happen has happened.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .damage import DAMAGES, trial_outcomes
from .kills import INTERVAL, Run, Tally, run_with_kills
from .peers import LONGEST, VICTIMS, death_of
from .signals import MOMENTS, stops_politely
from .soak import soak

KILLS_PER_RUN, STEPS = 10, 60
FULL_SOAK = 100_000  # Shorter ones end while caches and memory pools still fill.
_FEW = 10  # Objects or files by which two moments differ; 1 for each save would be 180.
_BEARABLE = {"newest, right", "older, right", "Orbax: right", "Orbax: error", "Orbax: wrong"}


def damage(scratch: Path, trials: int) -> tuple[list[Table], bool]:
    """Restores after each kind of damage, beside what Orbax alone restores."""
    table = Table(
        "damage to one file", "trials", "newest, right", "older, right", "wrong", "refused"
    )
    table.add_column("Orbax alone: wrong")
    table.add_column("error")
    good = True
    for kind in DAMAGES:
        seen = trial_outcomes(kind, trials, scratch, orbax=True)
        names = ["newest, right", "older, right", "wrong", "refused"]
        counts = [seen[name] for name in [*names, "Orbax: wrong", "Orbax: error"]]
        table.add_row(kind, str(trials), *map(str, counts))
        good &= not set(seen) - _BEARABLE
    return [table], good


def kills(scratch: Path, number: int) -> tuple[list[Table], bool]:
    """Runs that are killed again and again, against one that is not."""
    table = Table("saves", "processes", "kills", "inside a save", "not restorable")
    for name in ("steps lost, at most", "damaged steps", "end equals the unkilled run's"):
        table.add_column(name)
    good = True
    plans = [(True, 1, number), (False, 1, number), (False, 2, number // 10)]
    ends: dict[int, str] = {}  # Of runs that are not killed, by the number of processes.
    for wait, processes, count in plans if number >= 10 else plans[:2]:
        folder = scratch / f"{'sync' if wait else 'async'}-{processes}"
        tallies = _killed_runs(folder, wait, processes, count)
        wanted = ends.get(processes) or _whole_run(folder, wait, processes)
        ends[processes] = wanted
        lost = max(tally.most_lost for tally in tallies)
        nothing = sum(tally.without_restorable for tally in tallies)
        same = sum(tally.digest == wanted for tally in tallies)
        totals = [sum(getattr(t, key) for t in tallies) for key in ("kills", "inside_saves")]
        damaged = sum(tally.damaged for tally in tallies)
        row = ["waited for" if wait else "async", processes, *totals, nothing, lost, damaged]
        table.add_row(*map(str, row), f"{same} of {len(tallies)}")
        good &= not nothing and lost <= INTERVAL and same == len(tallies)
    return [table], good


def signals(scratch: Path, number: int) -> tuple[list[Table], bool]:
    """SIGTERM to the last process: how many runs saved the step they were at and left with 0."""
    table, good = Table("SIGTERM", "processes", "trials", "saved there, exit 0"), True
    rng = random.Random(0)
    for processes, trials in ((1, number), (2, max(number // 10, 1))):
        for moment in MOMENTS if number > 1 else list(MOMENTS)[1 + processes :][:1]:
            folders = (scratch / f"{moment}-{processes}-{trial}" for trial in range(trials))
            done = sum(stops_politely(moment, folder, processes, rng) for folder in folders)
            table.add_row(moment, str(processes), str(trials), str(done))
            good &= done == trials
    return [table], good


def peers(scratch: Path, number: int) -> tuple[list[Table], bool]:
    """One of two processes is killed; what becomes of the other, and of the run."""
    table, good = Table("killed", "trials", "the survivor ends after", "exit codes"), True
    for name in ("steps lost, at most", "end equals the unkilled run's"):
        table.add_column(name)
    for name, victim in VICTIMS.items():
        deaths = [death_of(victim, scratch / f"{victim}-{i}", STEPS) for i in range(number)]
        slowest = max(death.seconds for death in deaths)
        lost = max(death.saved - death.resumed for death in deaths)
        same = sum(death.same for death in deaths)
        codes = ", ".join(sorted({str(death.code) for death in deaths}))
        row = [f"{slowest:.1f} s", codes, str(max(lost, 0)), f"{same} of {number}"]
        table.add_row(name, str(number), *row)
        good &= slowest < LONGEST and lost <= 0 and same == number
    return [table], good


def _killed_runs(folder: Path, wait: bool, processes: int, kills: int) -> list[Tally]:
    rng, tallies = random.Random(processes + 2 * wait), []
    while (done := sum(tally.kills for tally in tallies)) < kills:
        run = Run(folder / f"run-{len(tallies)}", STEPS, wait, processes)
        tallies.append(run_with_kills(run, min(KILLS_PER_RUN, kills - done), rng))
    return tallies


def _whole_run(folder: Path, wait: bool, processes: int) -> str:
    return run_with_kills(Run(folder / "whole", STEPS, wait, processes), 0, random.Random()).digest


def soaked(scratch: Path, steps: int) -> tuple[list[Table], bool]:
    """Many steps with saves; the numbers after a tenth of them and at the end."""
    growth = soak(scratch / "soak", steps, interval=max(steps // 200, 10))
    table = Table("steps", "resident memory", "growth", "Python objects", "files", "threads")
    memory = " -> ".join(f"{size / 2**20:.1f} MiB" for size in growth.resident)
    counts = growth.objects, growth.files, growth.threads
    shown = [" -> ".join(map(str, pair)) for pair in counts]
    table.add_row(f"{steps:,}", memory, f"{growth.share:.2%}", *shown)
    bounded = all(after <= before + _FEW for before, after in counts)
    return [table], bounded and growth.share < (0.01 if steps >= FULL_SOAK else 0.05)


PARTS: dict[str, tuple[Callable[[Path, int], tuple[list[Table], bool]], int, int]] = {
    # Kills first: lives are forked from a process that has not begun to use JAX.
    "kills": (kills, 200, 3),
    "signals": (signals, 20, 1),
    "peers": (peers, 3, 1),
    "damage": (damage, 200, 10),
    "soak": (soaked, FULL_SOAK, 2_000),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}: all")
    parser.add_argument("--quick", action="store_true", help="1 to 10 trials of each, 2,000 steps")
    parser.add_argument("--number", type=int, help="trials of each, or steps (200; 100,000)")
    args = parser.parse_args(argv)
    console, all_good = Console(width=max(Console().width, 130)), True
    for name, (measure, number, quick) in PARTS.items():
        if args.part and name not in args.part:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            tables, good = measure(Path(scratch), args.number or (quick if args.quick else number))
        console.print(*tables)
        console.print(f"{name}: {'as it must be' if good else 'NOT as it must be'}")
        all_good &= good
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
