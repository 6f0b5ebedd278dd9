"""Pictures of a sweep: heat maps with the optimum and its surroundings, and marginal curves."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wdlab.sweep.surface import loss_surface, separability
from wdlab.sweep.table import Table

_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", (0, (5, 1))))
_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#000000",
)  # Okabe and Ito's, colour-blind safe


def panels(table: Table, x: str, y: str) -> list[tuple[str, Table]]:
    """One table for each combination of the axes that a picture does not show.

    >>> columns = {"c": np.array(["l2", "lr"]), "x": np.ones(2), "y": np.ones(2)}
    >>> [title for title, part in panels(Table(("c", "x", "y"), columns), "x", "y")]
    ['c = l2', 'c = lr']
    """
    others = [name for name in table.axes if name not in (x, y)]
    values = [list(dict.fromkeys(table[name].tolist())) for name in others]
    found = []
    for combination in itertools.product(*values):
        fixed = dict(zip(others, combination, strict=True))
        title = ", ".join(f"{name} = {_short(value)}" for name, value in fixed.items())
        found.append((title, table.where(**fixed)))
    return found


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def save_heat_maps(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    metric: str = "val_loss",
    x: str = "learning_rate",
    y: str = "weight_decay",
) -> list[Path]:
    """Draws ``heat_maps.png`` and ``.svg``: the mean over seeds, a panel per coupling.

    A star marks the best point, the line surrounds all within 1 % of it, small circles mark the
    best ``y`` for each ``x``, crosses what diverged for a seed. All panels share one colour scale
    (viridis: its lightness alone is monotonic, so it prints in grey).

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
    return _save(figure, folder, "heat_maps")


