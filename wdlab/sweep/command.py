"""``wdlab sweep``: learning rate x weight decay x coupling x seeds, with table and pictures."""

import argparse
import contextlib
import importlib
import os
import sys

import jax
import numpy as np

from wdlab.schedules import COUPLINGS
from wdlab.sweep.grid import parse_values
from wdlab.sweep.plots import panels, save_heat_maps, save_marginals
from wdlab.sweep.program import Train
from wdlab.sweep.runner import sweep
from wdlab.sweep.surface import loss_surface, separability
from wdlab.sweep.table import DIVERGED, STATUS, Table
from wdlab.sweep.task import digits

_LR, _DECAY = "learning_rate", "weight_decay"


def add_sweep(commands: argparse._SubParsersAction) -> None:
    """Adds the command to a parser.

    >>> parser = argparse.ArgumentParser()
    >>> add_sweep(parser.add_subparsers())
    >>> parser.parse_args(["sweep", "--seeds", "2"]).seeds
    2
    """
    command = commands.add_parser(
        "sweep",
        help="train a grid of learning rates and weight decays as one compiled program",
        description="Values: numbers and geometric ranges first:last:count, joined by commas.",
    )
    command.set_defaults(run=run_sweep)
    command.add_argument(
        "--task",
        default="digits",
        help="digits (scikit-learn's, an MLP), or MODULE:FUNCTION, a train(hyperparameters, key) "
        "as wdlab.sweep.sweep takes it, such as examples.gpt.sweep:tiny",
    )
    command.add_argument("--learning-rate", default="1e-4:1e-1:9", metavar="VALUES")
    command.add_argument("--weight-decay", default="1e-6:1e-1:9", metavar="VALUES")
    command.add_argument("--coupling", default="lr,schedule,l2", help="some of the couplings")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="one more axis that the task reads, such as eps=1e-8:1e-4:3; may be repeated",
    )
    command.add_argument("--seeds", type=int, default=3, help="how many")
    command.add_argument("--metric", default="val_loss", help="what is best when smallest")
    command.add_argument("--chunk", type=int, help="runs side by side on a device")
    command.add_argument(
        "--out", default="out/sweep", help="folder; a sweep that was stopped goes on there"
    )


def run_sweep(arguments: argparse.Namespace) -> int:
    """Runs the command: table, pictures, and a line per coupling; the exit status.

    >>> parser = argparse.ArgumentParser()
    >>> add_sweep(parser.add_subparsers())
    >>> run_sweep(parser.parse_args(["sweep", "--learning-rate", "1e-2:1e-3:2"]))
    Traceback (most recent call last):
    ValueError: --learning-rate 1e-2:1e-3:2: the range is empty; ...
    """
    grid = _grid(arguments)
    _use_every_core()
    table = sweep(
        _task(arguments.task),
        grid,
        seeds=arguments.seeds,
        out=arguments.out,
        chunk=arguments.chunk,
    )
    print(summary(table, arguments.metric))
    paths = [os.path.join(arguments.out, "results.csv")]
    if len(grid[_LR]) > 1 and len(grid[_DECAY]) > 1:
        paths += save_heat_maps(table, arguments.out, metric=arguments.metric)
        paths += save_marginals(table, arguments.out, metric=arguments.metric)
    print(*paths)
    return 0


def summary(table: Table, metric: str) -> str:
    """Per coupling the best point (mean over seeds), how many runs diverged, the separability.

    >>> columns = {"learning_rate": [0.1], "weight_decay": [0.2], "seed": [0], "loss": [3.0],
    ...     "status": ["ok"]}
    >>> columns = {name: np.array(values) for name, values in columns.items()}
    >>> table = Table(("learning_rate", "weight_decay"), columns)
    >>> print(summary(table, "loss"))
    best mean loss 3 at learning_rate 0.1, weight_decay 0.2; 0 of 1 runs diverged
      separability (best weight decay) not identified (0 rows, 0 flat, 0 at the edge)
      separability (shoulder weight decay) not identified (0 rows, 0 flat, 0 at the edge)
    """
    lines = []
    for title, part in panels(table, _LR, _DECAY):
        lrs, decays, losses = loss_surface(part, metric, _LR, _DECAY)
        mean = losses.mean(0)
        i, j = np.unravel_index(np.argmin(mean), mean.shape)
        diverged = int((part[STATUS] == DIVERGED).sum())
        lines.append(
            f"{title}{': ' * bool(title)}best mean {metric} {mean[i, j]:.4g} at {_LR} {lrs[i]:g}, "
            f"{_DECAY} {decays[j]:g}; {diverged} of {len(part)} runs diverged"
        )
        for of in ("best", "shoulder"):
            number = separability(part, metric=metric, of=of)
            lines.append(f"  separability ({of} weight decay) {number}")
    return "\n".join(lines)


def _grid(arguments: argparse.Namespace) -> dict[str, tuple[float | str, ...]]:
    couplings = tuple(arguments.coupling.split(","))
    unknown = [name for name in couplings if name not in COUPLINGS]
    if unknown:
        raise ValueError(
            f"--coupling {arguments.coupling}: {unknown[0]!r} is unknown; there are "
            f"{', '.join(COUPLINGS)}."
        )
    grid: dict[str, tuple[float | str, ...]] = {"coupling": couplings}
    grid[_LR] = parse_values("--learning-rate", arguments.learning_rate)
    grid[_DECAY] = parse_values("--weight-decay", arguments.weight_decay)
    for text in arguments.set:
        name, equals, values = text.partition("=")
        if not equals or name in grid:
            raise ValueError(f"--set {text}: write NAME=VALUES with another NAME, eps=1e-8,1e-6.")
        grid[name] = parse_values(f"--set {name}", values)
    return grid


def _task(name: str) -> Train:
    if name == "digits":
        return digits()
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"--task {name}: write digits or MODULE:FUNCTION.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # The user's own modules, as python -m has them.
    try:
        train = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--task {name}: {error}.") from None
    if not callable(train):
        raise ValueError(f"--task {name} must be a function, got {train!r}.")
    return train


def _use_every_core() -> None:
    """One JAX device per core: a small run uses one core, and runs go side by side."""
    flagged = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if flagged or jax.config.jax_num_cpu_devices > 0:  # pyrefly: ignore
        return  # The user has decided.
    with contextlib.suppress(RuntimeError):  # JAX is in use already.
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
