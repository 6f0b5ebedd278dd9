"""The results of a sweep: a CSV file that grows by whole rows and survives every kill."""

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wdlab._core.files import replacing

STATUS, OK, DIVERGED = "status", "ok", "diverged"
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """Columns of equal length: hyper-parameters, seed, metrics, status.

    Args:
      axes: Names of the hyper-parameters' columns, in the order of the grid.
      columns: Name -> values, shape (points,); metrics in the dtype that ``train`` gave them.

    >>> table = Table(("x",), {"x": np.array([1., 2.]), "loss": np.array([3., np.nan]),
    ...     "status": np.array(["ok", "diverged"])})
    >>> table.best("loss"), len(table)
    ({'x': 1.0, 'loss': 3.0, 'status': 'ok'}, 2)
    """

    axes: tuple[str, ...]
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """One column.

        Raises:
          ValueError: If there is none of that name; the message lists those there are.
        """
        if name not in self.columns:
            raise ValueError(f"no column {name!r}; there are {', '.join(self.columns)}.")
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def best(self, metric: str) -> dict[str, Any]:
        """The row with the smallest value of a metric; what diverged never wins."""
        good = np.isfinite(self[metric]) & (self[STATUS] == OK)
        values = np.where(good, self[metric], np.inf)
        row = int(np.argmin(values))
        return {name: column[row].item() for name, column in self.columns.items()}

    def where(self, **wanted: Any) -> "Table":
        """The rows in which every named column has that value."""
        keep = np.ones(len(self), bool)
        for name, value in wanted.items():
            keep &= self[name] == value
        return Table(self.axes, {name: column[keep] for name, column in self.columns.items()})


def to_table(axes: Sequence[str], header: Sequence[str], rows: Iterable[Row]) -> Table:
    """Turns rows into columns.

    >>> to_table(["x"], ["x", "loss"], [(1.0, 2.0), (3.0, 4.0)])["loss"]
    array([2., 4.])
    """
    columns = [np.asarray(column) for column in zip(*rows, strict=True)]
    return Table(tuple(axes), dict(zip(header, columns, strict=True)))


def read_csv(path: str | os.PathLike[str]) -> Table:
    """Reads ``results.csv``: numbers in float64, names as text. Half a row at its end is left out.

    The hyper-parameters are the columns before "seed".

    Raises:
      ValueError: If the file is missing or holds no row.

    >>> read_csv("no/such/results.csv")
    Traceback (most recent call last):
    ValueError: no results in no/such/results.csv.
    """
    try:
        header, *rows = _whole_rows(Path(path))
    except (OSError, ValueError):
        raise ValueError(f"no results in {path}.") from None
    if not rows:
        raise ValueError(f"no results in {path}.")
    table = to_table(header[: header.index("seed")], header, map(tuple, rows))
    return Table(table.axes, {name: _numbers(column) for name, column in table.columns.items()})


def _numbers(column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(float)
    except ValueError:
        return column


def _whole_rows(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode()
    return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))


class Results:
    """``results.csv`` of a folder, and ``sweep.json``, which says what sweep it belongs to.

    Opening it keeps the whole rows that are there and drops half a row; ``rows`` are those kept.

    Args:
      folder: Made if it does not exist.
      header: Names of the columns.
      readers: One function per column: text -> value.
      description: What the numbers depend on, JSON values.

    Raises:
      ValueError: If the folder cannot be written, or holds another sweep.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Results(folder, ["x"], [float], {"version": 1}) as results:
    ...         results.append([(1.0,)])
    ...     with Results(folder, ["x"], [float], {"version": 1}) as results:
    ...         results.rows
    [(1.0,)]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        header: Sequence[str],
        readers: Sequence[Callable[[str], Any]],
        description: Mapping[str, Any],
    ):
        self.folder = Path(folder)
        _make_writable(self.folder)
        _claim(self.folder / "sweep.json", description)
        self.path = self.folder / "results.csv"
        found = _whole_rows(self.path) if self.path.exists() else []
        if found and found[0] != list(header):
            raise ValueError(f"{self.path} has columns {found[0]}, expected {list(header)}.")
        self.rows = [
            tuple(read(field) for read, field in zip(readers, row, strict=True))
            for row in found[1:]
        ]
        _replace(self.path, _text([header, *self.rows]))
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  Closed by __exit__.

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Writes rows in one piece: after it they survive the end of the process."""
        self.rows += rows
        self._file.write(_text(rows).encode())


def _text(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as CSV; str of a NumPy float has the fewest digits that read back to it."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([map(str, row) for row in rows])
    return out.getvalue()


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to the folder {folder}: {error.strerror}.") from None


def _claim(path: Path, description: Mapping[str, Any]) -> None:
    """Writes what sweep this folder holds, or compares it with what is there."""
    wanted = json.loads(json.dumps(description))
    if not path.exists():
        _replace(path, json.dumps(wanted, indent=2) + "\n")
        return
    found = json.loads(path.read_text())
    different = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
    if different:
        raise ValueError(
            f"{path.parent} holds another sweep: it differs in {', '.join(different)} (see "
            f"{path}). Choose another folder, or delete this one."
        )


def _replace(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text)


def digest_text(text: str) -> str:
    """Removes from a program's text what differs between processes: memory addresses.

    >>> digest_text("<function f at 0x7f00>")
    '<function f at >'
    """
    return re.sub(r"0x[0-9a-f]+", "", text)
