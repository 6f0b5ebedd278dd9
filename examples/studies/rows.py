"""``results.csv`` of a study: the rows of every point that is measured."""

import contextlib
import csv
import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.runs.errors import UserError
from wdlab._core.files import replacing

Point = dict[str, Any]  # what is varied: JSON values
Row = dict[str, Any]  # what was measured there: numbers, and names such as the epoch's or seed's


class Table:
    """``results.csv``: the rows of each point beside the point as JSON; whole after any crash."""

    def __init__(self, path: Path):
        self.path = path
        self._rows: list[dict[str, str]] = []
        if path.exists():
            with open(path, newline="") as file:
                self._rows = list(csv.DictReader(file))
        if self._rows and "point" not in self._rows[0]:
            raise UserError(f"{path} is not the table of a study: name another --out_dir")

    @property
    def seconds(self) -> float:
        """The processor time that all points took together, over all cores."""
        return sum(float(row["seconds"]) for row in self._rows)

    @property
    def commits(self) -> list[str]:
        """The commits that the points were measured with."""
        return list(dict.fromkeys(row.get("commit", "unknown") for row in self._rows))

    @property
    def date(self) -> str:
        """The day, UTC, on which the last point was measured."""
        return self._rows[-1].get("date", "unknown")

    def has(self, point: Point) -> bool:
        """Whether a point is measured."""
        return any(row["point"] == _key(point) for row in self._rows)

    def rows_of(self, point: Point) -> list[Row]:
        """The rows of a point, numbers as numbers, with the point's own columns."""
        found = [row for row in self._rows if row["point"] == _key(point)]
        return [{**{k: _value(v) for k, v in row.items() if v != ""}, **point} for row in found]

    def add(self, point: Point, rows: Sequence[Row], seconds: float) -> None:
        """Writes the rows of a point: all of them or none."""
        if not rows:
            raise ValueError(f"no rows for the point {point}")
        shared = {"point": _key(point), "seconds": str(seconds / len(rows)), "commit": commit()}
        shared["date"] = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        self._rows += [shared | {k: str(v) for k, v in row.items()} for row in rows]
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        with replacing(self.path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)


def rows_over(values: Mapping[str, Any], **axes: Sequence[Any]) -> list[Row]:
    """A row for each element of arrays whose axes have these names and values.

    >>> rows_over({"loss": np.array([[1.0, 2.0]])}, seed=range(1), lr=(0.1, 0.2))
    [{'seed': 0, 'lr': 0.1, 'loss': 1.0}, {'seed': 0, 'lr': 0.2, 'loss': 2.0}]
    """
    return [
        {name: axes[name][i] for name, i in zip(axes, index, strict=True)}
        | {name: float(array[index]) for name, array in values.items()}
        for index in np.ndindex(*map(len, axes.values()))
    ]


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def _value(text: str) -> Any:
    """A number where the text is one.

    >>> _value("3"), _value("nan"), _value("lr")
    (3, nan, 'lr')
    """
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def commit() -> str:
    """The commit of this checkout, with a plus sign where files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return (head or "unknown") + ("+" if _git("status", "--porcelain", "-uno") else "")


def _git(*args: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:  # No git here.
        return ""
