"""One run of the GPT on 1, 2 and 4 processes, and one that moves between them.

``python -m examples.benchmarks.scaling [--processes 1 2 4]``: every process has two CPU devices,
messages go over the loopback by gloo. The losses of all runs must agree, the bytes of weights and
optimizer state in a process fall as 1/n, and a run that goes on with its checkpoints on fewer
processes, and on all of them again, must equal the one that stayed. Two to four minutes on two CPU
cores.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from examples.gpt import start
from examples.gpt.flags import parse
from examples.gpt.trainer import Trainer
from examples.runs.records import read
from wdlab.checkpoint import Checkpoints

DEVICES = 2  # of each process
STEPS = 20
FLAGS = shlex.split(  # No bias: the keys' has no gradient but rounding, which Adam makes large.
    "tiny --n_layer=2 --n_head=2 --n_embd=256 --block_size=64 --batch_size=16 --dropout=0.1 "
    f"--learning_rate=1e-3 --warmup_iters=5 --lr_decay_iters={STEPS} --eval_interval={STEPS} "
    "--eval_examples=16 --log_interval=1 --sample_tokens=0 --no_bias"
)
TOLERANCE = 1e-5


def train(folder: Path, processes: int, *flags: str) -> int:
    """Trains on so many processes, all devices along fsdp; bytes in process 0.

    Raises:
      RuntimeError: If it fails, with the end of what it said.
    """
    count = ["--processes", str(processes), "--devices", str(DEVICES)]
    mesh = f"--mesh_fsdp={processes * DEVICES}"
    command = [sys.executable, "-m", "examples.runs.launch", *count, "examples.gpt.train"]
    command += [*FLAGS, mesh, f"--out_dir={folder}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"state: ([\d,]+) bytes in a process", done.stdout)
    if done.returncode or not found:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return int(found[1].replace(",", ""))


def losses(folder: Path) -> np.ndarray:
    """The loss of every step."""
    return np.array([row["batch_loss"] for row in read(folder / "metrics.jsonl")[1:]])


def weights(folder: Path) -> list[np.ndarray]:
    """The weights of the last checkpoint, brought to one device."""
    trainer = Trainer(start.find(parse(FLAGS)[1], folder))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(trainer.state.arrays(), check_settings=False)
    if restored is None or restored.step != STEPS:
        raise RuntimeError(f"{folder} holds no step {STEPS}")
    return jax.device_get(jax.tree.leaves(restored.state["params"]))


def furthest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference between two lists of arrays."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def compare(folder: Path, counts: Sequence[int], console: Console) -> bool:
    """Runs all, prints the table; whether every claim holds."""
    table = Table("processes", "bytes in a process", "of one", "loss differs", "weights differ")
    bytes_of, ok = {}, True
    for n in counts:
        bytes_of[n] = train(folder / str(n), n, f"--max_iters={STEPS}")
    first = counts[0]
    loss, weight = losses(folder / str(first)), weights(folder / str(first))
    moves = [*sorted(counts, reverse=True), max(counts)]
    for i, n in enumerate(moves):
        until = STEPS * (i + 1) // len(moves)
        train(folder / "moved", n, f"--max_iters={until}", *["--resume"] * (i > 0))
    for name in [*map(str, counts), "moved"]:
        apart = [np.abs(losses(folder / name) - loss).max()]
        apart.append(furthest(weights(folder / name), weight))
        ok &= max(apart) <= TOLERANCE
        size = ["", ""]
        if name != "moved":
            share = bytes_of[int(name)] / bytes_of[first]
            ok &= share <= 1.1 * first / int(name)
            size = [f"{bytes_of[int(name)]:,}", f"{share:.3f}"]
        shown = name if name != "moved" else " -> ".join(map(str, moves))
        table.add_row(shown, *size, *(f"{value:.1e}" for value in apart))
    console.print(table)
    return bool(ok)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code: 0 if every claim holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    counts = parser.parse_args(argv).processes
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/programs")
        return 0 if compare(Path(folder), counts, Console()) else 1


if __name__ == "__main__":
    sys.exit(main())
