"""Heat maps of a sweep: how far each point is above the best, and where that is."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from wdlab.sweep.figures import new_figure, panels, save, spaced
from wdlab.sweep.surface import Separability, loss_surface, separability
from wdlab.sweep.table import Table

_NEAR = 0.01  # of the best: what the line of a heat map surrounds
_CLIPPED = 75  # per cent of the points have a colour of their own, the worst share the last one
_MOST_TICKS, _MOST_COLUMNS = 12, 3
_MARKS: dict[str, dict[str, Any]] = {
    "star": {"marker": "*", "s": 200, "color": "white", "edgecolors": "black", "zorder": 3},
    "circle": {"marker": "o", "s": 22, "color": "white", "edgecolors": "black", "zorder": 2},
    "cross": {"marker": "x", "s": 30, "color": "black"},
}


def save_heat_maps(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    metric: str = "val_loss",
    x: str = "learning_rate",
    y: str = "weight_decay",
) -> list[Path]:
    """Draws :func:`heat_maps` as ``heat_maps.png`` and ``.svg``.

    Args:
      table: Of a sweep.
      folder: Exists.
      metric: Column to show; smaller is better.
      x: Column for the horizontal axis.
      y: Column for the vertical axis.

    Returns:
      The files.

    Raises:
      ValueError: If matplotlib is not installed, a column is missing, or nothing converged.

    >>> save_heat_maps(Table(("x",), {"x": np.ones(1)}), ".", metric="loss")
    Traceback (most recent call last):
    ValueError: no column 'learning_rate'; there are x.
    """
    figure = heat_maps(table, metric=metric, x=x, y=y)
    return save(figure, folder, "heat_maps")


def heat_maps(
    table: Table, *, metric: str = "val_loss", x: str = "learning_rate", y: str = "weight_decay"
) -> Any:
    """The mean over seeds as colours, a panel per coupling or other axis.

    All panels share one scale: how far a point is above the best of all, with the worst quarter in
    one colour. (Viridis: its lightness alone is monotonic, so it prints in grey.) Panels need not
    share their values of ``x`` and ``y``.

    Args:
      table: Of a sweep.
      metric: Column to show; smaller is better.
      x: Column for the horizontal axis.
      y: Column for the vertical axis.

    Returns:
      A ``matplotlib.figure.Figure``.

    Raises:
      ValueError: As :func:`save_heat_maps`.

    >>> heat_maps(Table(("x",), {"x": np.ones(1)}), metric="loss")
    Traceback (most recent call last):
    ValueError: no column 'learning_rate'; there are x.
    """
    parts = panels(table, x, y)
    surfaces = [loss_surface(part, metric, x, y) for _, part in parts]
    means = [losses.mean(0) for *_, losses in surfaces]
    finite = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    if not finite.size:
        raise ValueError(f"{metric}: nothing to draw, every point diverged.")
    best = finite.min()
    columns = min(len(parts), _MOST_COLUMNS)
    rows = -(-len(parts) // columns)
    figure = new_figure(4.4 * columns + 0.8, 4.1 * rows + 0.4)
    from matplotlib.colors import PowerNorm

    top = np.percentile(finite - best, _CLIPPED) or (finite - best).max() or 1.0
    norm = PowerNorm(0.5, 0.0, top)
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, part), (xs, ys, _), mean in zip(
        all_axes, parts, surfaces, means, strict=False
    ):
        image = _heat_map(axes, xs, ys, mean, best, norm)
        found = f"best {mean.min():.4g}" if np.isfinite(mean).any() else "every point diverged"
        number = separability(part, metric=metric, learning_rate=x, weight_decay=y)
        lines = [": ".join(filter(None, (title, found))), _power(number, x, y)]
        axes.set_title("\n".join(lines), fontsize=8)
        axes.set_xlabel(spaced(x))
        axes.set_ylabel(spaced(y))
    for axes in all_axes[len(parts) :]:
        axes.remove()
    label = f"{spaced(metric)} above the best, {best:.4g}"
    figure.colorbar(
        image, ax=list(all_axes[: len(parts)]), label=label, extend="max", aspect=20 * rows
    )
    _explain(figure, x, y, spaced(metric), columns=2 if columns == 1 else 4)
    return figure


def _heat_map(axes: Any, xs: Any, ys: Any, mean_XxY: Any, lowest: float, norm: Any) -> Any:
    good_XxY = np.isfinite(mean_XxY)
    shown = np.where(good_XxY, mean_XxY - lowest, np.nan).T
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", norm=norm)
    if good_XxY.any():
        best = mean_XxY.min()
        rows = np.flatnonzero(good_XxY.any(1))
        axes.scatter(rows, mean_XxY[rows].argmin(1), **_MARKS["circle"])
        axes.scatter(*np.unravel_index(mean_XxY.argmin(), mean_XxY.shape), **_MARKS["star"])
        axes.add_collection(_outline(mean_XxY <= best + _NEAR * abs(best)))
    axes.scatter(*np.nonzero(~good_XxY), **_MARKS["cross"])
    for set_ticks, values in ((axes.set_xticks, xs), (axes.set_yticks, ys)):
        some = np.arange(0, len(values), -(-len(values) // _MOST_TICKS))
        set_ticks(some, [f"{values[k]:.2g}" for k in some], fontsize=7)
    axes.tick_params(axis="x", rotation=60)
    return image


def _outline(inside_XxY: np.ndarray) -> Any:
    """The borders of the cells that are inside, drawn as they are and not through their middles."""
    from matplotlib.collections import LineCollection

    padded = np.pad(inside_XxY, 1)
    lines = []
    for cell in np.argwhere(inside_XxY):
        for step in np.array([(0, 1), (0, -1), (1, 0), (-1, 0)]):
            if not padded[*(cell + 1 + step)]:
                lines.append([cell + (step - step[::-1]) / 2, cell + (step + step[::-1]) / 2])
    return LineCollection(lines, colors="white", linewidths=2, clip_on=False)


def _power(number: Separability, x: str, y: str) -> str:
    """What a heat map says of its number.

    >>> _power(Separability(-0.5, np.nan, np.nan, 5, 0, 0), "lr", "decay")
    'best decay ~ lr^-0.50'
    """
    if np.isnan(number.slope):
        return f"slope of the best {spaced(y)}: not identified"
    interval = "" if np.isnan(number.low) else f" [{number.low:+.2f}, {number.high:+.2f}]"
    return f"best {spaced(y)} ~ {spaced(x)}^{number.slope:+.2f}{interval}"


def _explain(figure: Any, x: str, y: str, metric: str, *, columns: int) -> None:
    """The legend of the marks, below all panels."""
    from matplotlib.lines import Line2D

    texts = {
        "star": f"best {metric}, mean over seeds",
        "circle": f"best {spaced(y)} for this {spaced(x)}",
        "cross": "diverged for a seed",
    }
    handles = [figure.axes[0].scatter([], [], **_MARKS[k], label=text) for k, text in texts.items()]
    near = Line2D([], [], color="white", linewidth=2, label=f"within {_NEAR:.0%} of the best")
    figure.legend(
        handles=[*handles, near],
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        facecolor="0.7",
    )
