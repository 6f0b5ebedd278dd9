"""How long the device waits between the programs of a training, in a profile.

``python -m examples.benchmarks.idle [--only gpt]`` trains ``tiny`` of the GPT and of the ResNet for
a short while under JAX's profiler (CPU seconds, compilation included: about 60). A program's time
is from its first operation to its last one; what lies between two of them is idle. "Queued" is how
often the next program had been called before the one before it ended: then nothing waits for
Python, and the time between them is the runtime's own.
"""

import argparse
import dataclasses
import importlib
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

RUNS = {
    "gpt": "tiny --max_iters 120 --eval_interval 40 --eval_examples 64 --sample_tokens 0",
    "resnet": "tiny --epochs 3",
}
_TRAINS = "train_steps"  # the program of the updates, in both examples


@dataclasses.dataclass(frozen=True)
class Execution:
    """One execution of a program; times in ms."""

    program: str
    called: float  # when its call had returned to Python
    start: float
    end: float


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=RUNS, help="default: both")
    args = parser.parse_args(argv)
    table = Table("model", "programs", "times", "queued", "ms of the first", "ms idle", "largest")
    for name in RUNS if args.only is None else [args.only]:
        for row in rows(after_warm_up(profiled(name))):
            table.add_row(name, *row)
    Console(width=max(120, Console().width)).print(table)  # Whole names, in a file too.
    return 0


def profiled(name: str) -> list[Execution]:
    """Trains, and gives the programs in the order in which they ran."""
    train = importlib.import_module(f"examples.{name}.train")
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            train.main([*RUNS[name].split(), "--out_dir", f"{folder}/run"])
        (path,) = Path(folder).rglob("*.xplane.pb")
        return executions(jax.profiler.ProfileData.from_file(str(path)))


def executions(profile: jax.profiler.ProfileData) -> list[Execution]:
    """What ran on the first device of a CPU."""
    spans: dict[int, list] = {}
    calls: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in (e for plane in profile.planes for line in plane.lines for e in line.events):
        if event.name.startswith("PjitFunction("):
            calls[event.name[13:-1]].append((event.start_ns, event.end_ns))
            continue
        of = dict(event.stats)
        if "hlo_op" in of and of["device_ordinal"] == 0:
            name = str(of["hlo_module"]).removeprefix("jit_")
            span = spans.setdefault(of["run_id"], [name, event.start_ns, event.end_ns])
            span[1:] = min(span[1], event.start_ns), max(span[2], event.end_ns)
    returns = {name: iter(_outermost(found)) for name, found in calls.items()}
    ordered = sorted(spans.values(), key=lambda span: span[1])
    return [
        Execution(name, next(returns.get(name, iter(())), start) / 1e6, start / 1e6, end / 1e6)
        for name, start, end in ordered
    ]


def _outermost(intervals: Iterable[tuple[float, float]]) -> list[float]:
    """Ends of those that lie in no other."""
    ends: list[float] = []
    for start, end in sorted(intervals):
        if not ends or start >= ends[-1]:
            ends.append(end)
    return ends


def after_warm_up(ran: list[Execution]) -> list[Execution]:
    """Those from the middle call of the updates on: everything was compiled before."""
    updates = [i for i, one in enumerate(ran) if one.program == _TRAINS]
    return ran[updates[len(updates) // 2] : updates[-1] + 1]


def rows(ran: list[Execution]) -> list[list[str]]:
    """One for every two programs that follow on one another, the most idle first; and their sum."""
    pairs: dict[str, list[tuple[bool, float, float]]] = defaultdict(list)
    for first, then in zip(ran, ran[1:], strict=False):
        idle = max(0.0, then.start - first.end)
        key = f"{first.program}, {then.program}"
        pairs[key].append((then.called <= first.end, first.end - first.start, idle))
    found = []
    for key, all_of in sorted(pairs.items(), key=lambda item: -sum(i for *_, i in item[1])):
        queued, lasted, idle = zip(*all_of, strict=True)
        medians = f"{statistics.median(lasted):.2f}", f"{statistics.median(idle):.2f}"
        found.append([key, str(len(idle)), str(sum(queued)), *medians, f"{max(idle):.2f}"])
    idle = sum(i for all_of in pairs.values() for *_, i in all_of)
    return [*found, [f"idle in all: {idle / (ran[-1].end - ran[0].start):.1%}", *[""] * 5]]


if __name__ == "__main__":
    sys.exit(main())
