"""Pictures: of a run, and small files that are kept in the repository."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image

Panels = Mapping[str, Mapping[str, str | None]]  # label -> {column: name of the curve}
_LOGARITHMIC = ("cross-entropy", "curvature", "rotation", "balance")  # How such labels begin.
_AT_EQUILIBRIUM_1 = "balance"
_PANELS_IN_A_ROW = 4
_NOISY = "batch_loss"


def save_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, title: str, panels: Panels, axis: str
) -> None:
    """Draws the rows of ``metrics.jsonl`` into a PNG; panels without a curve are left out.

    Args:
      rows: The records.
      path: The file.
      title: Of the picture.
      panels: What each one shows.
      axis: The column along the horizontal axis.
    """
    found = {column for row in rows for column in row}
    shown = {label: curves for label, curves in panels.items() if found & curves.keys()}
    columns = min(max(1, len(shown)), _PANELS_IN_A_ROW)
    rows_of_panels = -(-max(1, len(shown)) // columns)
    figure = Figure(figsize=(4 * columns, 3.6 * rows_of_panels), layout="constrained")
    figure.suptitle(title)
    for i, (label, curves) in enumerate(shown.items()):
        axes = figure.add_subplot(rows_of_panels, columns, i + 1)
        for column, name in curves.items():
            points = [(row[axis], row[column]) for row in rows if column in row]
            style: dict[str, Any] = (
                {"linewidth": 0.6, "alpha": 0.5} if column == _NOISY else {"marker": "."}
            )
            axes.plot(*zip(*points, strict=True), label=name, **style) if points else None
        axes.set(xlabel=axis, ylabel=label)
        if label.startswith(_LOGARITHMIC):
            axes.set_yscale("log", nonpositive="mask")  # A first step at rate 0 turns nothing.
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
        axes.grid(alpha=0.3)
        if label.startswith(_AT_EQUILIBRIUM_1):
            axes.axhline(1, color="gray", linewidth=0.7)
        if any(curves.values()):
            axes.legend()
    figure.savefig(path, dpi=120)


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
