"""The README's results table, from the summaries of the studies that have been run.

``python -m examples.studies.table [--out_dir out/studies]`` prints it as Markdown.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.runs.errors import UserError, fail
from examples.runs.flags import parse_dataclass


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the table."""

    out_dir: str = "out/studies"  # where the studies left their folders


def markdown(summaries: Sequence[dict[str, Any]]) -> str:
    """One row per study.

    >>> print(markdown([dict(name="a", question="q", source="s", measured="m", agrees="yes",
    ...     remark="", size="tiny", cpu_seconds=61.0, commit="abc")]))
    | study | question | the source reports | measured here | agrees |
    |---|---|---|---|---|
    | `a` (tiny, 1 CPU min, abc) | q | s | m | yes |
    """
    lines = ["| study | question | the source reports | measured here | agrees |", "|" + "---|" * 5]
    for s in summaries:
        run = f"`{s['name']}` ({s['size']}, {s['cpu_seconds'] / 60:.0f} CPU min, {s['commit']})"
        verdict = f"{s['agrees']}. {s['remark']}" if s["remark"] else s["agrees"]
        cells = (run, s["question"], s["source"], s["measured"], verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Prints the table; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.studies.table")
        paths = sorted(Path(flags.out_dir).glob("*/summary.json"))
        if not paths:
            raise UserError(f"no summary.json under {flags.out_dir}: run a study first")
        print(markdown([json.loads(path.read_text()) for path in paths]))
    except (UserError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