def heat_maps(
    table: Table, *, metric: str = "val_loss", x: str = "learning_rate", y: str = "weight_decay"
) -> Any:
    """The figure of :func:`save_heat_maps`, for whoever keeps it elsewhere.

    Panels need not share their values of ``x`` and ``y``.

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
    parts = [
        (title, part, *loss_surface(part, metric, x, y)) for title, part in panels(table, x, y)
    ]
    means = [losses.mean(0) for _, _, _, _, losses in parts]
    finite = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    if not finite.size:
        raise ValueError(f"{metric}: nothing to draw, every point diverged.")
    from matplotlib.colors import LogNorm, Normalize

    kind = LogNorm if finite.min() > 0 else Normalize
    norm = kind(finite.min(), finite.max())
    columns = min(len(parts), 3)
    rows = -(-len(parts) // columns)
    figure = _figure((4.6 * columns + 0.8, 4.6 * rows))
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in all_axes[len(parts) :]:
        spare.set_axis_off()
    image = None
    for axes, (title, part, xs, ys, _), mean in zip(all_axes, parts, means, strict=False):
        image = _heat_map(axes, xs, ys, mean, norm)
        lines = [title, f"best {mean.min():.4g}"]
        for of in ("best", "shoulder"):
            number = separability(part, metric=metric, learning_rate=x, weight_decay=y, of=of)
            lines += [f"separability ({of}) " + str(number).replace(" (", "\n(")]
        axes.set_title("\n".join(lines), fontsize=8)
        axes.set_xlabel(x.replace("_", " "))
        axes.set_ylabel(y.replace("_", " "))
    figure.colorbar(image, ax=list(all_axes), label=metric.replace("_", " "))
    return figure


def _heat_map(axes: Any, xs: Any, ys: Any, mean_XxY: Any, norm: Any) -> Any:
    i, j = np.arange(len(xs)), np.arange(len(ys))
    shown = np.where(np.isfinite(mean_XxY), mean_XxY, np.nan).T
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", norm=norm)
    best = mean_XxY.min()
    edge = {"colors": "white", "linewidths": 1.5}
    # With a finite level beyond the grid's reach in place of inf, which contour cannot follow.
    filled = np.where(np.isfinite(mean_XxY), mean_XxY, 10 * abs(best) + 10).T
    if min(filled.shape) > 1 and filled.max() > best + 0.01 * abs(best):
        axes.contour(i, j, filled, levels=[best + 0.01 * abs(best)], **edge)
    rows = np.argmin(mean_XxY, axis=1)
    some = np.isfinite(mean_XxY).any(axis=1)
    circle = {"facecolors": "none", "edgecolors": "white", "s": 30}
    axes.scatter(i[some], rows[some], **circle)
    top = np.unravel_index(np.argmin(mean_XxY), mean_XxY.shape)
    axes.scatter(*top, marker="*", s=260, color="white", edgecolors="black", zorder=3)
    axes.scatter(*np.nonzero(~np.isfinite(mean_XxY)), marker="x", color="black", s=30)
    axes.set_xticks(i, [f"{value:.2g}" for value in xs], rotation=60, fontsize=7)
    axes.set_yticks(j, [f"{value:.2g}" for value in ys], fontsize=7)
    return image


def save_marginals(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    metric: str = "val_loss",
    names: Sequence[str] = ("learning_rate", "weight_decay"),
) -> list[Path]:
    """Draws ``marginals.png`` and ``.svg``: the best loss for each value of one hyper-parameter.

    Lines are means over seeds of the best over all values of the other; bands run from the
    smallest to the largest seed at the same points.

    Args:
      table: Of a sweep.
      folder: Exists.
      metric: Column to show.
      names: The two hyper-parameters.

    Returns:
      The files.

    Raises:
      ValueError: As :func:`save_heat_maps`.

    >>> save_marginals(Table(("x",), {"x": np.ones(1)}), ".", metric="loss")
    Traceback (most recent call last):
    ValueError: no column 'learning_rate'; there are x.
    """
    x, y = names
    parts = [(title, *loss_surface(part, metric, x, y)) for title, part in panels(table, x, y)]
    figure = _figure((10, 4))
    left, right = figure.subplots(1, 2)
    top = 0.0
    for k, (title, xs, ys, losses_SxXxY) in enumerate(parts):
        for axes, values, losses in (
            (left, xs, losses_SxXxY),
            (right, ys, np.swapaxes(losses_SxXxY, 1, 2)),
        ):
            top = max(top, _marginal(axes, values, losses, title, k))
    low = min(losses.mean(0).min() for _, _, _, losses in parts)
    for axes, name in ((left, x), (right, y)):
        axes.set_xscale("log")
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel(f"best {metric.replace('_', ' ')} over the other")
        axes.set_ylim(low - 0.05 * abs(low), min(top, 4 * low) if low > 0 else None)
        axes.grid(alpha=0.3)
    if len(parts) > 1:
        left.legend(fontsize=8)
    return _save(figure, folder, "marginals")


def _marginal(axes: Any, values: Any, losses_SxAxB: Any, title: str, k: int) -> float:
    best = np.argmin(losses_SxAxB.mean(0), axis=1)
    curves_SxA = losses_SxAxB[:, np.arange(len(values)), best]
    keep = np.isfinite(curves_SxA).all(0) & (np.asarray(values) > 0)
    marker, line = _STYLES[k % len(_STYLES)]
    look = {"marker": marker, "linestyle": line, "color": _COLORS[k % len(_COLORS)]}
    x, curves_SxA = np.asarray(values)[keep], curves_SxA[:, keep]
    axes.plot(x, curves_SxA.mean(0), label=title, markersize=4, **look)
    axes.fill_between(x, curves_SxA.min(0), curves_SxA.max(0), color=look["color"], alpha=0.15)
    return float(curves_SxA.max()) if curves_SxA.size else 0.0


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "pictures need matplotlib, which is not installed: pip install 'wdlab[examples]'."
        ) from None
    return Figure(figsize=size, layout="constrained")


def _save(figure: Any, folder: str | os.PathLike[str], name: str) -> list[Path]:
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=130)
    return paths
