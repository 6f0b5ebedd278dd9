"""Where the results of a run go, and which run a command means."""

import itertools
import tempfile
from pathlib import Path

from . import processes
from .errors import UserError


def choose(name: str, out_dir: str, resume: bool, parent: str = "out") -> Path:
    """The folder of this run, the same in all of its processes; it may not exist yet.

    With an empty ``out_dir`` every new run gets its own in ``parent``: <name>, <name>-2, ...; and
    ``resume`` means the newest of them.

    Raises:
      UserError: If ``out_dir`` holds a run that this one would overwrite.
    """
    return Path(processes.agree(lambda: str(_find(name, out_dir, resume, parent))))


def _find(name: str, out_dir: str, resume: bool, parent: str) -> Path:
    if out_dir:
        folder = Path(out_dir)
        if holds_run(folder) and not resume:
            raise UserError(
                f"--out_dir {folder} already holds a run: add --resume to continue it, or write "
                "another --out_dir"
            )
        return folder
    first = Path(parent) / name
    numbered = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
    folder, newest = first, first
    while holds_run(folder):
        newest, folder = folder, next(numbered)
    return newest if resume else folder


def holds_run(folder: Path) -> bool:
    """Whether a run has left its records or checkpoints there."""
    return (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()


def make(folder: Path) -> Path:
    """Makes the folder and tries whether it can be written to.

    Raises:
      UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to --out_dir {folder}: {error.strerror}") from None
    return folder
