"""Each example on 1, 2 and 4 processes, and one run of it that moves between them.

``python -m examples.benchmarks.scaling [--example resnet] [--processes 1 2]``: every process has
two CPU devices, messages go over the loopback by gloo. All runs of an example must have the loss of
the first in each of 20 steps, to 1e-5, and its weights and BatchNorm statistics after them. The
bytes of weights, average and optimizer state in a process must fall as 1/n, to a tenth. The run
that moves goes on with checkpoints of the one on 4 processes: on 2, on 1, and on 4 again. The GPT
takes five minutes of CPU time, the ResNet eight, most of it to compile: each process does so alone.

The ResNet has width 48: in narrower ones the first stage's convolutions are smaller than what is
split (``mesh.SMALLEST_SPLIT``), and so much of the rest that a process of four holds more. An epoch
of it is one step (32 of 40 images), so that there is a record of every step.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import examples.gpt.flags
import examples.gpt.start_from
import examples.gpt.trainer
import examples.resnet.data
import examples.resnet.flags
import examples.resnet.trainer
from examples.runs.command import command
from examples.runs.errors import UserError
from examples.runs.records import read
from examples.runs.run_dir import settings_of
from wdlab.training import Checkpoints

DEVICES = 2  # of each process
STEPS = 20
TOLERANCE = 1e-5
FLAGS = {
    # No bias: the keys' has no gradient but rounding, which Adam makes large.
    "gpt": "tiny --n_layer=2 --n_head=2 --n_embd=256 --block_size=64 --batch_size=16 --dropout=0.1 "
    f"--learning_rate=1e-3 --warmup_iters=5 --lr_decay_iters={STEPS} --max_iters={STEPS} "
    "--eval_interval=5 --eval_examples=16 --log_interval=1 --sample_tokens=0 --no_bias "
    "--keep_checkpoints=4",
    "resnet": f"tiny --model=resnet_tiny --width=48 --batch_size=32 --epochs={STEPS} "
    "--first_decay=1 --momentum=0.9 --save_every=5 --keep_checkpoints=4",  # Not augmented: cutout
    # covers all of 8 x 8 pixels.
}


class Run(NamedTuple):
    """What is compared of a run."""

    losses: list[np.ndarray]  # One array: of every step.
    weights: list[np.ndarray]  # After the last step, as the next ones.
    statistics: list[np.ndarray]  # BatchNorm's; none of the GPT.


def flags_of(example: str, folder: Path) -> list[str]:
    """The settings of all runs of an example; the ResNet's images are saved to the folder."""
    flags = shlex.split(FLAGS[example])
    if example == "gpt":
        return flags
    path = folder / "digits.npz"
    digits = examples.resnet.data.digits()
    train, test = slice(0, 40), slice(40, 80)
    small = slice(None, None, 4)  # 8 x 8 pixels, as they were.
    np.savez(
        path,
        x_train=digits.x_train[train, small, small],
        y_train=digits.y_train[train],
        x_test=digits.x_test[test, small, small],
        y_test=digits.y_test[test],
    )
    return [*flags, f"--dataset={path}"]


