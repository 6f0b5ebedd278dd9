"""``metrics.jsonl``: one JSON object a row, whole after every crash and every resume."""

import json
import os
from pathlib import Path
from typing import Any

from wdlab._core.files import replacing

Row = dict[str, Any]


class Records:
    """The rows of a run.

    Opening it keeps the rows up to ``step`` and drops those that the resumed run will write again,
    and half a row that a crash left. Each row is on disk before :meth:`append` returns, so a
    checkpoint that is saved after a row never knows more than the file. Of several processes one
    writes; the others have no file.
    """

    def __init__(self, path: Path, step: int, write: bool = True):
        self.path = path
        self.rows: list[Row] = []
        if write:
            self.rows = [row for row in read(path) if row["step"] <= step]
            with replacing(path) as part:
                part.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = open(path, "a") if write else None  # noqa: SIM115  Closed by close().

    def append(self, row: Row) -> None:
        """Writes a row, unless the run that is resumed has written it already."""
        if self.rows and row["step"] <= self.rows[-1]["step"]:
            return
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[Row]:
    """The whole rows of a file; none where it does not exist.

    Example:
      >>> read(Path("no/such/file"))
      []
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # The half row of a crash: what follows is not to be trusted either.
            break
    return rows
