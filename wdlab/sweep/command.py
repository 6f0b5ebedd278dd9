"""``wdlab sweep``: learning rate x weight decay x coupling x seeds, with table and pictures."""

import argparse
import contextlib
import os
from collections.abc import Sequence

import jax

from wdlab._core.checks import read_whole
from wdlab._core.names import first_few, nearest
from wdlab._core.user_code import is_there, load, placed
from wdlab.schedules import COUPLINGS
from wdlab.sweep.figures import panels, require_matplotlib
from wdlab.sweep.grid import Value, make_grid, parse_values
from wdlab.sweep.heat_map import save_heat_maps
from wdlab.sweep.marginal import save_marginals
from wdlab.sweep.program import Traced, Train, trace
from wdlab.sweep.runner import sweep
from wdlab.sweep.surface import separability
from wdlab.sweep.table import DIVERGED, STATUS, Table

_LR, _DECAY, _COUPLING = "learning_rate", "weight_decay", "coupling"
_DEFAULTS = {_COUPLING: "lr,schedule,l2", _LR: "1e-4:1e-1:9", _DECAY: "1e-6:1e-1:9"}
_EXAMPLES = ("examples.studies.sweep:digits", "examples.gpt.sweep:tiny", "examples.gpt.sweep:small")


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
        description="Values: numbers and geometric ranges first:last:count, joined by commas. An "
        "axis that is not given has its default where the task reads it.",
    )
    command.set_defaults(run=run_sweep)
    command.add_argument(
        "--task",
        metavar="MODULE:FUNCTION",
        help="a train(hyperparameters, key) -> metrics as wdlab.sweep.sweep takes it, of your own "
        f"or, in wdlab's repository: {', '.join(_EXAMPLES)} (the first is the default there)",
    )
    for name, default in _DEFAULTS.items():
        flag = f"--{name.replace('_', '-')}"
        metavar = "NAMES" if name == _COUPLING else "VALUES"
        command.add_argument(flag, metavar=metavar, help=f"default: {default}")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="one more axis that the task reads, such as eps=1e-8:1e-4:3; may be repeated",
    )
    command.add_argument("--seeds", type=read_whole, default=3, help="how many")
    command.add_argument("--metric", default="val_loss", help="what is best when smallest")
    command.add_argument("--chunk", type=read_whole, help="runs side by side on a device")
    command.add_argument(
        *("--out_dir", "--out-dir"),  # As the examples have it, and as the other flags here.
        default="out/sweep",
        help="folder; a sweep that was stopped goes on there",
    )


def run_sweep(arguments: argparse.Namespace) -> int:
    """Runs the command: table, pictures, and a line per coupling; the exit status.

    >>> parser = argparse.ArgumentParser()
    >>> add_sweep(parser.add_subparsers())
    >>> run_sweep(parser.parse_args(["sweep", "--learning-rate", "1e-2:1e-3:2"]))
    Traceback (most recent call last):
    ValueError: --learning-rate 1e-2:1e-3:2: the range is empty; ...
    """
    metric, folder = arguments.metric, arguments.out_dir
    given, defaults = _axes(arguments)
    _use_every_core()
    train = _task(arguments.task)
    probe = {k: v if k == _COUPLING else v[:1] for k, v in (given | defaults).items()}
    with placed(f"--task {arguments.task}"):
        traced = trace(train, make_grid(probe, seeds=1))
    if metric not in traced.dtypes:
        known = list(traced.dtypes)
        raise ValueError(
            f"--metric {metric}: the task gives no such metric; the nearest is "
            f"{nearest(metric, known)}. There are {first_few(known, 20)}."
        )
    read = {k: values for k, values in defaults.items() if not _is_unread(traced, k, values)}
    grid = {k: values for k, values in (dict.fromkeys(_DEFAULTS) | read | given).items() if values}
    shown = [name for name in (_LR, _DECAY) if len(grid.get(name, ())) > 1]
    if shown:
        require_matplotlib()
    try:
        table = sweep(train, grid, seeds=arguments.seeds, out=folder, chunk=arguments.chunk)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the program failed: {str(error).splitlines()[0]}") from error
    print(summary(table, metric))
    paths = [os.path.join(folder, "results.csv")]
    if len(shown) == 2:
        paths += save_heat_maps(table, folder, metric=metric)
    if shown:
        paths += save_marginals(table, folder, metric=metric, names=shown)
    print(*paths)
    return 0


