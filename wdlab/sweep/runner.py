"""Grids of hyper-parameters as one compiled program: ``sweep(train, grid, seeds=3)``.

Learning rate, weight decay and every other number are arguments of the program and not constants
of it, so that one compilation trains the whole grid. Its runs go in chunks over all devices of a
mesh; rows of results come as they finish, and a sweep that was killed goes on where it was.
"""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wdlab._core.checks import check_whole
from wdlab.sweep.grid import SEED, Grid, Point, make_grid
from wdlab.sweep.program import FINITE, Program, Traced, Train, compile_program, trace
from wdlab.sweep.results import Results
from wdlab.sweep.table import DIVERGED, OK, STATUS, Row, Table, to_table

_AHEAD = 2  # Chunks under way at once: the devices need not wait for the host.


def sweep(
    train: Train,
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int | Sequence[int],
    devices: Sequence[jax.Device] | None = None,
    out: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    memory_bytes: int | None = None,
    progress: bool | None = None,
) -> Table:
    """Trains at every point of a grid, for every seed, with one compilation.

    Run i is ``metrics_i = train(hyperparameters_i, jax.random.key(seed_i))`` for all combinations
    of the axes, the seed fastest. With one run per chunk and device (the rule on CPUs unless a run
    is tiny) and one device, each is bit for bit ``jax.jit(train)``; several side by side, or
    several devices, round differently in the last digits.

    Args:
      train: Jittable ``(hyperparameters, key) -> metrics``. Hyper-parameters: name -> float scalar,
        traced. An axis of names arrives as a dict of 0 and 1: ``h["coupling"]["lr"]`` is 1 where
        "lr" was chosen. Metrics: name -> scalar, or one value per step, of which the last goes into
        the table. :func:`wdlab.sweep.train_function` makes one from model, data, optimizer.
      grid: Name -> values, all numbers or all names. learning_rate, weight_decay, eps, b1, b2 and
        momentum have to be in the range that the optimizers take.
      seeds: How many, or which, in [0, 2**32).
      devices: Of one platform; by default all of ``jax.devices()``.
      out: Folder for ``results.csv``, one row per run as it comes. A sweep that was stopped, or
        lost rows, does there what is missing, and ends with the same table.
      chunk: Runs side by side on each device; by default as many as the memory analysis of the
        compiled program allows (on CPUs: as stay in a core's cache).
      memory_bytes: What a chunk may take on each device; by default a share of what it has.
      progress: Whether to draw a bar on stderr; by default if that is a terminal.

    Returns:
      One row per run: the point, the metrics, and "status": "diverged" where any value of any
      metric is not finite, else "ok".

    Raises:
      TypeError: If ``train`` is not jittable or returns something else.
      ValueError: For a grid that cannot be trained or does not fit memory, a hyper-parameter that
        train never reads, or a folder that cannot be written, is damaged or holds another sweep.
      OSError: If the disk is full.

    >>> def train(hyperparameters, key):
    ...     x = jax.random.normal(key)
    ...     return {"loss": (1 - hyperparameters["learning_rate"]) ** 20 * x**2}
    >>> table = sweep(train, {"learning_rate": [0.1, 0.5, 1e5]}, seeds=2)
    >>> len(table), table["status"].tolist()[2:], table.best("loss")["learning_rate"]
    (6, ['ok', 'ok', 'diverged', 'diverged'], 0.5)
    """
    checked = make_grid(grid, seeds)
    for name, value in (("chunk", chunk), ("memory_bytes", memory_bytes)):
        if value is not None:
            check_whole(name, value)
    devices = jax.devices() if devices is None else list(devices)
    if not devices or len({device.platform for device in devices}) > 1:
        raise ValueError(f"devices must be one or more, of one platform, got {devices}.")
    traced = trace(train, checked)
    if traced.unread:
        raise ValueError(
            f"train never reads {', '.join(traced.unread)}: every point along it would be the same "
            "run. Leave it out of the grid, or correct its name."
        )
    header = [*checked.axes, SEED, *traced.dtypes, STATUS]
    layout = {
        "devices": [device.platform for device in devices],
        "chunk": chunk,
        "memory_bytes": memory_bytes,
    }
    with contextlib.ExitStack() as stack:
        results, rows = None, {}
        if out is not None:
            results = stack.enter_context(_open(out, checked, traced, header, layout))
            rows = results.rows
        if len(rows) < len(checked):
            program = compile_program(
                traced, checked, devices, chunk=chunk, memory_bytes=memory_bytes
            )
            advance = stack.enter_context(_bar(len(checked), len(rows), progress))
            for new in _rows(program, checked, traced, frozenset(rows)):
                results.add(new) if results is not None else rows.update(new)
                advance(len(new))
            if results is not None and list(rows) != sorted(rows):
                results.rewrite()
    return to_table(list(checked.axes), header, [rows[i] for i in range(len(checked))])


def _open(
    out: Any, grid: Grid, traced: Traced, header: Sequence[str], layout: Mapping[str, Any]
) -> Results:
    axes = [str if isinstance(values[0], str) else float for values in grid.axes.values()]
    metrics = [_reader(dtype) for dtype in traced.dtypes.values()]
    description = {
        "axes": grid.axes,
        "seeds": grid.seeds,
        "metrics": {name: str(dtype) for name, dtype in traced.dtypes.items()},
        "program": traced.digest,
        "jax": jax.__version__,
        **layout,  # Another one rounds differently.
    }
    return Results(out, header, [*axes, int, *metrics], grid, description)


def _reader(dtype: np.dtype) -> Callable[[str], Any]:
    if dtype == np.bool_:
        return lambda text: np.bool_(["False", "True"].index(text))
    # By Python first: bfloat16 of a word that is not a number ends the process.
    parse = float if jax.dtypes.issubdtype(dtype, np.floating) else int
    return lambda text: dtype.type(parse(text))


def _rows(
    program: Program, grid: Grid, traced: Traced, done: frozenset[int]
) -> Iterator[dict[int, Row]]:
    """Runs every chunk that has a row missing; yields the missing rows, by index of the point."""
    columns, points = grid.stacked(), list(grid)
    under_way: deque[tuple[list[int], int, dict[str, jax.Array]]] = deque()
    for start in (*range(0, len(grid), program.size), *[None] * _AHEAD):
        if start is not None:
            chosen = np.arange(start, start + program.size)
            missing = [i for i in chosen.tolist() if i < len(grid) and i not in done]
            if not missing:
                continue
            # The last chunk repeats the last point: every call has the shape that was compiled.
            index = np.minimum(chosen, len(grid) - 1)
            chunk = jax.tree.map(lambda column, index=index: column[index], columns)
            under_way.append((missing, start, program.call(*chunk)))
        if under_way and (start is None or len(under_way) == _AHEAD):
            missing, first, metrics = under_way.popleft()
            values = {name: np.asarray(metric) for name, metric in metrics.items()}
            yield {i: _row(points[i], values, i - first, traced) for i in missing}


def _row(point: Point, values: Mapping[str, Any], i: int, traced: Traced) -> Row:
    status = OK if values[FINITE][i] else DIVERGED
    return (*point, *(values[name][i] for name in traced.dtypes), status)


@contextlib.contextmanager
def _bar(total: int, done: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        "runs", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("runs", total=total, completed=done)
        yield lambda count: bar.advance(task, count)
