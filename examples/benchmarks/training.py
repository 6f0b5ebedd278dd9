"""Throughput of the example programs beside the same training in PyTorch, on this machine.

``python -m examples.benchmarks.training [--only gpt] [--rounds 9]``, in an environment with torch
(extra ``oracle``); about five minutes on two CPU cores, the compilers' time included. CPU time is
that of all threads, and says more where other programs share the cores.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

import jax
from rich.console import Console
from rich.table import Table

PARTS = {"gpt": "training_gpt", "chars": "training_characters", "resnet": "training_resnet"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="default: all")
    parser.add_argument("--rounds", type=int, default=9, help="measured calls of each program")
    args = parser.parse_args(argv)
    table = Table("model", "program", "per second", "unit", "wdlab's speed over it", "in CPU time")
    jax.config.update("jax_num_cpu_devices", 2)  # Both cores: not every operation uses threads.
    for name, module in PARTS.items():
        if args.only in (None, name):
            part = importlib.import_module(f"examples.benchmarks.{module}")
            timings = part.measure(args.rounds)
            for program, timing in timings.items():
                ours, speed = timings["wdlab"], f"{part.WORK / timing.median:,.0f}"
                ratios = f"{ours.speedup(timing):.2f}", f"{ours.thrift(timing):.2f}"
                table.add_row(name, program, speed, part.UNIT, *ratios)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
