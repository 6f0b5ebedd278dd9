"""What the pictures of a sweep share: panels, words, figures."""

import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any

from wdlab.sweep.table import Table


def panels(table: Table, *shown: str) -> list[tuple[str, Table]]:
    """One table for each combination of the axes that a picture does not show.

    >>> import numpy as np
    >>> columns = {"c": np.array(["l2", "lr"]), "x": np.ones(2), "y": np.ones(2)}
    >>> [title for title, part in panels(Table(("c", "x", "y"), columns), "x", "y")]
    ['c = l2', 'c = lr']
    """
    others = [name for name in table.axes if name not in shown]
    values = [list(dict.fromkeys(table[name].tolist())) for name in others]
    found = []
    for combination in itertools.product(*values):
        fixed = dict(zip(others, combination, strict=True))
        title = ", ".join(f"{name} = {_short(value)}" for name, value in fixed.items())
        found.append((title, table.where(**fixed)))
    return found


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def spaced(name: str) -> str:
    """A column's name as words.

    >>> spaced("weight_decay")
    'weight decay'
    """
    return name.replace("_", " ")


def require_matplotlib() -> None:
    """Refuses to go on without matplotlib, in one line.

    >>> require_matplotlib()
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "pictures need matplotlib, which is not installed: pip install 'wdlab[examples]'."
        )


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that many inches.

    >>> new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Saves a figure as PNG and SVG.

    >>> import tempfile
    >>> [path.name for path in save(new_figure(1, 1), tempfile.mkdtemp(), "empty")]
    ['empty.png', 'empty.svg']
    """
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=130)
    return paths
