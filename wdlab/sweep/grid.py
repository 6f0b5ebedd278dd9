"""The points of a sweep: every combination of the hyper-parameters' values, for every seed."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wdlab._core.checks import check_number

Value = float | str
Point = tuple[Value, ...]  # hyper-parameters in the order of the axes, then the seed
SEED = "seed"
RESERVED = (SEED, "status")
MOST_POINTS = 1_000_000

# What the optimizers check at construction, where a traced value passes unseen.
_RANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {},
    "weight_decay": {},
    "eps": {},
    "b1": {"high": 1.0, "high_open": True},
    "b2": {"high": 1.0, "high_open": True},
    "momentum": {"high": 1.0, "high_open": True},
}


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, checked; its points in the order of the results table.

    Args:
      axes: Name -> values: all numbers, or all names.
      seeds: Whole numbers of [0, 2**32).

    >>> grid = make_grid({"learning_rate": [0.1, 0.2], "coupling": ["lr", "l2"]}, seeds=2)
    >>> len(grid), next(iter(grid))
    (8, (0.1, 'lr', 0))
    """

    axes: dict[str, tuple[Value, ...]]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return math.prod(map(len, self.axes.values())) * len(self.seeds)

    def __iter__(self) -> Iterator[Point]:
        return itertools.product(*self.axes.values(), self.seeds)

    def stacked(self) -> tuple[dict[str, Any], np.ndarray]:
        """Every point as the program takes it: hyper-parameters, each of (points,), and seeds.

        An axis of names becomes one 0 or 1 for each name (see :func:`wdlab.sweep.sweep`).
        """
        grids = np.meshgrid(*self.axes.values(), self.seeds, indexing="ij")
        *columns, seeds = (column.ravel() for column in grids)
        hyperparameters: dict[str, Any] = {}
        for (name, values), column in zip(self.axes.items(), columns, strict=True):
            if isinstance(values[0], str):
                hyperparameters[name] = {v: _floats(column == v) for v in values}
            else:
                hyperparameters[name] = _floats(column)
        return hyperparameters, seeds.astype(np.uint32)


def _floats(values: np.ndarray) -> np.ndarray:
    return values.astype(jax.dtypes.canonicalize_dtype(float))


def make_grid(grid: Mapping[str, Sequence[Any]], seeds: int | Sequence[int]) -> Grid:
    """Checks the axes and the seeds of a sweep.

    Args:
      grid: Name -> values.
      seeds: How many (0, 1, ...), or which.

    Raises:
      TypeError, ValueError: For an empty axis, values that are not finite numbers or outside the
        range of their name, a value or a seed twice, a reserved name, or over a million points.

    >>> make_grid({"learning_rate": [-0.1]}, seeds=1)
    Traceback (most recent call last):
    ValueError: grid['learning_rate'] must be a number in [0, inf), got -0.1.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(
            "grid must map names to values, such as {'learning_rate': [1e-3, 1e-2]}, "
            f"got {grid!r}."
        )
    checked = Grid({name: _axis(name, values) for name, values in grid.items()}, _seeds(seeds))
    if len(checked) > MOST_POINTS:
        sizes = " x ".join(f"{len(v)} {k}" for k, v in checked.axes.items())
        raise ValueError(
            f"the grid has {len(checked):,} points ({sizes} x {len(checked.seeds)} seeds), more "
            f"than the {MOST_POINTS:,} that one table holds. Split it into several sweeps."
        )
    return checked


def _axis(name: str, values: Any) -> tuple[Value, ...]:
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        raise ValueError(
            f"{name!r} cannot name a hyper-parameter; {', '.join(RESERVED)} are taken."
        )
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"grid[{name!r}] must be a sequence of values, got {values!r}.")
    values = list(values)
    if not values:
        raise ValueError(f"grid[{name!r}] is empty: an axis needs at least one value.")
    if all(isinstance(value, str) for value in values):
        axis = tuple(values)
        if not all(value.isprintable() and value for value in axis):
            raise ValueError(f"grid[{name!r}] must hold printable names, got {axis}.")
    else:
        for value in values:
            check_number(f"grid[{name!r}]", value, **_RANGES.get(name, {"low": -math.inf}))
        axis = tuple(float(value) for value in values)
    if len(set(axis)) < len(axis):
        raise ValueError(f"grid[{name!r}] holds a value twice: {axis}.")
    return axis


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        chosen = list(range(min(int(seeds), MOST_POINTS + 1)))  # More are too many points.
    else:
        chosen = list(seeds) if isinstance(seeds, Iterable) else []
    numbers = [s for s in chosen if isinstance(s, int | np.integer) and not isinstance(s, bool)]
    if not chosen or len(numbers) < len(chosen) or not all(0 <= s < 2**32 for s in numbers):
        raise ValueError(
            "seeds must be how many there are (3), or distinct whole numbers of [0, 2**32) "
            f"such as (0, 1, 2), got {seeds!r}."
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds holds a number twice: {seeds!r}.")
    return tuple(int(s) for s in numbers)


def parse_values(name: str, text: str) -> tuple[float, ...]:
    """Reads an axis: numbers and geometric ranges ``first:last:count``, separated by commas.

    Args:
      name: Of the flag, for messages.
      text: As typed.

    Raises:
      ValueError: If it is empty, or cannot be read.

    >>> parse_values("--weight-decay", "0,1e-3:1e-1:3")
    (0.0, 0.001, 0.01, 0.1)
    >>> parse_values("--weight-decay", "1e-3:1e-1:0")
    Traceback (most recent call last):
    ValueError: --weight-decay 1e-3:1e-1:0: the range is empty; write first:last:count ...
    """
    return tuple(value for part in text.split(",") for value in _parse_part(f"{name} {text}", part))


def _parse_part(where: str, part: str) -> list[float]:
    fields = part.split(":")
    try:
        if len(fields) == 1:
            return [float(part)]
        first, last, count = fields
        ends, number = (float(first), float(last)), int(count)
    except ValueError:
        raise ValueError(
            f"{where}: cannot read {part!r}; write numbers (1e-3,1e-2) or first:last:count "
            "(1e-4:1e-1:9)."
        ) from None
    return _geometric(where, *ends, number)


def _geometric(where: str, first: float, last: float, count: int) -> list[float]:
    if count > MOST_POINTS:
        raise ValueError(f"{where[:80]}: one table holds {MOST_POINTS:,} points at most.")
    if count < 1 or last < first:
        raise ValueError(
            f"{where}: the range is empty; write first:last:count with first <= last and count "
            ">= 1, such as 1e-4:1e-1:9."
        )
    if not 0 < first <= last < math.inf:
        raise ValueError(
            f"{where}: a geometric range lies above 0, found {first:g}. Write 0 by itself, before "
            "a comma: 0,1e-6:1e-1:9."
        )
    if count == 1:
        return [first]
    # Twelve digits: 1e-3 and not 0.0010000000000000002 in every table and title.
    return [float(f"{v:.12g}") for v in np.geomspace(first, last, count)]
