"""Pictures that are kept in the repository: small files."""

import io
import os

from matplotlib.figure import Figure
from PIL import Image


def save_small(figure: Figure, path: str | os.PathLike[str], dpi: int = 90) -> None:
    """Writes a PNG of at most 256 colors, half the size of the usual one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_small(Figure(), f"{folder}/empty.png")
    ...     len(Image.open(f"{folder}/empty.png").getcolors())
    1
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)
