"""The results page, ``README.md`` beside this file, from the results in ``results``.

``python -m examples.studies.table [--add out/studies/NAME-SIZE]`` writes it. ``--add`` first takes
over the result and the picture of a run (or of all runs in a folder) into the repository. With
``--repeat`` instead the stored result stays, and beside it is noted when the study ran again and
what it answered.
"""

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass
from wdlab.sweep import Separability

from . import claims
from .markdown import table
from .study import Size, spread

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "README.md"
Result = dict[str, Any]
REPEATED = ("date", "commit", "agrees", "cpu_seconds", "number", "remark")
HEAD = """# Studies and their results

"""
HOW = """

## All studies

One file per question of the papers. Each is a command, and each can be stopped: it goes on with the
point that is missing.

    python -m examples.studies.lm_weight_decay                 # size tiny: minutes on two CPU cores
    python -m examples.studies.lm_weight_decay --size paper    # the settings of the source
    python -m examples.studies.table --add out/studies/lm_weight_decay-tiny    # onto this page

Size `tiny` trains small models for minutes, size `small` for up to an hour; they say what happens
there, not what happens at the source's size. Nothing has been run at size `paper` yet. E is the
largest decay exponent of the runs, the sum over the steps of kappa_t * lambda: without gradients a
weight shrinks by exp(-E). lr T is the largest peak learning rate times steps. A study whose E is
below 1 answers "not tested", never "no". Statements are tested on paired seeds: a 95 % interval,
the wider of Student's t and the bootstrap, must exclude zero. Below each picture are the numbers,
as mean ± standard deviation over the seeds. `python -m examples.studies.table` writes this page
from `results/`, where each result stands once, with every seed's number.
`python -m examples.studies.all --size tiny` runs all that have the size, and fails where an answer
is another than the one on this page.

"""


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the table."""

    add: str = ""  # a study's folder, or one that has them: its result is taken over first
    repeat: str = ""  # likewise; the stored result stays, and this run is noted beside it


def page(results: Sequence[Result]) -> str:
    """The whole page: the claims, a table of all results, then a section for each study."""
    rows = [
        (
            *(f"`{r['name']}`", r["question"], r["source"], r["agrees"], r["number"]),
            *(text(r[name]) if r[name] is not None else "" for name in ("exponent", "lr_steps")),
            link(r),
        )
        for r in results
    ]
    heading = ("study", "question", "the source says", "agrees", "one number", "E", "lr T", "link")
    below = "\n\n".join([table(heading, rows), *map(section, results)])
    return HEAD + claims.section(results) + HOW + below + "\n"


def section(result: Result) -> str:
    """The picture of one result, its numbers, and how it was made."""
    name, size, versions = result["name"], result["size"], result["versions"]
    rows = [(label, text(value)) for label, value in result["numbers"].items()]
    python = versions["python"] or "unknown"
    parts = [
        f"Size {size}, {result['seeds']} seeds, {result['cpu_seconds'] / 60:.1f} CPU minutes",
        *filter(None, [result.get("dose")]),
        f"commit {result['commit']}, jax {versions['jax']}, Python {python}",
    ]
    picture = f"![{result['question']}](results/{name}-{size}.png)"
    answer = f"{result['question']} Agrees with the source: {result['agrees']}. {result['remark']}"
    return "\n\n".join(
        [
            f"## {title(result)}",
            f"{answer.strip()} [Settings]({name}.py).",
            result.get("no_picture", picture),
            f"Measured: {result['measured']}.",
            table(("case", "value"), rows),
            f"{'; '.join(parts)}.",
            *again(result),
        ]
    )


def again(result: Result) -> list[str]:
    """A line about each other run of a study with the same settings, if there are any.

    >>> run = {"date": "2026-12-01", "commit": "0a1b2c3", "agrees": "yes", "cpu_seconds": 31.2}
    >>> again({"repeats": [run | {"number": "loss 1.3", "remark": "Lower: yes."}]})
    ['Another run on 2026-12-01 (commit 0a1b2c3, 31 CPU seconds): yes. loss 1.3. Lower: yes.']
    """
    return [
        f"Another run on {run['date']} (commit {run['commit']}, {run['cpu_seconds']:.0f} CPU "
        f"seconds): {run['agrees']}. {run['number']}. {run['remark']}".strip()
        for run in result.get("repeats", [])
    ]


def title(result: Result) -> str:
    """The heading of a result.

    >>> title({"name": "sphere", "size": "tiny"}), title({"name": "sphere", "size": "paper"})
    ('sphere', 'sphere, paper')
    """
    return result["name"] + ("" if result["size"] == "tiny" else f", {result['size']}")


def link(result: Result) -> str:
    """A link to the section of a result."""
    return f"[{result['size']}](#{claims.anchor(result)})"


def text(value: Any) -> str:
    """A number of a result.

    >>> text([1.0, 3.0]), text(0.5), text("2 ± 1.4")  # Of an earlier run only the text is known.
    ('2 ± 1.4', '0.5', '2 ± 1.4')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        fields: dict[str, Any] = {k: math.nan if v is None else v for k, v in value.items()}
        return str(Separability(**fields))
    return spread(value)


def main(argv: Sequence[str]) -> int:
    """Writes the page; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.studies.table")
        if flags.add:
            take_over(Path(flags.add))
        if flags.repeat:
            note(Path(flags.repeat))
        results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
        claims.save(results, RESULTS)
        PAGE.write_text(page(results))
        print(f"wrote {PAGE}")
    except (UserError, OSError) as error:
        return fail(error)
    return 0


def take_over(folder: Path) -> None:
    """Copies each result under a folder, and its picture, into the repository."""
    RESULTS.mkdir(exist_ok=True)
    for path in results_under(folder):
        shutil.copy(path, RESULTS)
        shutil.copy(path.with_suffix(".png"), RESULTS)


def note(folder: Path) -> None:
    """Adds each run under a folder to the repeats of the stored result."""
    for path in results_under(folder):
        stored = RESULTS / path.name
        if not stored.exists():
            raise UserError(f"no result {stored.name} is stored to repeat: use --add {path.parent}")
        result, run = (json.loads(p.read_text()) for p in (stored, path))
        result["repeats"] = [*result.get("repeats", []), {name: run[name] for name in REPEATED}]
        stored.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def results_under(folder: Path) -> list[Path]:
    """The results of all studies in a folder."""
    found = sorted(p for size in get_args(Size) for p in folder.glob(f"**/*-{size}.json"))
    if not found:
        raise UserError(f"no result under {folder}: run a study first")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
