"""Every study, one after another: ``python -m examples.studies.all --size tiny``.

It fails where an answer is none of those stored, after all have run: of the result that is shown
and of other runs with its settings, since some answers hang on the processor. Each study goes on
with what is missing in its folder, out/studies/NAME-SIZE.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from examples import studies as package
from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass

from .study import Flags, Study, for_small_programs, run
from .table import RESULTS


def studies() -> list[Study]:
    """All studies, by name: every module of this folder that has one.

    >>> [study.name for study in studies()][:2]
    ['adafactor_parts', 'adam_epsilon']
    """
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [module.STUDY for module in modules if hasattr(module, "STUDY")]


def stored(name: str, size: str) -> list[str]:
    """The stored answers of a study: the one that is shown first, then those of its repeats."""
    path = RESULTS / f"{name}-{size}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    runs = [result, *result.get("repeats", [])]
    return list(dict.fromkeys(run["agrees"] for run in runs))


def main(argv: Sequence[str]) -> int:
    """Runs all that have the size; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.studies.all")
        changed = []
        for_small_programs(flags.size)
        for study in studies():
            if flags.size not in study.sizes:
                continue
            name = f"{study.name}-{flags.size}"
            found = run(study, flags.size, Path(flags.out_dir or "out/studies") / name).agrees
            before = stored(study.name, flags.size)
            if before and found not in before:
                known = " and ".join(map(repr, before))
                changed.append(f"{study.name} answers {found!r}, stored is {known}")
        if changed:
            raise UserError("; ".join(changed))
    except (UserError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
