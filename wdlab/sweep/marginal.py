"""Marginal curves of a sweep: the best loss for each value of one hyper-parameter."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wdlab.sweep.figures import new_figure, panels, save, spaced
from wdlab.sweep.surface import loss_surface
from wdlab.sweep.table import Table

_LINES = ("-", "--", ":", "-.", (0, (5, 1)))
_MARKERS = ("o", "s", "^", "D", "v")
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")  # Okabe and Ito's, for all eyes.


def save_marginals(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    metric: str = "val_loss",
    names: Sequence[str] = ("learning_rate", "weight_decay"),
) -> list[Path]:
    """Draws ``marginals.png`` and ``.svg``: the best loss for each value of one hyper-parameter.

    Lines are means over seeds of the best over all values of the others; bands run from the
    smallest to the largest seed at the same points; crosses at the top are values that diverged
    for a seed wherever the others were. A value of 0 stands left of the logarithmic axis.

    Args:
      table: Of a sweep.
      folder: Exists.
      metric: Column to show.
      names: The hyper-parameters, one or two.

    Returns:
      The files.

    Raises:
      ValueError: As :func:`save_heat_maps`.

    >>> save_marginals(Table(("x",), {"x": np.ones(1)}), ".", metric="loss")
    Traceback (most recent call last):
    ValueError: no column 'learning_rate'; there are x.
    """
    return save(marginals(table, metric=metric, names=names), folder, "marginals")


def marginals(table: Table, *, metric: str, names: Sequence[str]) -> Any:
    """The figure of :func:`save_marginals`.

    >>> marginals(Table(("x",), {"x": np.ones(1)}), metric="loss", names=["x"])
    Traceback (most recent call last):
    ValueError: no column 'seed'; there are x.
    """
    parts = [(t, *loss_surface(part, metric, *names)) for t, part in panels(table, *names)]
    figure = new_figure(5 * len(names), 4)
    all_axes = figure.subplots(1, len(names), squeeze=False)[0]
    for i, (axes, name) in enumerate(zip(all_axes, names, strict=True)):
        seen = [
            _curve(axes, values[i], np.moveaxis(losses, i + 1, 1), title, k)
            for k, (title, *values, losses) in enumerate(parts)
        ]
        _scale(axes, np.concatenate([part[1 + i] for part in parts]), np.concatenate(seen))
        others = "".join(f" (any {spaced(n)})" for n in names if n != name)
        axes.set_xlabel(spaced(name))
        axes.set_ylabel(f"best {spaced(metric)}{others}")
        axes.grid(alpha=0.3)
    all_axes[0].scatter([], [], marker="x", s=30, color="black", label="diverged for a seed")
    all_axes[0].legend(fontsize=8)
    return figure


def _curve(axes: Any, values: Any, losses_SxAxB: Any, title: str, k: int) -> np.ndarray:
    """Draws one line; its finite values."""
    losses_SxAxB = losses_SxAxB.reshape(*losses_SxAxB.shape[:2], -1)
    best_A = losses_SxAxB.mean(0).argmin(1)
    curves_SxA = losses_SxAxB[:, np.arange(len(values)), best_A]
    keep = np.isfinite(curves_SxA).all(0)
    x, curves_SxA, lost = values[keep], curves_SxA[:, keep], values[~keep]
    color, other = _COLORS[k % 5], (k + k // 5) % 5  # 25 looks in all.
    look = {"color": color, "marker": _MARKERS[other], "linestyle": _LINES[other], "markersize": 4}
    axes.plot(x, curves_SxA.mean(0), label=title or "mean over seeds", **look)
    axes.fill_between(x, curves_SxA.min(0), curves_SxA.max(0), color=color, alpha=0.15)
    axes.update_datalim([(value, 0.0) for value in lost], updatey=False)
    top = axes.get_xaxis_transform()  # x in data, y as a share of the height
    axes.scatter(lost, np.full(len(lost), 0.97), marker="x", s=30, color=color, transform=top)
    return curves_SxA.ravel()


def _scale(axes: Any, values: np.ndarray, losses: np.ndarray) -> None:
    """Logarithmic axes where the numbers allow, so that nothing falls out of the picture."""
    if values.min() > 0:
        axes.set_xscale("log")
    elif values.min() == 0 < values.max():
        axes.set_xscale("symlog", linthresh=values[values > 0].min(), linscale=0.5)
    if losses.size and 0 < 4 * losses.min() < losses.max():
        axes.set_yscale("log")
