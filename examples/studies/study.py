"""The form of every study: points -> rows of a table -> a picture and a result.

A study measures its points one after another. After each, ``results.csv`` is replaced as a whole,
so that a run that was killed goes on with the first point it has not measured. The result is one
JSON file, ``NAME-SIZE.json``; :mod:`examples.studies.table` takes it into the repository.
"""

import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import threadpoolctl
from matplotlib.figure import Figure

from examples.runs import records
from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass
from examples.runs.pictures import save_small

from .dose import LEAST, Dose
from .paired import Agrees
from .rows import Point, Row, Table

# Double precision inside a with statement: jax 0.7 has it elsewhere.
_HOME: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
float64 = functools.partial(_HOME.enable_x64, True)
Size = Literal["tiny", "small", "paper"]
LONGEST_CELL = 80  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a study."""

    question: str
    source: str  # what the paper or post reports, and where
    number: str  # the number that answers the question
    agrees: Agrees  # "no" becomes "not tested" where the decay had too little to do
    measured: str  # what the numbers are, with their unit
    numbers: Mapping[str, Any]  # name -> a value, values of all seeds, or a Separability
    seeds: int
    remark: str = ""  # where it disagrees: what would be needed to tell

    def __post_init__(self):
        for cell in (self.question, self.source, self.number, *self.numbers):
            if len(cell) > LONGEST_CELL:
                raise ValueError(f"a cell has at most {LONGEST_CELL} characters: {cell!r}")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and how it is answered.

    ``measure`` gets one point and the size and returns the rows of that point, all seeds together;
    ``draw`` and ``summarize`` get every row of every point, each with the point's own columns.
    ``dose`` gives the decay exponent and learning rate times steps of a point, or says why the
    study has none; ``larger`` says which size would tell where this one cannot.
    """

    name: str
    points: Callable[[Size], Sequence[Point]]
    measure: Callable[[Point, Size], Sequence[Row]]
    draw: Callable[[list[Row]], Figure]
    summarize: Callable[[list[Row]], Summary]
    dose: Callable[[Point, Size], Dose] | str
    larger: str = "--size paper"
    sizes: tuple[Size, ...] = ("tiny", "paper")


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of every study."""

    # tiny: minutes on two CPU cores; small: 20 to 60; paper: the source's own settings
    size: Size = "tiny"
    out_dir: str = ""  # empty: out/studies/<name>-<size>; a run that was killed goes on there


def main(study: Study, argv: Sequence[str]) -> int:
    """Runs a study to its end, or to the end of what is missing of it; the exit code."""
    try:
        default = Flags(study.sizes[0])
        flags = parse_dataclass(Flags, default, argv, f"python -m examples.studies.{study.name}")
        if flags.size not in study.sizes:
            raise UserError(f"{study.name} has no size {flags.size}: {' or '.join(study.sizes)}")
        folder = Path(flags.out_dir or f"out/studies/{study.name}-{flags.size}")
        for_small_programs(flags.size)
        run(study, flags.size, folder)
    except (UserError, OSError) as error:
        return fail(error)
    return 0


def for_small_programs(size: Size) -> None:
    """One thread and a quick compiler, unless NPROC and XLA_FLAGS say otherwise.

    To be called before JAX's first computation. Operations of size tiny take up to twice the
    processor time on two threads, NumPy's products too, and as long; and XLA compiles for longer
    than they run.
    """
    if size == "tiny":
        threadpoolctl.threadpool_limits(1)
        os.environ.setdefault("NPROC", "1")
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


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
    doses = [] if isinstance(study.dose, str) else [study.dose(point, size) for point in points]
    figure, about = study.draw(wanted), study.dose if isinstance(study.dose, str) else told(doses)
    figure.supxlabel(about, fontsize=8)
    save_small(figure, folder / f"{study.name}-{size}.png", dpi=80)
    summary = decided(study.summarize(wanted), doses, study.larger)
    result = {
        **{"name": study.name, "size": size, **dataclasses.asdict(summary)},
        "exponent": max((d.exponent for d in doses if d.exponent is not None), default=None),
        "lr_steps": max((d.lr_steps for d in doses), default=None),
        "dose": about,
        "doses": [d._asdict() | p for p, d in zip(points, doses, strict=bool(doses))],
        "numbers": {name: _plain(value) for name, value in summary.numbers.items()},
        "cpu_seconds": round(table.seconds, 1),
        "date": table.date,
        "device": jax.devices()[0].device_kind,
        "commit": ", ".join(table.commits),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
    }
    path = folder / f"{study.name}-{size}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{summary.question}\n  source: {summary.source}\n  here: {summary.number}")
    print(f"  {about}\n  agrees: {summary.agrees}. {summary.remark}\n  result: {path}")
    return summary


def told(doses: Sequence[Dose]) -> str:
    """The doses of all runs, as one line.

    >>> told([Dose(0.0, 2.0), Dose(3.0, 2.0)])
    'decay exponent E = sum kappa_t lambda: 0 to 3; peak lr * steps: 2'
    """
    exponents = [d.exponent for d in doses if d.exponent is not None]
    lr_steps = [d.lr_steps for d in doses]
    span = lambda x: " to ".join(dict.fromkeys(f"{v:.3g}" for v in (min(x), max(x))))  # noqa: E731
    exponent = span(exponents) if exponents else "none, L2 in the gradient"
    return f"decay exponent E = sum kappa_t lambda: {exponent}; peak lr * steps: {span(lr_steps)}"


def decided(summary: Summary, doses: Sequence[Dose], larger: str) -> Summary:
    """The summary; a "no" where no run's decay exponent reaches 1 has tested nothing."""
    exponents = [d.exponent if d.exponent is not None else math.inf for d in doses]
    weak = bool(exponents) and max(exponents) < LEAST
    agrees: Agrees = "not tested" if summary.agrees == "no" and weak else summary.agrees
    if agrees != "not tested":
        return summary
    why = f"The decay exponent is at most {max(exponents):.2g}." if weak else ""
    remark = " ".join(filter(None, [summary.remark, why, f"What would tell: {larger}."]))
    return dataclasses.replace(summary, agrees=agrees, remark=remark)


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


def ends_over(
    rows: Sequence[Row], column: str, exponents: Sequence[float], **point: Any
) -> np.ndarray:
    """:func:`at_end` for each decay exponent: seeds by exponents."""
    return np.stack([at_end(rows, column, exponent=e, **point) for e in exponents], axis=1)
