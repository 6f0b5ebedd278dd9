"""Where the results of a run go, and which run a command means."""

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wdlab._core.files import replacing

from . import processes
from .errors import UserError

_PROBE = bytes(1 << 16)  # Less than any run writes; enough to see a disk that is full.


def choose(program: str, name: str, out_dir: str, resume: bool, *, several: bool = False) -> Path:
    """The folder of this run, the same in all of its processes; it may not exist yet.

    Every new run gets its own: out/<program>/<name>, <name>-2, ...; and ``resume`` means the newest
    of them.

    Args:
      program: Whose run it is.
      name: Of the run, which may be that of a folder.
      out_dir: The run's folder itself; with ``several`` the folder in which runs get their own.
      resume: Whether the run is there already.
      several: See ``out_dir``.

    Raises:
      UserError: If ``out_dir`` holds a run that this one would overwrite, or another program's.
    """
    check_name("the run's name", name)
    return Path(processes.agree(lambda: str(_find(program, name, out_dir, resume, several))))


def check_name(what: str, name: str) -> None:
    """Refuses a name whose folder would lie elsewhere.

    >>> check_name("--name", "../..")
    Traceback (most recent call last):
    UserError: --name '../..' must be the name of a folder, without / and not ..
    """
    if not name or name in (".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise UserError(f"{what} {name!r} must be the name of a folder, without / and not ..")


def _find(program: str, name: str, out_dir: str, resume: bool, several: bool) -> Path:
    if out_dir and not several:
        folder = Path(out_dir)
        if holds_run(folder) and not resume:
            raise UserError(
                f"--out_dir {folder} already holds a run: add --resume to continue it, or write "
                "another --out_dir"
            )
        if (owner := settings_of(folder).get("program", program)) != program:
            raise UserError(f"--out_dir {folder} holds a run of {owner}, not of {program}")
        return folder
    first = Path(out_dir or Path("out") / program) / name
    numbered = (first.with_name(f"{name}-{i}") for i in itertools.count(2))
    folder, newest = first, first
    while holds_run(folder):
        about = {"program": program, "name": name}
        if about.items() <= (about | settings_of(folder)).items():  # Else of a run named NAME-2.
            newest = folder
        folder = next(numbered)
    return newest if resume else folder


def holds_run(folder: Path) -> bool:
    """Whether a run has left its records or checkpoints there."""
    return (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()


def settings_of(folder: Path) -> dict:
    """What ``config.json`` says of the run in the folder; nothing where it cannot be read."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make(folder: Path) -> Path:
    """Makes the folder and tries whether it can be written to.

    Raises:
      UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as error:
        raise UserError(f"cannot write to --out_dir {folder}: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file that cannot be written, and what to do.

    >>> with writing(Path("out/run/metrics.jsonl")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    UserError: out/run/metrics.jsonl cannot be written: No space left on device. Mend that...
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"{path} cannot be written: {why}. Mend that, then --resume goes on from the newest "
            "checkpoint"
        ) from None


def write(path: Path, text: str) -> None:
    """Replaces a text file, all at once."""
    with writing(path), replacing(path) as part:
        part.write_text(text, "utf-8")
