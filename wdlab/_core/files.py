"""Files that are whole at every moment."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file to write, which takes the place of ``path`` at the end, all at once.

    Whoever reads ``path`` finds the old content or the new, whole, also after a crash. Where
    writing fails nothing is left behind.

    Args:
      path: The file to replace; it may not exist yet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "file"
    ...     with replacing(path) as part:
    ...         _ = part.write_text("old")
    ...     with contextlib.suppress(OSError), replacing(path) as part:
    ...         _ = part.write_text("half of the new")
    ...         raise OSError("disk full")
    ...     path.read_text(), len(os.listdir(folder))
    ('old', 1)
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # Of several processes each its own.
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