def summary(table: Table, metric: str) -> str:
    """Per panel the best point (mean over seeds), how many runs diverged, the separability.

    >>> import numpy as np
    >>> columns = {"learning_rate": [0.1], "weight_decay": [0.2], "seed": [0], "loss": [3.0],
    ...     "status": ["ok"]}
    >>> columns = {name: np.array(values) for name, values in columns.items()}
    >>> print(summary(Table(("learning_rate", "weight_decay"), columns), "loss"))
    best mean loss 3 at learning_rate 0.1, weight_decay 0.2; 0 of 1 runs diverged
      separability (best weight decay) not identified (0 rows, 0 flat, 1 at the edge)
      separability (shoulder weight decay) not identified (0 rows, 0 flat, 1 at the edge)
    """
    lines = []
    for title, part in panels(table, _LR, _DECAY):
        point, mean = part.best_mean(metric)
        place = ", ".join(
            f"{name} {value:g}" for name, value in point.items() if name in (_LR, _DECAY)
        )
        best = f"best mean {metric} {mean:.4g} at {place}" if mean < float("inf") else "no best"
        diverged = int((part[STATUS] == DIVERGED).sum())
        lines.append(f"{title}{': ' * bool(title)}{best}; {diverged} of {len(part)} runs diverged")
        for of in ("best", "shoulder") if {_LR, _DECAY} <= {*part.axes} else ():
            number = separability(part, metric=metric, of=of)
            lines.append(f"  separability ({of} weight decay) {number}")
    return "\n".join(lines)


def _axes(arguments: argparse.Namespace) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """The axes that were asked for, and those that the task gets if it reads them."""
    given: dict[str, tuple[Value, ...]] = {}
    defaults: dict[str, tuple[Value, ...]] = {}
    for name, default in _DEFAULTS.items():
        text, flag = getattr(arguments, name), f"--{name.replace('_', '-')}"
        values = _couplings if name == _COUPLING else parse_values
        (defaults if text is None else given)[name] = values(
            flag, default if text is None else text
        )
    for text in arguments.set:
        name, equals, values = text.partition("=")
        if not equals or name in defaults | given:
            raise ValueError(f"--set {text}: write NAME=VALUES with another NAME, eps=1e-8,1e-6.")
        given[name] = parse_values(f"--set {name}", values)
    return given, defaults


def _couplings(flag: str, text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in COUPLINGS:
            raise ValueError(
                f"{flag} {text}: {name!r} is unknown; there are {', '.join(COUPLINGS)}."
            )
    return names


def _task(name: str | None) -> Train:
    if name is None and is_there(_EXAMPLES[0].partition(":")[0]):
        name = _EXAMPLES[0]
    if ":" not in (name or ""):
        raise ValueError(
            f"--task {name or 'is missing'}: write MODULE:FUNCTION, a train(hyperparameters, key) "
            f"-> metrics of your own or, in wdlab's repository, {', '.join(_EXAMPLES)}."
        )
    return load(f"--task {name}", name or "")


def _is_unread(traced: Traced, axis: str, values: Sequence[Value]) -> bool:
    leaves = {f"{axis}.{value}" for value in values} if axis == _COUPLING else {axis}
    return leaves <= {*traced.unread}


def _use_every_core() -> None:
    """One JAX device per core: a small run uses one core, and runs go side by side."""
    flagged = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if flagged or jax.config.jax_num_cpu_devices > 0:  # pyrefly: ignore
        return  # The user has decided.
    with contextlib.suppress(RuntimeError):  # JAX is in use already.
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
