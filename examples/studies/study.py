"""The form of every study: points -> rows of a table -> a picture and a result.

A study measures its points one after another. After each, ``results.csv`` is replaced as a whole,
so that a run that was killed goes on with the first point it has not measured. The result is one
JSON file, ``NAME-SIZE.json``; :mod:`examples.studies.table` takes it into the repository.
"""

import contextlib
import csv
import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.figure import Figure

from examples.runs import records
from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass
from examples.runs.pictures import save_small
from wdlab._core.files import replacing

# Double precision inside a with statement: jax 0.7 has it elsewhere.
_HOME: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
float64 = functools.partial(_HOME.enable_x64, True)
Size = Literal["tiny", "paper"]
Point = dict[str, Any]  # what is varied: JSON values
Row = dict[str, Any]  # what was measured there: numbers, and names such as the epoch's or seed's
Agrees = Literal["yes", "in part", "no", "not testable here"]


LONGEST_CELL = 80  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a study."""

    question: str
    source: str  # what the paper or post reports, and where
    number: str  # the number that answers the question
    agrees: Agrees
    measured: str  # what the numbers are, with their unit
    numbers: Mapping[str, Any]  # name -> a value, values of all seeds, or a Separability
    seeds: int
    remark: str = ""  # where it disagrees: what would be needed to tell
    exponent: float | None = None  # sum over the steps of kappa_t * lambda; None: not computed
    lr_steps: float | None = None  # peak learning rate * steps; None: not computed

    def __post_init__(self):
        for cell in (self.question, self.source, self.number, *self.numbers):
            if len(cell) > LONGEST_CELL:
                raise ValueError(f"a cell has at most {LONGEST_CELL} characters: {cell!r}")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and how it is answered.

    ``measure`` gets one point and the size and returns the rows of that point, all seeds together;
    ``draw`` and ``summarize`` get every row of every point, each with the point's own columns.
    """

    name: str
    points: Callable[[Size], Sequence[Point]]
    measure: Callable[[Point, Size], Sequence[Row]]
    draw: Callable[[list[Row]], Figure]
    summarize: Callable[[list[Row]], Summary]


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of every study."""

    size: Size = "tiny"  # tiny: minutes on two CPU cores; paper: the source's own settings
    out_dir: str = ""  # empty: out/studies/<name>-<size>; a run that was killed goes on there


def main(study: Study, argv: Sequence[str]) -> int:
    """Runs a study to its end, or to the end of what is missing of it; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, f"python -m examples.studies.{study.name}")
        folder = Path(flags.out_dir or f"out/studies/{study.name}-{flags.size}")
        run(study, flags.size, folder)
    except (UserError, OSError) as error:
        return fail(error)
    return 0


def run(study: Study, size: Size, folder: Path) -> Summary:
    """Measures the points that are missing, draws the picture, writes the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder / "results.csv")
    points = list(study.points(size))
    for i, point in enumerate(points):
        if table.has(point):
            continue
        started = time.process_time()
        rows = study.measure(point, size)
        seconds = time.process_time() - started
        table.add(point, rows, seconds)
        text = " ".join(f"{name}={value}" for name, value in point.items())
        print(f"{study.name} {i + 1}/{len(points)}: {text} ({seconds:.1f} CPU s)", flush=True)
    wanted = [row for point in points for row in table.rows_of(point)]
    save_small(study.draw(wanted), folder / f"{study.name}-{size}.png", dpi=80)
    summary = study.summarize(wanted)
    result = {
        **{"name": study.name, "size": size, **dataclasses.asdict(summary)},
        "numbers": {name: _plain(value) for name, value in summary.numbers.items()},
        "cpu_seconds": round(table.seconds, 1),
        "device": jax.devices()[0].device_kind,
        "commit": ", ".join(table.commits),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
    }
    path = folder / f"{study.name}-{size}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{summary.question}\n  source: {summary.source}\n  here: {summary.number}")
    print(f"  agrees: {summary.agrees}. {summary.remark}\n  result: {path}")
    return summary


def _plain(value: Any) -> Any:
    """A number or numbers of six digits, or the fields of a dataclass, as JSON takes them.

    >>> _plain(np.array([1.23456789, math.nan]))
    [1.23457, None]
    """
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if np.ndim(value):
        return [_plain(one) for one in np.asarray(value).tolist()]
    if isinstance(value, int):
        return value
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def spread(values: Any) -> str:
    """Mean and standard deviation over the seeds, or one value.

    >>> spread([1.0, 3.0]), spread(2.0)
    ('2 ± 1.4', '2')
    """
    values = np.asarray(values, float)
    mean = f"{values.mean():.3g}"
    return f"{mean} ± {values.std(ddof=1):.2g}" if values.size > 1 else mean


def rows_of_run(program: Callable[..., int], argv: Sequence[str], folder: Path) -> list[Row]:
    """The records of one run of an example's program; a run that was cut off goes on.

    Raises:
      UserError: If the run fails.
    """
    argv = [*argv, f"--out_dir={folder}", *(["--resume"] if folder.exists() else [])]
    if program(argv):
        raise UserError(f"the run {' '.join(argv)} failed: see above")
    return records.read(folder / "metrics.jsonl")


def at_end(rows: Sequence[Row], column: str, **point: Any) -> np.ndarray:
    """The last value of a column for each seed, of the rows that have these values."""
    last = {r["seed"]: r[column] for r in rows if point.items() <= r.items() and column in r}
    return np.array([last[seed] for seed in sorted(last)], float)


def is_lower(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether ``one`` is lower for the same seeds by more than two standard errors.

    >>> is_lower(np.array([1.0, 1.1, 1.0]), np.array([2.0, 2.1, 2.1]))
    True
    """
    gain = other - one
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > 2 * error)


def agreement(statements: Sequence[bool]) -> Agrees:
    """Whether all of the source's statements hold, some, or none.

    >>> agreement([True, False])
    'in part'
    """
    if all(statements):
        return "yes"
    return "in part" if any(statements) else "no"


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
        self._rows += [shared | {k: str(v) for k, v in row.items()} for row in rows]
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        with replacing(self.path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)


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