def train(example: str, folder: Path, processes: int, flags: Sequence[str]) -> str:
    """Trains on so many processes, all devices along fsdp; what process 0 printed.

    Raises:
      UserError: If it fails, with the end of what it said.
    """
    count = ["--processes", str(processes), "--devices", str(DEVICES)]
    mesh = f"--mesh_fsdp={processes * DEVICES}"
    program = [sys.executable, "-m", "examples.runs.launch", *count, f"examples.{example}.train"]
    program += [*flags, mesh, f"--out_dir={folder}"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise UserError(f"{example} on {processes} processes: exit code {done.returncode}: {said}")
    return done.stdout


def move(example: str, folder: Path, counts: Sequence[int], flags: Sequence[str]) -> None:
    """Goes on with the run in the folder on so many processes, one after the other.

    Each finds the run as if it had been stopped before: without its last checkpoints.

    Raises:
      UserError: If one does not go on from the newest of those that are left.
    """
    for i, processes in enumerate(counts, start=1):
        reached, newest = STEPS * i // (len(counts) + 1), 0
        for path in (folder / "checkpoints").iterdir():
            if path.name.isdecimal() and int(path.name) > reached:
                shutil.rmtree(path)
            elif path.name.isdecimal():
                newest = max(newest, int(path.name))
        said = train(example, folder, processes, [*flags, "--resume"])
        if f"resuming at step {newest}\n" not in said:
            raise UserError(f"{example} did not go on from step {newest}: {said[-2000:]}")


def fresh_state(example: str, flags: Sequence[str]) -> Any:
    """The state before the first step, on one device."""
    if example == "resnet":
        config = examples.resnet.flags.parse(flags)
        return examples.resnet.trainer.Trainer(config).state
    config = examples.gpt.flags.parse(flags)[1]
    return examples.gpt.trainer.Trainer(examples.gpt.start_from.Start(config)).state


def result(folder: Path, like: Any) -> Run:
    """What the run in the folder came to, on one device.

    Raises:
      UserError: If it has not made all steps.
    """
    losses = [row["batch_loss"] for row in read(folder / "metrics.jsonl")[1:]]
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(like, check_settings=False)
    if restored is None or restored.step != STEPS or len(losses) != STEPS:
        raise UserError(f"{folder} does not hold {STEPS} steps and their losses")
    parts = restored.state.params, getattr(restored.state, "stats", None)
    arrays = jax.device_get([jax.tree.leaves(part) for part in parts])
    return Run([np.array(losses)], *arrays)


def measure(example: str, folder: Path, counts: Sequence[int]) -> tuple[dict[str, int], dict]:
    """Makes all runs of an example: name -> bytes in process 0, and name -> :class:`Run`."""
    flags, sizes = flags_of(example, folder), {}
    for n in counts:
        train(example, folder / str(n), n, flags)
        sizes[str(n)] = settings_of(folder / str(n))["state_bytes"]
    moves = sorted(counts, reverse=True)
    moves.append(moves[0])
    moved = folder / ", ".join(map(str, moves))
    shutil.copytree(folder / str(moves[0]), moved)
    move(example, moved, moves[1:], flags)
    like = fresh_state(example, flags)
    return sizes, {name: result(folder / name, like) for name in (*sizes, moved.name)}


def furthest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference between two lists of arrays; NaN where one is not a number."""
    apart = [np.abs(a - b).max() for a, b in zip(one, other, strict=True)]
    return float(np.max(apart))


def judge(sizes: dict[str, int], runs: dict[str, Run]) -> tuple[list[list[str]], list[str]]:
    """The lines of the table, one of each run, and every claim that does not hold."""
    first, lines, wrong = next(iter(runs)), [], []
    for name, run in runs.items():
        cells = [name, "", ""]
        if name in sizes:
            share = sizes[name] / sizes[first]
            cells[1:] = [f"{sizes[name]:,}", f"{share:.3f}"]
            if share > 1.1 * int(first) / int(name):
                wrong.append(f"{name} processes: {share:.3f} of the bytes of {first}")
        for what in Run._fields:
            if not getattr(run, what):
                cells.append("")
                continue
            apart = furthest(getattr(run, what), getattr(runs[first], what))
            cells.append(f"{apart:.1e}")
            if not apart <= TOLERANCE:
                wrong.append(f"{name} processes: {what} differ by {apart:.1e} from {first}'s")
        lines.append(cells)
    return lines, wrong


def compare(chosen: Sequence[str], folder: Path, counts: Sequence[int], console: Console) -> int:
    """Makes all runs and prints the table; how many claims do not hold."""
    title = "bytes of weights, average and state in a process; largest differences"
    table = Table("example", "processes", "bytes", f"of {counts[0]}", *Run._fields, title=title)
    failures = []
    for example in chosen:
        (folder / example).mkdir()
        lines, wrong = judge(*measure(example, folder / example, counts))
        for cells in lines:
            table.add_row(example, *cells)
        failures += [f"{example} on {claim}" for claim in wrong]
    console.print(table)
    for failure in failures:
        console.print(failure)
    return len(failures)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code: 0 if every claim holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--example", choices=list(FLAGS), default=list(FLAGS), nargs="+")
    parser.add_argument("--processes", type=int, choices=(1, 2, 4), default=[1, 2, 4], nargs="+")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/programs")
        return min(1, compare(args.example, Path(folder), sorted(set(args.processes)), Console()))


if __name__ == "__main__":
    sys.exit(main())
