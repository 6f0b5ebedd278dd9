"""Every study, one after another: ``python -m examples.studies.all --size tiny``.

It fails where an answer is another than the stored one, after all have run. Each study goes on with
what is missing in its folder, out/studies/NAME-SIZE.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass

from .study import Flags, Study, run
from .table import RESULTS

_SHARED = ("all", "digits", "dose", "grids", "images", "language", "paired", "rows", "study")
_OTHERS = (*_SHARED, "sweep", "table", "__init__")


def studies() -> list[Study]:
    """All studies, by name.

    >>> [study.name for study in studies()][:2]
    ['adafactor_parts', 'adam_epsilon']
    """
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _OTHERS)
    return [importlib.import_module(f"examples.studies.{name}").STUDY for name in names]


def stored(name: str, size: str) -> str | None:
    """The stored answer of a study, if there is one."""
    path = RESULTS / f"{name}-{size}.json"
    return json.loads(path.read_text())["agrees"] if path.exists() else None


def main(argv: Sequence[str]) -> int:
    """Runs all that have the size; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.studies.all")
        changed = []
        for study in studies():
            if flags.size not in study.sizes:
                continue
            name = f"{study.name}-{flags.size}"
            found = run(study, flags.size, Path(flags.out_dir or "out/studies") / name).agrees
            before = stored(study.name, flags.size)
            if before not in (None, found):
                changed.append(f"{study.name} answers {found!r}, stored is {before!r}")
        if changed:
            raise UserError("; ".join(changed))
    except (UserError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
