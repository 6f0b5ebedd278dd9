"""The folder of a sweep: results that grow by whole rows, survive every kill, and fit its grid."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wdlab._core.files import replacing
from wdlab.sweep.table import DIVERGED, MEND, OK, Row, whole_rows


class Results:
    """``results.csv`` of a folder, and ``sweep.json``, which says what sweep it belongs to.

    Opening it matches each row that is there to its point, and drops half a row at the end.

    Args:
      folder: Made if it does not exist.
      header: Names of the columns: those of a point, then others, the last one "status".
      readers: One function per column but the last: text -> value.
      points: The first values of every row that belongs here.
      description: What the numbers depend on, JSON values.

    Attributes:
      rows: Index of the point -> row, of those found and added.

    Raises:
      ValueError: If the folder cannot be written, holds another sweep, or a row that is damaged or
        of no point, with its line.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = folder, ["x", "status"], [float], [(1.0,), (2.0,)], {"version": 1}
    ...     with Results(*arguments) as results:
    ...         results.add({1: (2.0, "ok")})
    ...     with Results(*arguments) as results:
    ...         results.rows
    {1: (2.0, 'ok')}
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        header: Sequence[str],
        readers: Sequence[Callable[[str], Any]],
        points: Iterable[Row],
        description: Mapping[str, Any],
    ):
        self.path = Path(folder) / "results.csv"
        self._header = list(header)
        _make_writable(self.path.parent)
        _claim(self.path.with_name("sweep.json"), description, new=not self.path.exists())
        self.rows = self._found([*readers, _status], {p: i for i, p in enumerate(points)})
        self.rewrite()
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  Closed by __exit__.

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Mapping[int, Row]) -> None:
        """Writes rows in one piece: after it they survive the end of the process.

        Raises:
          OSError: If the disk is full.
        """
        self.rows |= rows
        data = _text(rows.values()).encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise _unwritten(self.path, error) from None

    def rewrite(self) -> None:
        """Replaces the file by one that has the rows in the order of their points."""
        _replace(self.path, _text([self._header, *(self.rows[i] for i in sorted(self.rows))]))

    def _found(
        self, readers: Sequence[Callable[[str], Any]], points: Mapping[Row, int]
    ) -> dict[int, Row]:
        texts = whole_rows(self.path) if self.path.exists() else iter(())
        _, header = next(texts, (1, self._header))
        if list(header) != self._header:
            raise ValueError(f"{self.path}:1: columns {list(header)}, expected {self._header}.")
        found: dict[int, Row] = {}
        for line, text in texts:
            where = f"{self.path}:{line}"
            try:
                row = tuple(read(field) for read, field in zip(readers, text, strict=True))
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{where}: {error}. {MEND}") from None
            index = points.get(row[: len(next(iter(points)))])
            if index is None:
                raise ValueError(f"{where}: this point is not in the grid. Delete this line.")
            if str(found.setdefault(index, row)) != str(row):  # As text: NaN is NaN.
                raise ValueError(f"{where}: another result of a point that is above. {MEND}")
        return found


def _status(text: str) -> str:
    if text not in (OK, DIVERGED):
        raise ValueError(f"the status must be {OK} or {DIVERGED}, got {text[:40]!r}")
    return text


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


def _claim(path: Path, description: Mapping[str, Any], *, new: bool) -> None:
    """Writes what sweep this folder holds, or compares it with what is there."""
    wanted = json.loads(json.dumps(description))
    if new and not path.exists():
        _replace(path, json.dumps(wanted, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"no JSON object: {found}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error)[:80]}), and results.csv may belong to any sweep. "
            "Choose another folder, or delete both."
        ) from None
    different = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
    if different:
        raise ValueError(
            f"{path.parent} holds another sweep: it differs in {', '.join(different)} (see "
            f"{path}). Choose another folder, or delete this one."
        )


def _replace(path: Path, text: str) -> None:
    try:
        with replacing(path) as part:
            part.write_bytes(text.encode())
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(
        f"cannot write {path}: {error.strerror}. What is there stays; once there is room, the same "
        "command goes on."
    )
