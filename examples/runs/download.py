"""Downloads whose content is known by its hash."""

import hashlib
import shutil
import urllib.request
from pathlib import Path

from wdlab._core.files import replacing

from .errors import UserError


def download(url: str, path: Path, sha256: str) -> Path:
    """Downloads ``url`` to ``path`` unless it is there; the hash decides whether it is right.

    Raises:
      UserError: If the network fails, or what came has another hash (nothing is kept then).
    """
    if path.is_file() and hash_of(path) == sha256:
        return path
    try:
        with replacing(path) as part:
            with urllib.request.urlopen(url, timeout=60) as source, open(part, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            found = hash_of(part)
            if found != sha256:
                raise UserError(f"{url} has SHA-256 {found}, expected {sha256}: nothing was kept")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"could not download {url}: {error}") from None
    return path


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
