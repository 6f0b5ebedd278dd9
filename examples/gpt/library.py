"""The source code of Python's own standard library: a text of 12 MB that is on every machine."""

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from examples.runs.errors import UserError

from .data import Dataset, encode_characters

TRAINING_PERCENT = 99
_NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
_OF_THE_BUILD = ("_sysconfigdata", "config-")  # They name folders of the machine.


def text(root: Path | None = None) -> str:
    """Every module, in the order of their paths; characters outside ASCII become escapes.

    Args:
      root: The library's folder; None: this Python's.

    Raises:
      UserError: If there is no module, or one that cannot be read.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    parts = []
    for path in files(root):
        try:
            with tokenize.open(path) as file:  # In the encoding that the module declares.
                parts.append(file.read())
        except (SyntaxError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as Python: {error}") from None
    if not parts:
        raise UserError(f"no .py files in {root}: this Python has its standard library elsewhere")
    return "\n".join(parts).encode("ascii", "backslashreplace").decode()


def files(root: Path) -> Iterator[Path]:
    """The modules, without tests, installed packages and what the build wrote for itself."""
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if not _NOT_THE_LIBRARY & set(parts) and not parts[0].startswith(_OF_THE_BUILD):
            yield path


def digest(written: str) -> str:
    """SHA-256 of a text: two machines with the same digest have the same data."""
    return hashlib.sha256(written.encode()).hexdigest()


def dataset(root: Path | None = None) -> Dataset:
    """The library by characters, 99 % for training, without a file."""
    characters, tokens = encode_characters(text(root))
    cut = len(tokens) * TRAINING_PERCENT // 100
    return Dataset(tokens[:cut], tokens[cut:], len(characters), characters)
