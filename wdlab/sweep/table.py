"""The results of a sweep as a table: its columns, its best point, its file."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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

    def values(self, metric: str) -> np.ndarray:
        """A metric in float64, infinite where the run diverged or the value is not finite."""
        values = np.asarray(self[metric], float)
        return np.where(np.isfinite(values) & (self[STATUS] == OK), values, np.inf)

    def best(self, metric: str) -> dict[str, Any]:
        """The row with the smallest value of a metric.

        Raises:
          ValueError: If every run diverged.
        """
        values = self.values(metric)
        row = int(np.argmin(values))
        if not np.isfinite(values[row]):
            raise ValueError(f"{metric}: every run diverged, so that none is the best.")
        return {name: column[row].item() for name, column in self.columns.items()}

    def best_mean(self, metric: str) -> tuple[dict[str, Any], float]:
        """The point whose mean over the seeds is smallest, and that mean.

        What diverged for one seed is never the best; the mean is infinite where all did.

        >>> columns = {"x": [1., 1., 2., 2.], "loss": [5., 3., 1., 0.]}
        >>> columns["status"] = ["ok", "ok", "ok", "diverged"]
        >>> Table(("x",), {k: np.array(v) for k, v in columns.items()}).best_mean("loss")
        ({'x': 1.0}, 4.0)
        """
        points: dict[Row, list[float]] = {}
        axes = [self[name].tolist() for name in self.axes]
        for *point, value in zip(*axes, self.values(metric).tolist(), strict=True):
            points.setdefault(tuple(point), []).append(value)
        means = {point: float(np.mean(values)) for point, values in points.items()}
        best = min(means, key=means.__getitem__)
        return dict(zip(self.axes, best, strict=True)), means[best]

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
      ValueError: If the file holds no results, or is damaged; with the line.
      OSError: If it cannot be read.

    >>> read_csv("no/such/results.csv")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'no/such/results.csv'
    """
    (_, header), *rows = list(whole_rows(Path(path))) or [(1, ())]
    if "seed" not in header or STATUS not in header or not rows:
        raise ValueError(f"{path}: no results: expected columns with seed and status, and rows.")
    table = to_table(header[: header.index("seed")], header, [row for _, row in rows])
    return Table(table.axes, {name: _numbers(column) for name, column in table.columns.items()})


def _numbers(column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(float)
    except ValueError:
        return column


def whole_rows(path: Path) -> Iterator[tuple[int, Row]]:
    r"""The header and the rows of a file, each with its line; a last line without its end is none.

    Raises:
      ValueError: Where a line is no text, or has another number of columns than the header.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "results.csv"
    >>> _ = path.write_text("x,loss\n1,2\n3,")
    >>> list(whole_rows(path))
    [(1, ('x', 'loss')), (2, ('1', '2'))]
    """
    data = path.read_bytes()
    data = data[: data.rfind(b"\n") + 1]
    reader, columns = csv.reader(io.StringIO(_text(path, data), newline=""), strict=True), 0
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: {error}. {MEND}") from None
        if row is None:
            return
        columns = columns or len(row)
        if row and len(row) != columns:
            raise ValueError(f"{path}:{line}: {len(row)} columns, expected {columns}. {MEND}")
        if row:
            yield line, tuple(row)


MEND = "Delete this line (its run will be repeated), or the file."


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        raise ValueError(f"{path}:{line}: not text (byte {byte:#x}). {MEND}") from None
