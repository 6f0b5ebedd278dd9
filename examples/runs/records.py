"""``metrics.jsonl``: one JSON object a row, whole after every crash and every resume."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from wdlab._core.files import replacing

from .run_dir import writing

Row = dict[str, Any]


class Records:
    """The rows of a run.

    Opening it keeps the rows up to ``step`` and drops those that the resumed run will write again.
    Where more would be lost, because lines are damaged or the run begins once more, the old file
    stays beside the new one. Each row is on disk before :meth:`append` returns, so a checkpoint
    that is saved after a row never knows more than the file.

    Args:
      path: The file.
      step: Of the checkpoint that the run goes on from; below 0: it begins.
      write: Whether this process writes: one of several does, the others have no file.
    """

    def __init__(self, path: Path, step: int, write: bool = True):
        self.path = path
        self.rows: list[Row] = []
        self.notes: list[str] = []  # For the user.
        self.also: Callable[[Row], None] | None = None  # Gets each new row as well.
        self._file: TextIO | None = None
        if write:
            with writing(path):
                self._keep(step)
                self._file = open(path, "a")  # noqa: SIM115  Closed by close().

    def _keep(self, step: int) -> None:
        found, damaged = _parse(self.path)
        self.rows = [row for row in found if row["step"] <= step]
        if damaged or (found and step < 0):
            names = (f"{self.path.stem}-{i}{self.path.suffix}" for i in range(1, 10**6))
            aside = next(name for name in names if not self.path.with_name(name).exists())
            self.path.rename(self.path.with_name(aside))
            why = f"{damaged} damaged line(s)" if damaged else "rows, but there is no checkpoint"
            self.notes.append(f"{self.path.name} has {why}: the old file is kept as {aside}")
        with replacing(self.path) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def append(self, row: Row) -> None:
        """Writes a row, unless the run that is resumed has written it already."""
        if self.rows and row["step"] <= self.rows[-1]["step"]:
            return
        self.rows.append(row)
        if self._file is not None:
            with writing(self.path):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
                os.fsync(self._file.fileno())
        if self.also is not None:
            self.also(row)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[Row]:
    """The whole rows of a file, by step; none where it does not exist.

    Example:
      >>> read(Path("no/such/file"))
      []
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[list[Row], int]:
    """The rows by step, and how many lines are damaged; a crash leaves half a line at the end."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = [_row(line) for line in lines]
    damaged = sum(found[i] is None and line.strip() != b"" for i, line in enumerate(lines[:-1]))
    rows = {row["step"]: row for row in reversed(found) if row is not None}  # The first of a step.
    return [rows[step] for step in sorted(rows)], damaged


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0
    return row if whole else None
